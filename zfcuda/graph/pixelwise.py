"""Several calls that together treat every pixel alone: from a map, over other layouts, to a map.

Channel shuffles go over five dimensions, channel normalisations and 1x1 convolutions written as
linear layers over channels-last views, a channel is picked out of the input. None of the calls has
a cone of its own, but together they are a function of each pixel, which is tried out: on random
maps it must give what it gives on the same pixels one by one, and in a row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zfcuda.graph.chain import Chain
from zfcuda.graph.nodes import Node, Value, values_in
from zfcuda.rules import Affine, Binary, Identity, Opaque, Pixelwise, Pointwise, Shape

_LONGEST = 24  # calls

# Those that may be part of a chain: they move, scale, weigh or sum numbers, wherever those are.
_CALLS = (
    "permute transpose swapaxes swapdims movedim moveaxis view reshape flatten unflatten "
    "contiguous chunk split tensor_split unbind getitem unsqueeze squeeze stack cat concat expand "
    "flip layer_norm rms_norm linear matmul softmax log_softmax mean sum var std norm normalize "
    "add sub mul div truediv iadd isub imul itruediv channel_shuffle"
)
_MODULES = (nn.LayerNorm, nn.Linear, nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.ChannelShuffle)
_RULES = (Affine, Binary, Identity, Pixelwise, Pointwise, Shape)


def chain_to(nodes: Sequence[Node], last: Node) -> Chain | None:
    """The chain that ends with the node ``last``, if there is one that treats pixels alone."""
    chain = _closed(nodes, last) if last.is_map and last.shape[0] else None
    return chain if chain and _treats_pixels_alone(chain, last.shape[0]) else None


def _closed(nodes: Sequence[Node], last: Node) -> Chain | None:
    """The calls between ``last`` and the one map of its size that they all come from."""
    sources: dict[int, Value] = {}
    members: dict[int, Node] = {}
    waiting = [last]
    while waiting or len(sources) > 1:
        # Of several maps, the later ones may come from the first.
        call = waiting.pop() if waiting else nodes[sources.pop(max(sources)).index]
        if call.index in members:
            continue
        if not _may_be_part(call) or len(members) == _LONGEST:
            return None
        members[call.index] = call
        for value in values_in((call.args, call.kwargs)):
            if value.is_map and value.shape[1:] == last.shape[1:]:
                sources[value.index] = value
            else:
                waiting.append(nodes[value.index])
    if len(sources) != 1:
        return None
    (source,) = sources.values()
    return Chain(source, tuple(members[index] for index in sorted(members)))


def _may_be_part(call: Node) -> bool:
    if call.call.target in ("detach", torch.detach):  # a chain would hide where signals end
        return False
    if isinstance(call.rule, _RULES):
        return True
    if not isinstance(call.rule, Opaque):
        return False
    if isinstance(call.function, nn.Module):
        return type(call.function) in _MODULES and "forward" not in vars(call.function)
    name = _name(call)
    if name == "getitem" and not _picks_channels(call.args[1]):
        return False
    # Attention between random pixels may see each of them alone: none is like another.
    if name in ("matmul", "linear") and len(values_in((call.args, call.kwargs))) > 1:
        return False
    return name in _CALLS.split()


def _name(call: Node) -> str:
    """Of the function or method."""
    target = call.call.target
    return target if isinstance(target, str) else getattr(target, "__name__", "")


def _cut_places(index: Any) -> list[int]:
    """In which places an index has a slice that leaves something out."""
    places = index if isinstance(index, tuple) else (index,)
    return [i for i, p in enumerate(places) if isinstance(p, slice) and p != slice(None)]


def _picks_channels(index: Any) -> bool:
    """Whether an index leaves rows and columns whole, in [n,C,h,w] or behind ``...`` [n,h,w,C]."""
    if all(i == 1 for i in _cut_places(index)):
        return True
    return isinstance(index, tuple) and index[0] is ...


def _treats_pixels_alone(chain: Chain, channels: int) -> bool:
    source = chain.source
    # A cut at a fixed place need not show on smaller maps than the real ones.
    n, h, w = (2, *source.shape[1:]) if any(map(_cuts, chain.calls)) else (2, 3, 4)
    generator = torch.Generator().manual_seed(0)  # the global one is watched
    drawn = torch.randn(n, source.shape[0], h, w, generator=generator, dtype=torch.float64)
    x = drawn.to(source.device, source.dtype)
    try:  # not by blocks, which are rows of pixels themselves
        together = chain.at_once(x)
        pixels = x.permute(0, 2, 3, 1).reshape(n * h * w, -1, 1, 1)
        alone = chain.at_once(pixels)
        in_a_row = chain.at_once(pixels.permute(2, 1, 3, 0))
    except Exception:  # sizes are written into a call
        return False
    found = (together, alone, in_a_row)
    if not all(isinstance(y, Tensor) and y.dtype == x.dtype for y in found):
        return False
    sizes = (n, channels, h, w), (n * h * w, channels, 1, 1), (1, channels, 1, n * h * w)
    if tuple(y.shape for y in found) != sizes:
        return False
    first, *others = (y.permute(0, 2, 3, 1).reshape(-1, channels).double() for y in found)
    tolerance = torch.finfo(source.dtype).eps ** 0.75
    scale = tolerance * float(first.abs().max())
    if not math.isfinite(scale):  # which hides what pixels have to do with each other
        return False
    return all(torch.allclose(first, other, tolerance, scale) for other in others)


def _cuts(call: Node) -> bool:
    """Whether it may cut rows or columns at a fixed place."""
    if isinstance(call.function, Chain):
        return any(map(_cuts, call.function.calls))
    if _name(call) == "getitem":
        return bool(_cut_places(call.args[1]))
    return _name(call) == "tensor_split"
