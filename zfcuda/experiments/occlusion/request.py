"""What was asked for, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from zfcuda.inference.checks import check_input, holds_ints, pair, plain
from zfcuda.inference.passes import memory_limit


def usual_occluder(image_size: tuple[int, int]) -> tuple[int, int]:
    """The occluder's side and its stride in pixels where the caller names none: the paper's 50 and
    8 where the shorter side of the image is 192 to 256, else the same shares of it as of 224."""
    side = min(image_size)
    if 192 <= side <= 256:
        return 50, 8
    return max(1, round(50 * side / 224)), max(1, round(8 * side / 224))


def occluder_grid(
    image_size: tuple[int, int], size: tuple[int, int], stride: tuple[int, int]
) -> tuple[Tensor, tuple[int, int]]:
    """The occluder's boxes int64 [P,4] of (y0, x0, y1, x1), row by row, and the grid's shape.

    Raises:
        ValueError: an occluder or stride larger than the image.
    """
    for name, value in (("size", size), ("stride", stride)):
        if value[0] > image_size[0] or value[1] > image_size[1]:
            raise ValueError(
                f"{name} must be at most the image's height and width {image_size}, got {value}"
            )
    axes = []
    for length, occluder, step in zip(image_size, size, stride, strict=True):
        count = -(-(length - occluder) // step) + 1
        first = torch.arange(count) * step
        first = first[first < length]
        axes.append(torch.stack([first, (first + occluder).clamp_max(length)], dim=1))
    rows, columns = axes
    boxes = torch.empty(len(rows), len(columns), 4, dtype=torch.int64)
    boxes[..., 0::2] = rows[:, None]
    boxes[..., 1::2] = columns
    return boxes.flatten(0, 1), (len(rows), len(columns))


def own_boxes(positions: Tensor, image_size: tuple[int, int]) -> Tensor:
    """The caller's boxes, clipped to the image."""
    if not isinstance(positions, Tensor) or positions.dtype != torch.int64:
        got = positions.dtype if isinstance(positions, Tensor) else type(positions).__name__
        raise TypeError(f"positions must be an int64 tensor [P,4] of (y0, x0, y1, x1), got {got}")
    if positions.dim() != 2 or positions.shape[1] != 4 or len(positions) == 0:
        raise ValueError(
            "positions must be [P,4] of (y0, x0, y1, x1) and not empty, got shape "
            f"{list(positions.shape)}"
        )
    limits = torch.tensor([*image_size, *image_size])
    boxes = plain(positions).detach().cpu().clamp_min(0).minimum(limits)
    empty = (boxes[:, :2] >= boxes[:, 2:]).any(1)
    if bool(empty.any()):
        first = int(empty.nonzero()[0])
        raise ValueError(
            f"position {first}, {positions[first].tolist()} as (y0, x0, y1, x1), hides nothing of "
            f"an image of {image_size[0]}x{image_size[1]} pixels"
        )
    return boxes


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
