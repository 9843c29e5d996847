"""Where parts are hidden."""

from __future__ import annotations

import torch
from torch import Tensor


def random_places(
    count: int,
    images: int,
    image_size: tuple[int, int],
    size: tuple[int, int],
    seed: int = 0,
    together: bool = False,
) -> Tensor:
    """Boxes int64 [count,images,4] of one size, uniformly anywhere inside the image.

    Args:
        count: how many draws.
        images: number of images.
        image_size: (H, W), pixels.
        size: (height, width) of the boxes.
        seed: of the draws.
        together: draw one place for all images instead of each its own.

    Raises:
        ValueError: boxes larger than the image.
    """
    if not (0 < size[0] <= image_size[0] and 0 < size[1] <= image_size[1]):
        raise ValueError(f"size must be within the image's {image_size}, got {size}")
    rng = torch.Generator().manual_seed(seed)
    shape = (count, 1 if together else images)
    corners = [
        torch.randint(whole - part + 1, shape, generator=rng)
        for whole, part in zip(image_size, size, strict=True)
    ]
    corner = torch.stack(corners, -1).expand(count, images, 2)
    return torch.cat([corner, corner + torch.tensor(size)], -1)


def placed(name: str, boxes: Tensor, n: int, size: tuple[int, int]) -> Tensor:
    """A part's boxes, int64 [4], [N,4] or [R,N,4], as [R,N,4], clipped to the image of ``size``.

    Raises:
        TypeError: no int64 tensor.
        ValueError: of another shape, or a box that lies outside its image.
    """
    if not isinstance(boxes, Tensor) or boxes.dtype != torch.int64:
        got = boxes.dtype if isinstance(boxes, Tensor) else type(boxes).__name__
        raise TypeError(f"parts[{name!r}] must be an int64 tensor of (y0, x0, y1, x1), got {got}")
    if tuple(boxes.shape) not in ((4,), (n, 4)) and (
        boxes.dim() != 3 or tuple(boxes.shape[1:]) != (n, 4) or len(boxes) == 0
    ):
        raise ValueError(
            f"parts[{name!r}] must have shape [4], [{n}, 4] or [R, {n}, 4], got {list(boxes.shape)}"
        )
    limits = torch.tensor([*size, *size])
    clipped = boxes.detach().cpu().expand(boxes.shape[0] if boxes.dim() == 3 else 1, n, 4)
    clipped = clipped.clamp_min(0).minimum(limits)
    empty = (clipped[..., :2] >= clipped[..., 2:]).any(-1)
    if bool(empty.any()):
        image = int(empty.nonzero()[0, 1])
        raise ValueError(
            f"parts[{name!r}] hides nothing of image {image}, which has {size[0]}x{size[1]} pixels"
        )
    return clipped
