"""What ONNX's convolution and pools are in torch."""

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

    def fits_torchs(self, ceil: bool = False) -> bool:
        """Whether ``before`` on both sides gives the same windows in torch, since what is padded
        more (or less) below is not reached."""
        pads = zip(self.before, self.before, strict=True)
        counted = map(_count, self.size, self.kernel, self.stride, self.dilation, pads, (ceil,) * 2)
        return self.count == tuple(counted)

    @property
    def torchs_ceil_mode(self) -> bool | None:
        """With which ``ceil_mode`` a torch pool that has ``before`` as its padding has as many
        windows; None: with neither."""
        if any(2 * pad > kernel for pad, kernel in zip(self.before, self.kernel, strict=True)):
            return None
        return next((ceil for ceil in (False, True) if self.fits_torchs(ceil)), None)

    @property
    def filling(self) -> Pads:
        """The padding (left, right, top, bottom) under which exactly these windows fit."""
        reached = map(_reach, self.count, self.kernel, self.stride, self.dilation)
        (top, left), (high, wide) = self.before, reached
        return left, wide - self.size[1] - left, top, high - self.size[0] - top


def window_of(call: Call, kernel: Pair | None = None, pool: bool = False) -> Window:
    """The windows that a node lays over its first input.

    Args:
        kernel: size, where the attribute may leave it out.
        pool: whether ``ceil_mode`` is heeded.
    """
    given = _maps(call)
    size = given.shape[2:]
    kernel = _numbers(call, "kernel_shape", 2, kernel, 1)
    stride = _numbers(call, "strides", 2, (1, 1), 1)
    dilation = _numbers(call, "dilations", 2, (1, 1), 1)
    how = call.choice("auto_pad", "NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
    ceil = pool and bool(call.attribute("ceil_mode", 0))
    if how.startswith("SAME"):
        ceil, lower = False, (how == "SAME_LOWER",) * 2
        before, after = zip(*map(_same, size, kernel, stride, dilation, lower), strict=True)
        pads = before + after
    else:
        pads = (0, 0, 0, 0) if how == "VALID" else _numbers(call, "pads", 4, (0, 0, 0, 0), 0)
        pads = tuple(own + more for own, more in zip(pads, given.padding, strict=True))
    rows, columns = (size[i] + pads[i] + pads[i + 2] for i in (0, 1))
    if given.shape[1] * rows * columns > _LARGEST_MAP:
        raise call.error(f"pads are {pads}: its maps would have {rows:,}x{columns:,} pixels")
    sides = zip(pads[:2], pads[2:], strict=True)
    count = tuple(map(_count, size, kernel, stride, dilation, sides, (ceil,) * 2))
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


def _reach(windows: int, kernel: int, stride: int, dilation: int) -> int:
    """From where the first window begins to where the last ends."""
    return (windows - 1) * stride + dilation * (kernel - 1) + 1


def _same(size: int, kernel: int, stride: int, dilation: int, lower: bool) -> Pair:
    """The padding before and after such that there are ceil(size / stride) windows."""
    total = max(_reach(-(-size // stride), kernel, stride, dilation) - size, 0)
    shorter, longer = total // 2, total - total // 2
    return (longer, shorter) if lower else (shorter, longer)


def _count(size: int, kernel: int, stride: int, dilation: int, pads: Pair, ceil: bool) -> int:
    """How many windows fit; rounding up, the last must still begin on the map or before it."""
    room = size + sum(pads) - dilation * (kernel - 1) - 1
    if not ceil:
        return room // stride + 1
    count = -(-room // stride) + 1
    return count - ((count - 1) * stride >= size + pads[0])


WINDOWS = Table()


@WINDOWS.add("MaxPool", 22)
def _max_pool(call: Call) -> Layer:
    window = window_of(call, pool=True)
    ceil = window.torchs_ceil_mode
    make = partial(nn.MaxPool2d, window.kernel, window.stride, dilation=window.dilation)
    if ceil is not None:
        return Layer(make(padding=window.before, ceil_mode=ceil))
    return Layer(nn.Sequential(nn.ConstantPad2d(window.filling, -torch.inf), make()))


@WINDOWS.add("AveragePool", 22)
def _average_pool(call: Call) -> Layer:
    if len(call.shape) == 5:
        return _average_pool_3d(call)
    window = window_of(call, pool=True)
    if window.dilation != (1, 1):
        raise call.error(f"dilations are {list(window.dilation)}: expected ones")
    counts = bool(call.attribute("count_include_pad", 0))
    ceil = window.torchs_ceil_mode if window.pads[:2] == window.pads[2:] or not counts else None
    if ceil is None:
        top, left, bottom, right = window.pads if counts else (0, 0, 0, 0)
        counted = (left, right, top, bottom)
        return Layer(AveragePool(window.kernel, window.stride, window.filling, counted))
    return Layer(nn.AvgPool2d(window.kernel, window.stride, window.before, ceil, counts))


def _average_pool_3d(call: Call) -> Layer:
    """As torch's exporters write contrast normalisation, across maps (``contrast``)."""
    kernel, strides = call.attribute("kernel_shape"), call.attribute("strides", [1, 1, 1])
    plain = call.attribute("auto_pad", "NOTSET") == "NOTSET" and not call.attribute("ceil_mode", 0)
    sizes = zip(call.shape[2:], kernel, strict=True)
    small = all(1 <= k <= length for length, k in sizes) and min(strides) >= 1
    if any(call.attribute("pads", [0])) or not plain or not small:
        raise call.error("on five dimensions, with padding or windows that do not fit")
    return Layer(nn.AvgPool3d(tuple(kernel), tuple(strides)))


@WINDOWS.add("GlobalAveragePool", 22)
@WINDOWS.add("GlobalMaxPool", 22)
def _global_pool(call: Call) -> Layer:
    _maps(call)
    averages = call.node.op_type == "GlobalAveragePool"
    return Layer(nn.AdaptiveAvgPool2d(1) if averages else nn.AdaptiveMaxPool2d(1))


@WINDOWS.add("Conv", 22)
def _conv(call: Call) -> Layer:
    weight = call.weights(1, None, None, None, None)
    bias = call.weights(2, len(weight), optional=True)
    groups = call.attribute("group", 1)
    channels = weight.shape[1] * groups
    if groups < 1 or len(weight) % groups or channels != call.shape[1]:
        raise call.error(
            f"its filters {list(weight.shape)} in {groups} groups do not fit maps of "
            f"{call.shape[1]} channels"
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
    if window.fits_torchs():
        return Layer(with_parameters(make(padding=window.before), weight, bias))
    apart = (top - bottom, left - right)
    sides = zip(apart, window.kernel, window.dilation, strict=True)
    # Zeros around the filters, unless they would outgrow these.
    if all(d % n == 0 and abs(d) <= k * n for d, k, n in sides):
        make = partial(Conv2d, *make.args, **make.keywords)
        return Layer(with_parameters(make(pads=window.pads), weight, bias))
    zeros = nn.ZeroPad2d((left, right, top, bottom))
    return Layer(nn.Sequential(zeros, with_parameters(make(), weight, bias)))
