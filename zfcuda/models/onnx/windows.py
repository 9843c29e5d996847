"""ONNX's convolution in torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from zfcuda.models.onnx.call import Call, Layer, Operand, Pads, Table
from zfcuda.models.onnx.layers import AveragePool, Conv2d, with_parameters

Pair = tuple[int, int]

LARGEST = 2**20  # of kernels, strides, dilations and paddings
_LARGEST_MAP = 2**31  # numbers of one image with its padding


@dataclass(frozen=True)
class Window:
    """The windows of a convolution or a pool, (rows, columns).

    Attributes:
        pads: (top, left, bottom, right).
        size: of the map.
        count: how many windows there are.
    """

    kernel: Pair
    stride: Pair
    dilation: Pair
    pads: Pads
    size: Pair
    count: Pair

    @property
    def before(self) -> Pair:
        """The padding above and on the left."""
        return self.pads[:2]

    @property
    def symmetric(self) -> bool:
        return self.pads[:2] == self.pads[2:]

    @property
    def as_if_symmetric(self) -> bool:
        """Whether ``before`` on both sides gives the same windows, since what is padded more (or
        less) below is not reached."""
        return self.count == tuple(self._torchs_count(axis, False) for axis in (0, 1))

    @property
    def torchs_ceil_mode(self) -> bool | None:
        """With which ``ceil_mode`` a torch pool that has ``before`` as its padding has as many
        windows; None: with neither."""
        if any(2 * pad > kernel for pad, kernel in zip(self.before, self.kernel, strict=True)):
            return None
        for ceil in (False, True):
            if self.count == tuple(self._torchs_count(axis, ceil) for axis in (0, 1)):
                return ceil
        return None

    @property
    def filling(self) -> Pads:
        """The padding (left, right, top, bottom) under which exactly these windows fit."""
        below = (
            (count - 1) * stride + dilation * (kernel - 1) + 1 - length - before
            for count, stride, dilation, kernel, length, before in zip(
                self.count,
                self.stride,
                self.dilation,
                self.kernel,
                self.size,
                self.before,
                strict=True,
            )
        )
        (top, left), (bottom, right) = self.before, below
        return left, right, top, bottom

    def _torchs_count(self, axis: int, ceil: bool) -> int:
        pad = self.before[axis]
        return _count(
            self.size[axis],
            self.kernel[axis],
            self.stride[axis],
            self.dilation[axis],
            (pad, pad),
            ceil,
        )


def window_of(call: Call, kernel: Pair | None = None, pool: bool = False) -> Window:
    """The windows that a node lays over its first input.

    Args:
        kernel: size, where the attribute may leave it out.
        pool: whether ``ceil_mode`` is heeded.

    Raises:
        ValueError: the input is no map [N,C,H,W], or numbers are out of range.
    """
    given = _maps(call)
    size = given.shape[2:]
    kernel = _numbers(call, "kernel_shape", 2, kernel, 1)
    stride = _numbers(call, "strides", 2, (1, 1), 1)
    dilation = _numbers(call, "dilations", 2, (1, 1), 1)
    how = call.choice("auto_pad", "NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
    ceil = pool and bool(call.attribute("ceil_mode", 0))
    if how.startswith("SAME"):
        ceil = False
        sides = [
            _same(n, k, s, d, how == "SAME_LOWER")
            for n, k, s, d in zip(size, kernel, stride, dilation, strict=True)
        ]
        pads = (sides[0][0], sides[1][0], sides[0][1], sides[1][1])
    else:
        pads = (0, 0, 0, 0) if how == "VALID" else _numbers(call, "pads", 4, (0, 0, 0, 0), 0)
        pads = tuple(own + more for own, more in zip(pads, given.padding, strict=True))
    rows, columns = (size[i] + pads[i] + pads[i + 2] for i in (0, 1))
    if given.shape[1] * rows * columns > _LARGEST_MAP:
        raise call.error(f"pads are {pads}: its maps would have {rows:,}x{columns:,} pixels")
    count = tuple(
        _count(size[i], kernel[i], stride[i], dilation[i], (pads[i], pads[i + 2]), ceil)
        for i in (0, 1)
    )
    if min(count) < 1:
        raise call.error(
            f"no window of {kernel[0]}x{kernel[1]} fits on its maps of {size[0]}x{size[1]}"
        )
    return Window(kernel, stride, dilation, pads, size, count)


def _maps(call: Call) -> Operand:
    given = call.input(0)
    if len(given.shape) != 4:
        raise call.error(f"takes maps [N,C,H,W], got {len(given.shape)} dimensions")
    return given


def _numbers(
    call: Call, name: str, length: int, default: tuple[int, ...] | None, least: int
) -> tuple[int, ...]:
    numbers = call.attribute(name, default)
    if numbers is None:
        raise call.error(f"the attribute {name} is missing")
    if len(numbers) != length or not all(least <= n <= LARGEST for n in numbers):
        raise call.error(
            f"{name} is {list(numbers)}: expected {length} numbers from {least} to {LARGEST:,}"
        )
    return tuple(numbers)


def _same(size: int, kernel: int, stride: int, dilation: int, lower: bool) -> Pair:
    """The padding before and after such that there are ceil(size / stride) windows."""
    windows = -(-size // stride)
    total = max((windows - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    shorter, longer = total // 2, total - total // 2
    return (longer, shorter) if lower else (shorter, longer)


def _count(size: int, kernel: int, stride: int, dilation: int, pads: Pair, ceil: bool) -> int:
    """How many windows fit; rounding up, the last must still begin on the map or before it."""
    room = size + sum(pads) - dilation * (kernel - 1) - 1
    if not ceil:
        return room // stride + 1
    count = -(-room // stride) + 1
    return count - ((count - 1) * stride >= size + pads[0])


POOLING = Table()


@POOLING.add("MaxPool", 22)
def _max_pool(call: Call) -> Layer:
    window = window_of(call, pool=True)
    ceil = window.torchs_ceil_mode
    make = partial(nn.MaxPool2d, window.kernel, window.stride, dilation=window.dilation)
    if ceil is not None:
        return Layer(make(padding=window.before, ceil_mode=ceil))
    return Layer(nn.Sequential(nn.ConstantPad2d(window.filling, -torch.inf), make()))


@POOLING.add("AveragePool", 22)
def _average_pool(call: Call) -> Layer:
    if len(call.input(0).shape) == 5:
        return _average_pool_3d(call)
    window = window_of(call, pool=True)
    if window.dilation != (1, 1):
        raise call.error(f"dilations are {list(window.dilation)}: expected ones")
    counts = bool(call.attribute("count_include_pad", 0))
    ceil = window.torchs_ceil_mode if window.symmetric or not counts else None
    if ceil is None:
        top, left, bottom, right = window.pads if counts else (0, 0, 0, 0)
        counted = (left, right, top, bottom)
        return Layer(AveragePool(window.kernel, window.stride, window.filling, counted))
    return Layer(nn.AvgPool2d(window.kernel, window.stride, window.before, ceil, counts))


def _average_pool_3d(call: Call) -> Layer:
    """As torch's exporters write contrast normalisation, across maps (``contrast``)."""
    kernel, strides = call.attribute("kernel_shape"), call.attribute("strides", [1, 1, 1])
    plain = call.attribute("auto_pad", "NOTSET") == "NOTSET" and not call.attribute("ceil_mode", 0)
    sizes = zip(call.input(0).shape[2:], kernel, strict=True)
    small = all(1 <= k <= length for length, k in sizes) and min(strides) >= 1
    if any(call.attribute("pads", [0])) or not plain or not small:
        raise call.error("on five dimensions, with padding or windows that do not fit")
    return Layer(nn.AvgPool3d(tuple(kernel), tuple(strides)))


