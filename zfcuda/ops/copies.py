"""What ops that make several copies of every image share."""

from __future__ import annotations

import torch
from torch import Tensor

from zfcuda.ops.library import empty


def fill_of(x: Tensor, fill: float | Tensor, with_image: bool) -> Tensor:
    """``fill`` as the kernels take it, on ``x``'s device and of its dtype: [C], or [C,H,W] where an
    image is allowed.

    Raises:
        ValueError: ``x`` is no batch of images, or ``fill`` does not fit it.
    """
    if x.dim() != 4:
        raise ValueError(f"x must be [N,C,H,W], got shape {list(x.shape)}")
    channels = x.shape[1]
    if isinstance(fill, int | float):
        # Made on the device: a copy from the host would wait for it, and break a graph capture.
        fill = torch.full((channels,), fill, dtype=torch.float64, device=x.device)
    elif not isinstance(fill, Tensor):
        fill = torch.as_tensor(fill, dtype=x.dtype)
    fill = fill.to(device=x.device, dtype=x.dtype)
    shapes: tuple[tuple[int, ...], ...] = ((channels,),)
    if with_image:
        shapes += (tuple(x.shape[1:]),)
    if fill.dim() == 0:
        fill = fill.expand(channels)
    if tuple(fill.shape) not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise ValueError(f"fill must be a number or of shape {wanted}, got {list(fill.shape)}")
    return fill.contiguous()


def empty_copies(x: Tensor, copies: int) -> Tensor:
    """[N,copies,C,H,W], each image in x's layout."""
    n, *image = x.shape
    flat = empty(x, (n * copies, *image))
    return flat.unflatten(0, (n, copies))
