"""Max-unpooling by the switches of a pool of the same network, as SegNet does.

The switches are made as maps like any other: the numbers of taps, in the type of number that was
pooled.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zfcuda import ops
from zfcuda.graph.calls import Call
from zfcuda.graph.nodes import Node, Value
from zfcuda.graph.rules import Pair, Switches, Unpool

_TAPS = 255  # numbers up to there are exact in every floating-point type


@dataclass(frozen=True)
class SwitchesOf:
    """The numbers of the taps that win, in maps of the type of number that they are taken from."""

    rule: Switches

    @property
    def __name__(self) -> str:
        return "switches"

    def __call__(self, x: Tensor) -> Tensor:
        rule = self.rule
        window = (rule.kernel, rule.stride, 0, 1, rule.ceil_mode, rule.relu)
        return ops.max_pool2d(x, *window)[1].to(x.dtype)


@dataclass(frozen=True)
class PutBack:
    """Every number where its switch says, on maps of this size, and zeros elsewhere."""

    rule: Unpool
    size: Pair

    def __call__(self, switches: Tensor, x: Tensor) -> Tensor:
        (kh, kw), (sh, sw) = self.rule.kernel, self.rule.stride
        n, channels, h, w = x.shape
        height, width = max(self.size[0], h * sh), max(self.size[1], w * sw)
        out = x.new_zeros(n, channels, height, width)
        for tap in range(kh * kw):
            row, column = divmod(tap, kw)
            own = torch.where(switches == tap, x, 0)
            out[:, :, row : h * sh : sh, column : w * sw : sw] = own
        return out[:, :, : self.size[0], : self.size[1]]


@dataclass(frozen=True)
class Unpooling:
    """A call that unpools by the ``switches`` that can be made of the maps ``pooled``."""

    pooled: Value
    shape: tuple[int, ...]  # of the switches, per image
    switches: Switches
    unpool: Unpool
    put_back: PutBack


def unpooling(
    nodes: Sequence[Node], call: Call, args: Sequence[Any], result: Value
) -> Unpooling | None:
    """What a call of ``max_unpool2d`` (torch's or ours) is, where its switches are those of a pool
    of this network whose windows neither overlap nor were padded; None where they are not."""
    x, switches = args[:2]
    node = nodes[switches.index] if isinstance(switches, Value) else None
    if node is None or not isinstance(x, Value) or getattr(node.function, "place", 0) != 1:
        return None
    pool = _pool_of(node)
    if pool is None or not _undone_by(call, args, pool):
        return None
    pooled, found = node.args[0], pool.switches
    if not isinstance(pooled, Value) or not pooled.is_map or not x.is_map:
        return None
    alike = x.shape == switches.shape and x.dtype == pooled.dtype == result.dtype
    if not alike or result.shape != (x.shape[0], *pooled.shape[1:]):
        return None
    rule = Unpool(found.kernel, found.stride)
    return Unpooling(pooled, x.shape, found, rule, PutBack(rule, result.shape[1:]))


@dataclass(frozen=True)
class _Pool:
    switches: Switches
    ours: bool
    window: tuple[Any, ...]  # as the call has it


def _pool_of(node: Node) -> _Pool | None:
    ours = node.target == "max_pool2d"
    if not ours and node.target != "max_pool2d_with_indices":
        return None
    bound = _WINDOW.bind(*node.args[1:], **node.kwargs)
    bound.apply_defaults()
    kernel, stride, padding, dilation, ceil_mode, relu = bound.args
    kernel = _pair(kernel)
    stride = _pair(stride) if stride else kernel
    apart = all(k <= s for k, s in zip(kernel, stride, strict=True))
    plain = _pair(padding) == (0, 0) and _pair(dilation) == (1, 1)
    if not (apart and plain) or kernel[0] * kernel[1] > _TAPS:
        return None
    window = (kernel, stride, (0, 0), (1, 1))
    return _Pool(Switches(kernel, stride, bool(ceil_mode), bool(relu)), ours, window)


def _undone_by(call: Call, args: Sequence[Any], pool: _Pool) -> bool:
    """Whether the call takes the switches for what they are."""
    if not pool.ours:
        return getattr(call.function, "namespace", "") == "aten"
    if getattr(call.function, "namespace", "") != "zfcuda":
        return False
    window, (_, relu, *_) = args[2:6], args[6:]
    return tuple(map(_pair, window)) == pool.window and not relu


def _window(
    kernel: Any,
    stride: Any = (),
    padding: Any = (0,),
    dilation: Any = (1,),
    ceil_mode: bool = False,
    relu: bool = False,
) -> None:
    """How pools are called."""


_WINDOW = inspect.signature(_window)


def _pair(value: Any) -> Pair:
    value = (value,) if isinstance(value, int) else tuple(value)
    return (int(value[0]), int(value[-1]))