@POOLING.add("GlobalAveragePool", 22)
def _global_average_pool(call: Call) -> Layer:
    _maps(call)
    return Layer(nn.AdaptiveAvgPool2d(1))


@POOLING.add("GlobalMaxPool", 22)
def _global_max_pool(call: Call) -> Layer:
    _maps(call)
    return Layer(nn.AdaptiveMaxPool2d(1))


CONVOLUTION = Table()


@CONVOLUTION.add("Conv", 22)
def _conv(call: Call) -> Layer:
    weight = call.weights(1, None, None, None, None)
    bias = None if call.constant(2) is None else call.weights(2, len(weight))
    groups = call.attribute("group", 1)
    channels = weight.shape[1] * groups
    if groups < 1 or len(weight) % groups or channels != call.input(0).shape[1]:
        raise call.error(
            f"its filters {list(weight.shape)} in {groups} groups do not fit maps of "
            f"{call.input(0).shape[1]} channels"
        )
    window = window_of(call, tuple(weight.shape[2:]))
    if window.kernel != tuple(weight.shape[2:]):
        raise call.error(f"kernel_shape is {window.kernel}, its filters are {list(weight.shape)}")
    make = partial(
        nn.Conv2d,
        channels,
        len(weight),
        window.kernel,
        window.stride,
        dilation=window.dilation,
        groups=groups,
        bias=bias is not None,
        device="meta",
    )
    top, left, bottom, right = window.pads
    if window.as_if_symmetric:
        return Layer(with_parameters(make(padding=window.before), weight, bias))
    apart = (top - bottom, left - right)
    # Zeros around the filters, unless they would outgrow these.
    few = all(
        abs(d) <= k * n for d, k, n in zip(apart, window.kernel, window.dilation, strict=True)
    )
    if few and not any(d % n for d, n in zip(apart, window.dilation, strict=True)):
        make = partial(Conv2d, *make.args, **make.keywords)
        return Layer(with_parameters(make(pads=window.pads), weight, bias))
    zeros = nn.ZeroPad2d((left, right, top, bottom))
    return Layer(nn.Sequential(zeros, with_parameters(make(), weight, bias)))
