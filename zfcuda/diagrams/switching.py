"""A real example of what switches are: windows of a max-pooling, pooled and unpooled."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from zfcuda import ops
from zfcuda.graph.rules import MaxPool, Pair
from zfcuda.inference.checks import to_result
from zfcuda.results.diagram import SwitchExample

__all__ = ["switch_example"]

_BLOCK = 2  # windows a side
_LARGEST = 4  # of windows that are shown two by two; of larger ones, one


def switch_example(name: str, rule: MaxPool, maps: Tensor) -> SwitchExample:
    """The windows around the strongest unit of the pooled maps.

    Args:
        name: of the pooling layer.
        maps: [1,C,H,W], what it is given.
    """
    pooled, switches = ops.max_pool2d(
        maps, rule.kernel, rule.stride, rule.padding, rule.dilation, rule.ceil_mode, rule.relu
    )
    channel, *unit = _strongest(pooled[0])
    first, count = _block(rule, maps[0, channel], switches[0, channel], tuple(unit))
    rows = slice(first[0], first[0] + count[0])
    columns = slice(first[1], first[1] + count[1])
    alone = torch.zeros_like(pooled)
    alone[0, channel, rows, columns] = pooled[0, channel, rows, columns]
    unpooled = ops.max_unpool2d(
        alone, switches, rule.kernel, rule.stride, rule.padding, rule.dilation, maps.shape[2:]
    )
    box = _reach(rule, first, count)
    return SwitchExample(
        name=name,
        channel=channel,
        kernel=rule.kernel,
        stride=rule.stride,
        values=to_result(_crop(maps[0, channel], box)),
        origin=box[:2],
        pooled=to_result(pooled[0, channel, rows, columns]).clone(),
        switches=switches[0, channel, rows, columns].to("cpu", torch.int64),
        first=first,
        unit=(unit[0] - first[0], unit[1] - first[1]),
        unpooled=to_result(_crop(unpooled[0, channel], box)),
        rectified=rule.relu,
    )


def _strongest(maps: Tensor) -> tuple[int, int, int]:
    """(channel, row, column) of the largest value; NaN counts as the smallest."""
    place = int(maps.nan_to_num(-torch.inf).argmax())
    channel, place = divmod(place, maps.shape[1] * maps.shape[2])
    return channel, place // maps.shape[2], place % maps.shape[2]


def _block(rule: MaxPool, plane: Tensor, switches: Tensor, unit: Pair) -> tuple[Pair, Pair]:
    """First window and number of windows of a block that holds the unit; where there is a choice,
    one that needs no padding and whose windows have maxima of their own."""
    side = _BLOCK if max(rule.kernel) <= _LARGEST else 1
    count = (min(side, switches.shape[0]), min(side, switches.shape[1]))
    starts = [
        [s for s in range(at, at - n, -1) if 0 <= s <= length - n]
        for at, n, length in zip(unit, count, switches.shape, strict=True)
    ]

    def cost(first: Pair) -> tuple[int, int]:
        y0, x0, y1, x1 = _reach(rule, first, count)
        outside = [max(0, -y0), max(0, -x0), max(0, y1 - plane.shape[0])]
        outside.append(max(0, x1 - plane.shape[1]))
        return sum(outside), -len(_maxima(rule, switches, first, count))

    return min(product(*starts), key=cost), count


def _maxima(rule: MaxPool, switches: Tensor, first: Pair, count: Pair) -> set[Pair]:
    """The places, in the map below, of these windows' maxima."""
    places = set()
    for row, column in product(*(range(first[i], first[i] + count[i]) for i in (0, 1))):
        tap = divmod(int(switches[row, column]), rule.kernel[1])
        y, x = (
            at * rule.stride[i] - rule.padding[i] + tap[i] * rule.dilation[i]
            for i, at in enumerate((row, column))
        )
        places.add((y, x))
    return places


def _reach(rule: MaxPool, first: Pair, count: Pair) -> tuple[int, int, int, int]:
    """(y0, x0, y1, x1), half open: where these windows lie in the map below."""
    start = [first[i] * rule.stride[i] - rule.padding[i] for i in (0, 1)]
    stop = [
        start[i] + (count[i] - 1) * rule.stride[i] + rule.dilation[i] * (rule.kernel[i] - 1) + 1
        for i in (0, 1)
    ]
    return start[0], start[1], stop[0], stop[1]


def _crop(plane: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """What is in the box, NaN outside the plane."""
    y0, x0, y1, x1 = box
    height, width = plane.shape
    cropped = plane.new_full((y1 - y0, x1 - x0), torch.nan)
    inner = plane[max(y0, 0) : min(y1, height), max(x0, 0) : min(x1, width)]
    top, left = max(-y0, 0), max(-x0, 0)
    cropped[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return cropped
