"""What was asked for, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from zfcuda.inference.checks import check_input, holds_ints, pair, plain
from zfcuda.inference.passes import memory_limit
from zfcuda.sensitivity.boxes import occluder_grid, own_boxes, usual_occluder

Method = Literal["auto", "cone", "dense"]
_METHODS = ("auto", "cone", "dense")


@dataclass(frozen=True)
class Request:
    """The checked arguments that a plan depends on."""

    boxes: Tensor
    grid: tuple[int, int] | None
    size: tuple[int, int] | None
    stride: tuple[int, int] | None
    method: Method
    limit: int


def checked(
    model: nn.Module,
    x: Tensor,
    size: int | tuple[int, int] | None,
    stride: int | tuple[int, int] | None,
    positions: Tensor | None,
    method: Method,
    max_memory: int | None,
) -> Request:
    """The arguments of :func:`occlusion` that say what is hidden and how it is run.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or out of range.
    """
    check_input(model, x)
    if method not in _METHODS:
        raise ValueError(f"method must be 'auto', 'cone' or 'dense', got {method!r}")
    image_size = (x.shape[2], x.shape[3])
    limit = memory_limit(max_memory, x.device)
    if positions is not None:
        return Request(own_boxes(positions, image_size), None, None, None, method, limit)
    usual_size, usual_stride = usual_occluder(image_size)
    size = pair(usual_size if size is None else size, "size")
    stride = pair(usual_stride if stride is None else stride, "stride")
    boxes, grid = occluder_grid(image_size, size, stride)
    return Request(boxes, grid, size, stride, method, limit)


def kept_classes(classes: object, target: Tensor, count: int) -> Tensor | None:
    """The chosen classes and the targets [N], int64, ascending; None for all."""
    if classes is None:
        return None
    try:
        chosen = plain(torch.as_tensor(classes))
        chosen = chosen.long() if chosen.shape == (0,) else chosen  # none but the targets
    except (TypeError, ValueError, RuntimeError):
        chosen = torch.empty(0)
    if chosen.dim() != 1 or not holds_ints(chosen):
        raise ValueError(f"classes must be ints, one for each class to keep, got {classes!r}")
    chosen = chosen.long()
    if bool(((chosen < 0) | (chosen >= count)).any()):
        raise ValueError(f"classes must be between 0 and {count - 1}, got {classes!r}")
    return torch.cat([chosen.cpu(), target]).unique()
