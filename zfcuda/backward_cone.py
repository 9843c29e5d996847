"""What a unit depends on, and nothing else: the deconvnet inside backward cones.

One forward pass (:func:`observe`) leaves the switches and whatever else the way down asks for.
:func:`descend` then carries many units at once down the graph, last node first. On each map a unit
has a *signal*: a point as long as it is a single element (a pool's signal is one element of the map
below, by its switch), then a window of the map. The first convolution below a point costs a copy of
its filter; every other step works on a batch of windows.

All windows of a batch have one size on a map: the largest rectangle that any of its units has
there. They are moved so that they lie on the map, which keeps the padding out of them, and makes
them the whole map, without a special case, where the cones have grown that large. What is in a
window but not in its unit's rectangle is zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zfcuda import cone, ops
from zfcuda.graph import Graph, Node
from zfcuda.interception import calls_left_to_gradient
from zfcuda.rules import (
    Affine,
    AvgPool,
    Binary,
    Concat,
    Conv,
    Identity,
    Input,
    Lrn,
    MaxPool,
    Pixelwise,
    Pointwise,
)

Ints = np.ndarray  # int64

# The calls that count as ReLU, and what their arguments must be for it.
_RECTIFIERS: dict[str, dict[str, float]] = {
    "relu": {},
    "relu6": {},
    "leaky_relu": {},
    "clamp": {"min": 0},
    "hardtanh": {"min_val": 0},
    "threshold": {"threshold": 0, "value": 0},
}
_UNDERSTOOD = (Input, Conv, MaxPool, AvgPool, Affine, Pointwise, Pixelwise, Lrn, Concat, Identity)
_SUMS = ("add", "sub")
_CUTS = ("detach", torch.detach)  # what the model's author wants no signal to pass


@dataclass(frozen=True)
class Manner:
    """How signals go down; the arguments of :func:`zfcuda.deconv` of these names."""

    overlap: str = "sum"
    rule: str = "deconv"
    norm: str = "identity"

    def rectifies(self, rule: Any) -> bool:
        """Whether a pointwise rule rectifies the signal, instead of handing its gradient down."""
        if self.rule != "deconv" or not isinstance(rule, Pointwise):
            return False
        wanted = _RECTIFIERS.get(rule.name)
        given = getattr(rule.function, "keywords", {})
        return wanted is not None and all(given.get(k) == v for k, v in wanted.items())


def obstacle(graph: Graph, tops: Collection[int]) -> Node | None:
    """The last node that these nodes depend on and that no cone goes through, if there is one."""
    for index in sorted(_below(graph, tops), reverse=True):
        node = graph.nodes[index]
        understood = isinstance(node.rule, _UNDERSTOOD) or (
            isinstance(node.rule, Binary) and node.rule.name in _SUMS
        )
        cut = node.call.target in _CUTS
        if not understood or cut or not node.is_map:
            return node
    return None


def _below(graph: Graph, tops: Collection[int]) -> set[int]:
    """These nodes and all that they depend on."""
    found: set[int] = set()
    stack = [*tops]
    while stack:
        index = stack.pop()
        if index not in found:
            found.add(index)
            stack.extend(graph.nodes[index].inputs)
    return found


def forward_bytes(graph: Graph, tops: Collection[int], itemsize: int) -> int:
    """At most what :func:`observe` holds of one image."""
    shapes = [graph.nodes[index].shape for index in _below(graph, tops)]
    return sum(math.prod(shape) for shape in shapes if shape is not None) * itemsize


# --- the forward pass -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Observed:
    """What a forward pass of n images leaves for the way down.

    Attributes:
        outputs: the maps [n,C,h,w] of the nodes that units are in.
        switches: of every max-pooling, as pixels [n,OH,OW,C].
        inputs: the maps that nodes took whose gradient at the forward point is wanted.
        left: names of the nonlinearities the deconvnet has no rule for.
    """

    graph: Graph
    manner: Manner
    outputs: dict[int, Tensor]
    switches: dict[int, Tensor] = field(default_factory=dict)
    inputs: dict[int, Tensor] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    _made: dict[int, Any] = field(default_factory=dict)

    def once(self, node: Node, make: Callable[[], Any]) -> Any:
        """What all batches of units want of a node, made for the first of them."""
        if node.index not in self._made:
            self._made[node.index] = make()
        return self._made[node.index]


def arranged(x: Tensor) -> Tensor:
    """Images in the order of memory in which convolutions are fastest; float64, which checks the
    results, as it is."""
    return x if x.dtype == torch.float64 else x.contiguous(memory_format=torch.channels_last)


def observe(graph: Graph, x: Tensor, tops: Collection[int], manner: Manner) -> Observed:
    """Run the graph on ``x`` up to the nodes ``tops``, and no further."""
    needed = _below(graph, tops)
    uses = dict.fromkeys(needed, 0)
    for index in needed:
        for source in graph.nodes[index].inputs:
            uses[source] += 1
    observed = Observed(graph, manner, {})
    values: dict[int, Any] = {0: arranged(x)}
    for index in sorted(needed):
        node = graph.nodes[index]
        if index:
            values[index] = _evaluate(node, values, observed)
        if index in tops:
            observed.outputs[index] = values[index]
        for source in node.inputs:
            uses[source] -= 1
            if not uses[source]:
                del values[source]
    return observed


def _evaluate(node: Node, values: dict[int, Any], observed: Observed) -> Any:
    rule, manner = node.rule, observed.manner
    if isinstance(rule, MaxPool):
        value, switches = ops.max_pool2d(
            values[node.inputs[0]],
            rule.kernel,
            rule.stride,
            rule.padding,
            rule.dilation,
            rule.ceil_mode,
            rule.relu,
        )
        observed.switches[node.index] = pixels(switches)
        if rule.relu and manner.rule == "gradient":
            observed.inputs[node.index] = values[node.inputs[0]]
        return value
    if _uses_forward_values(rule, manner):
        observed.inputs[node.index] = values[node.inputs[0]]
        if manner.rule == "deconv":
            observed.left.extend(_left_to_gradient(rule, values[node.inputs[0]]))
    return observed.graph.evaluate(node, values)


def _uses_forward_values(rule: Any, manner: Manner) -> bool:
    if isinstance(rule, Lrn):
        return manner.rule == "gradient" or manner.norm == "gradient"
    return isinstance(rule, Pointwise | Pixelwise) and not manner.rectifies(rule)


def _left_to_gradient(rule: Any, maps: Tensor) -> list[str]:
    """The names of what in ``rule`` is not linear in the signal."""
    if isinstance(rule, Lrn):
        return []
    with torch.enable_grad():
        source = maps[:1, :, :1, :1].detach().clone().requires_grad_()
        return calls_left_to_gradient(rule.function(source.clone()), source)


# --- signals --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Points:
    """One element of a map for each of q units.

    Attributes:
        units: [q], ascending.
        channels: [q].
        places: [q,2], (row, column), on the map.
        values: [q].
    """

    units: Ints
    channels: Ints
    places: Ints
    values: Tensor

    def take(self, rows: Any) -> Points:
        at = rows if isinstance(rows, slice) else torch.from_numpy(rows).to(self.values.device)
        return Points(self.units[rows], self.channels[rows], self.places[rows], self.values[at])

    @property
    def boxes(self) -> Ints:
        return np.concatenate([self.places, self.places + 1], 1)


@dataclass(frozen=True, eq=False)
class Windows:
    """A window of a map for each of q units.

    Attributes:
        units: [q], ascending.
        data: [q,h,w,C], this signal's own memory.
        origins: [q,2], (row, column) of the windows; a window may hang over the map's edge.
        boxes: [q,4], what a unit's signal is confined to, on the map; the rest of its window is
            zero, or off the map and void.
    """

    units: Ints
    data: Tensor
    origins: Ints
    boxes: Ints

    def take(self, rows: slice) -> Windows:
        return Windows(self.units[rows], self.data[rows], self.origins[rows], self.boxes[rows])


Signal = Points | Windows
State = dict[int, list[Signal]]  # by node: what its consumers have sent so far


def pixels(maps: Tensor) -> Tensor:
    """Maps [n,C,h,w] as [n,h,w,C]; without a copy for channels_last."""
    return maps.permute(0, 2, 3, 1).contiguous()


def _maps(data: Tensor) -> Tensor:
    """[n,h,w,C] as channels_last maps [n,C,h,w]."""
    return data.permute(0, 3, 1, 2)


def _frames(boxes: Ints, size: Sequence[int]) -> tuple[Ints, int, int]:
    """Windows of one size on the map that hold these boxes: origins [q,2], height, width."""
    extent = np.maximum((boxes[:, 2:] - boxes[:, :2]).max(0), 1)
    return np.minimum(boxes[:, :2], np.array(size) - extent), int(extent[0]), int(extent[1])


def _table(
    images: Ints, source: Windows | None, origins: Ints, height: int, width: int, device: Any
) -> Tensor:
    """Rows for the window ops: from the windows of ``source`` to those at ``origins``."""
    rows = np.zeros((len(origins), 13), np.int64)
    numbers = np.arange(len(origins))
    rows[:, 0] = images
    rows[:, 1] = -1
    if source is not None:
        h, w = source.data.shape[1:3]
        inside = source.boxes[:, :2] - source.origins
        filled = (source.boxes[:, 2:] > source.boxes[:, :2]).all(1)
        rows[:, 1] = np.where(filled, 0, -1)
        rows[:, 2] = np.where(filled, numbers * (h * w) + inside[:, 0] * w + inside[:, 1], 0)
        rows[:, 3] = w
        rows[:, 4:8] = source.boxes
    rows[:, 8:10] = origins
    rows[:, 10:12] = origins + np.array([height, width])
    rows[:, 12] = numbers * (height * width)
    return torch.from_numpy(rows).to(device)


def _as_windows(points: Points, channels: int) -> Windows:
    data = points.values.new_zeros(len(points.units), 1, 1, channels)
    at = torch.from_numpy(points.channels).to(data.device)[:, None, None, None]
    data.scatter_(3, at, points.values[:, None, None, None])
    return Windows(points.units, data, points.places, points.boxes)


def _merged(signals: list[Signal], shape: Sequence[int]) -> Signal:
    """What several consumers sent to one map, added up."""
    if len(signals) == 1:
        return signals[0]
    channels, *size = shape
    windows = [_as_windows(s, channels) if isinstance(s, Points) else s for s in signals]
    units = np.unique(np.concatenate([signal.units for signal in windows]))
    boxes = np.zeros((len(windows), len(units), 4), np.int64)
    for part, signal in zip(boxes, windows, strict=True):
        part[np.searchsorted(units, signal.units)] = signal.boxes
    joined = cone.join(*boxes)
    origins, height, width = _frames(joined, size)
    data = windows[0].data.new_zeros(len(units), height, width, channels)
    for signal in windows:
        rows = np.searchsorted(units, signal.units)
        table = _table(np.zeros_like(rows), signal, origins[rows], height, width, data.device)
        table[:, 12] = torch.from_numpy(rows * (height * width))
        _gather(None, signal, table, data, add=True)
    return Windows(units, data, origins, joined)


def _gather(
    base: Tensor | None, source: Windows | None, table: Tensor, out: Tensor, add: bool = False
) -> None:
    channels = out.shape[3]
    patches = [] if source is None else [source.data.reshape(-1, channels)]
    largest = out.shape[1] * out.shape[2]
    ops.gather_windows(base, patches, table, out.view(-1, channels), largest, add=add)


def _settled(signal: Windows, size: Sequence[int]) -> Windows:
    """The same signal in windows that lie on the map."""
    extent = signal.data.shape[1:3]
    if (signal.origins >= 0).all() and (signal.origins + extent <= size).all():
        return signal
    origins, height, width = _frames(signal.boxes, size)
    data = signal.data.new_empty(len(signal.units), height, width, signal.data.shape[3])
    table = _table(np.zeros(1, np.int64), signal, origins, height, width, data.device)
    _gather(None, signal, table, data)
    return Windows(signal.units, data, origins, signal.boxes)


# --- one step down --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Descent:
    """The way down for one batch of units.

    Attributes:
        observed: the forward pass.
        images: [P], which of its images each unit is of.
        limit: bytes that a batch's signals may take.
    """

    observed: Observed
    images: Ints
    limit: int

    @property
    def graph(self) -> Graph:
        return self.observed.graph

    def run(self, state: State, top: int) -> Iterator[Signal]:
        """Carry ``state``, which has signals at no node after ``top``, down to the images. What
        arrives are disjoint sets of units, together all that reach the image."""
        for index in range(top, 0, -1):
            if index not in state:
                continue
            node = self.graph.nodes[index]
            signal = _merged(state.pop(index), node.shape)
            parts = self._parts(node, signal)
            if parts > 1:
                state[index] = [signal]
                for part in _split(state, parts):
                    yield from self.run(part, index)
                return
            for target, below in self._step(node, signal):
                state.setdefault(target, []).append(below)
        if 0 in state:
            yield _merged(state.pop(0), self.graph.nodes[0].shape)

    def _parts(self, node: Node, signal: Signal) -> int:
        """Into how many parts the units must be split for this step to stay within the limit."""
        if isinstance(signal, Points) or len(signal.units) == 1:
            return 1
        channels, *size = self.graph.nodes[node.inputs[0]].shape
        boxes = self._boxes_below(node, signal.boxes)
        _, height, width = _frames(boxes, size)
        each = max(height * width * channels, signal.data[0].numel()) * signal.data.itemsize
        # Its windows before and after, what a convolution makes of them meanwhile, and what
        # waits at other nodes.
        limit = max(1, self.limit // 16)
        return min(len(signal.units), -(-len(signal.units) * each // limit))

    def _boxes_below(self, node: Node, boxes: Ints) -> Ints:
        size = self.graph.nodes[node.inputs[0]].shape[1:]
        return cone.backward(node.rule, boxes, size, node.shape[1:])

    def _step(self, node: Node, signal: Signal) -> list[tuple[int, Signal]]:
        rule, below = node.rule, node.inputs[0]
        match rule:
            case Identity():
                return [(below, signal)]
            case Conv():
                return [(below, self._conv(node, rule, signal))]
            case MaxPool():
                return [self._unpool(node, rule, signal)]
            case AvgPool():
                return [(below, self._spread_average(node, rule, signal))]
            case Affine():
                return [(below, _scaled(signal, rule.scale))]
            case Concat():
                return self._split_channels(node, signal)
            case Binary():
                return self._to_both(node, rule, signal)
            case Lrn() if not _uses_forward_values(rule, self.observed.manner):
                return [(below, signal)]
            case Pointwise() if self.observed.manner.rectifies(rule):
                return [(below, _rectified(signal))]
            case Pointwise():
                return [(below, self._times_derivative(node, rule.function, signal))]
            case _:
                return [(below, self._gradient_of_pixels(node, signal))]

    # convolution

    def _conv(self, node: Node, rule: Conv, signal: Signal) -> Windows:
        boxes = self._boxes_below(node, signal.boxes)
        if isinstance(signal, Points):
            data, places = _filters(rule, signal), signal.places
        else:
            signal = _settled(signal, node.shape[1:])
            data, places = self._transposed(node, rule, signal.data), signal.origins
        return Windows(signal.units, data, places * rule.stride - rule.padding, boxes)

    def _transposed(self, node: Node, rule: Conv, data: Tensor) -> Tensor:
        """The transposed convolution of windows [q,h,w,C], without padding."""
        if _few_channels(rule):
            filters = self.observed.once(node, lambda: _phases(rule))
            return _transposed_by_phases(data, rule, filters)
        maps = F.conv_transpose2d(
            _maps(data), rule.weight, None, rule.stride, 0, 0, rule.groups, rule.dilation
        )
        return pixels(maps)

    # pooling

    def _unpool(self, node: Node, rule: MaxPool, signal: Signal) -> tuple[int, Signal]:
        """Also rectifies, and goes one node further, where the pool's input is a rectifier."""
        below, manner = node.inputs[0], self.observed.manner
        if isinstance(signal, Points):
            if manner.overlap == "sum":
                return below, self._through_switch(node, rule, signal)
            signal = _as_windows(signal, node.shape[0])
        relu = rule.relu and manner.rule == "deconv"
        lower = self.graph.nodes[below]
        if manner.rectifies(lower.rule) and self._only_consumer(below):
            relu, below = True, lower.inputs[0]
        unpooled = self._unpooled(node, rule, signal, relu)
        if rule.relu and manner.rule == "gradient":
            unpooled = self._times_derivative(node, torch.relu, unpooled)
        return below, unpooled

    def _only_consumer(self, index: int) -> bool:
        return len(self.graph.consumers[index]) == 1

    def _unpooled(self, node: Node, rule: MaxPool, signal: Windows, relu: bool) -> Windows:
        channels, *size = self.graph.nodes[node.inputs[0]].shape
        boxes = self._boxes_below(node, signal.boxes)
        origins, height, width = _frames(boxes, size)
        data = signal.data.new_empty(len(signal.units), height, width, channels)
        images = self.images[signal.units]
        ops.unpool_windows(
            self.observed.switches[node.index],
            [signal.data.reshape(-1, channels)],
            _table(images, signal, origins, height, width, data.device),
            data.view(-1, channels),
            height * width,
            rule.kernel,
            rule.stride,
            rule.padding,
            rule.dilation,
            relu,
            self.observed.manner.overlap == "overwrite",
        )
        return Windows(signal.units, data, origins, boxes)

    def _through_switch(self, node: Node, rule: MaxPool, points: Points) -> Points:
        """A point under max-pooling is a point again."""
        switches = self.observed.switches[node.index]
        at = (self.images[points.units], *points.places.T, points.channels)
        tap = switches[tuple(torch.from_numpy(i).to(switches.device) for i in at)].cpu().numpy()
        none = tap == (255 if switches.dtype == torch.uint8 else -1)
        taps = np.stack(np.divmod(tap.astype(np.int64), rule.kernel[1]), 1)
        places = points.places * rule.stride - rule.padding + taps * rule.dilation
        places[none] = 0
        values = points.values
        if none.any():
            values = values.masked_fill(torch.from_numpy(none).to(values.device), 0)
        below = replace(points, places=places, values=values)
        if not rule.relu:
            return below
        if self.observed.manner.rule == "deconv":
            return _rectified(below)
        return self._times_derivative(node, torch.relu, below)

    def _spread_average(self, node: Node, rule: AvgPool, signal: Signal) -> Windows:
        size = self.graph.nodes[node.inputs[0]].shape[1:]
        if isinstance(signal, Points):
            signal = _as_windows(signal, node.shape[0])
        boxes = self._boxes_below(node, signal.boxes)
        signal = _settled(signal, node.shape[1:])
        shares = self.observed.once(node, lambda: _shares(rule, size, signal.data))
        data = signal.data * _cut(shares, signal)[..., None]
        origins = signal.origins * rule.stride - rule.padding
        return Windows(signal.units, _repeated(data, rule), origins, boxes)

    # joins

    def _split_channels(self, node: Node, signal: Signal) -> list[tuple[int, Signal]]:
        parts: list[tuple[int, Signal]] = []
        start = 0
        for source in node.inputs:
            stop = start + self.graph.nodes[source].shape[0]
            if isinstance(signal, Windows):
                data = signal.data[..., start:stop].contiguous()
                parts.append((source, replace(signal, data=data)))
            else:
                rows = np.flatnonzero((signal.channels >= start) & (signal.channels < stop))
                if len(rows):
                    own = signal.take(rows)
                    parts.append((source, replace(own, channels=own.channels - start)))
            start = stop
        return parts

    def _to_both(self, node: Node, rule: Binary, signal: Signal) -> list[tuple[int, Signal]]:
        first, second = node.inputs
        if isinstance(signal, Points):
            other = replace(signal, values=-signal.values if rule.name == "sub" else signal.values)
        else:
            data = -signal.data if rule.name == "sub" else signal.data.clone()
            other = replace(signal, data=data)
        return [(first, signal), (second, other)]

    # gradients at the forward point

    def _times_derivative(self, node: Node, function: Any, signal: Signal) -> Signal:
        observed = self.observed
        derivative = observed.once(node, lambda: _derivative(function, observed.inputs[node.index]))
        images = self.images[signal.units]
        if isinstance(signal, Points):
            at = (images, *signal.places.T, signal.channels)
            factor = derivative[tuple(torch.from_numpy(i).to(derivative.device) for i in at)]
            return replace(signal, values=signal.values * factor)
        size = derivative.shape[1:3]
        signal = _settled(signal, size)
        factor = self._forward_windows(derivative, signal)
        return replace(signal, data=signal.data * factor)

    def _gradient_of_pixels(self, node: Node, signal: Signal) -> Signal:
        """The gradient of what works on each pixel by itself, from the forward values there."""
        if isinstance(node.rule, Pixelwise):
            maps = self.observed.inputs[node.index]
            picked = self.observed.once(node, lambda: _picked(node.rule, maps))
            if picked is not None:
                return _unpicked(signal, picked, maps.shape[1])
        if isinstance(signal, Points):
            signal = _as_windows(signal, node.shape[0])
        signal = _settled(signal, node.shape[1:])
        base = pixels(self.observed.inputs[node.index])
        rule = node.rule
        with torch.enable_grad():
            source = _maps(self._forward_windows(base, signal)).requires_grad_()
            if isinstance(rule, Lrn):
                value = ops.local_response_norm(source, rule.size, rule.alpha, rule.beta, rule.k)
            else:
                value = rule.function(source.clone())
            (below,) = torch.autograd.grad(value, source, _maps(signal.data))
        return replace(signal, data=pixels(below))

    def _forward_windows(self, base: Tensor, signal: Windows) -> Tensor:
        """The pixels of the forward pass where a settled signal's windows lie."""
        count, height, width = signal.data.shape[:3]
        out = base.new_empty(count, height, width, base.shape[3])
        images = self.images[signal.units]
        _gather(base, None, _table(images, None, signal.origins, height, width, out.device), out)
        return out


def _split(state: State, parts: int) -> Iterator[State]:
    """The same signals for consecutive groups of units."""
    units = np.unique(np.concatenate([s.units for signals in state.values() for s in signals]))
    for group in np.array_split(units, min(parts, len(units))):
        part: State = {}
        for index, signals in state.items():
            for signal in signals:
                rows = slice(*np.searchsorted(signal.units, (group[0], group[-1] + 1)))
                if rows.start < rows.stop:
                    part.setdefault(index, []).append(signal.take(rows))
        yield part


# --- arithmetic -----------------------------------------------------------------------------------


def _rectified(signal: Signal) -> Signal:
    if isinstance(signal, Points):
        return replace(signal, values=signal.values.clamp_min(0))
    signal.data.clamp_min_(0)
    return signal


def _scaled(signal: Signal, scale: Tensor) -> Signal:
    if isinstance(signal, Windows):
        signal.data.mul_(scale.to(signal.data.dtype))
        return signal
    scale = scale.to(signal.values.dtype)
    if scale.numel() > 1:
        scale = scale.view(-1)[torch.from_numpy(signal.channels).to(scale.device)]
    return replace(signal, values=signal.values * scale)


def _filters(rule: Conv, points: Points) -> Tensor:
    """Every point's filter times its value: windows [q,h,w,C]."""
    weight, (dh, dw) = rule.weight, rule.dilation
    channels = torch.from_numpy(points.channels).to(weight.device)
    own = weight[channels].permute(0, 2, 3, 1) * points.values[:, None, None, None]
    if rule.groups == 1 and dh == dw == 1:
        return own.contiguous()
    count, kh, kw, inputs = own.shape
    size = ((kh - 1) * dh + 1, (kw - 1) * dw + 1)
    data = own.new_zeros(count, *size, rule.groups, inputs)
    group = channels // (len(weight) // rule.groups)
    # Advanced indices first: [q, kh, kw, inputs] of the chosen group.
    data[torch.arange(count, device=group.device), ::dh, ::dw, group] = own
    return data.flatten(3)


def _few_channels(rule: Conv) -> bool:
    """Whether a transposed convolution is better done as a plain one, phase by phase: for it
    vectorises over the maps below, of which an image has three."""
    (kh, kw), (sh, sw) = rule.weight.shape[2:], rule.stride
    taps = (-(-kh // sh) * sh) * (-(-kw // sw) * sw)
    return (
        rule.weight.shape[1] < 8
        and rule.groups == 1
        and rule.dilation == (1, 1)
        and sh * sw > 1
        and taps * 2 < kh * kw * 3
    )


def _phases(rule: Conv) -> Tensor:
    """The filters of the convolution whose maps are the phases (and maps) of the transposed one."""
    weight, (sh, sw) = rule.weight, rule.stride
    maps, inputs, kh, kw = weight.shape
    th, tw = -(-kh // sh), -(-kw // sw)  # taps of a phase
    weight = F.pad(weight, (0, tw * sw - kw, 0, th * sh - kh))
    weight = weight.view(maps, inputs, th, sh, tw, sw).flip(2, 4).permute(3, 5, 1, 0, 2, 4)
    weight = weight.reshape(sh * sw * inputs, maps, th, tw)
    return weight.contiguous(memory_format=torch.channels_last)


def _transposed_by_phases(data: Tensor, rule: Conv, filters: Tensor) -> Tensor:
    (sh, sw), (kh, kw) = rule.stride, rule.weight.shape[2:]
    padding = (filters.shape[2] - 1, filters.shape[3] - 1)
    phases = pixels(F.conv2d(_maps(data), filters, padding=padding))
    whole = phases.unflatten(3, (sh, sw, -1)).transpose(2, 3)
    count, h, _, w = whole.shape[:4]
    whole = whole.reshape(count, h * sh, w * sw, -1)
    height, width = (data.shape[1] - 1) * sh + kh, (data.shape[2] - 1) * sw + kw
    return whole[:, :height, :width]


def _picked(rule: Pixelwise, maps: Tensor) -> Ints | None:
    """Which map below each map above is a copy of, where the rule shuffles or slices; else None."""
    count = maps.shape[1]
    numbered = torch.arange(count, dtype=maps.dtype, device=maps.device).view(1, -1, 1, 1)
    picked = rule.function(numbered)[0, :, 0, 0].nan_to_num().long().clamp(0, count - 1)
    sample = torch.randn(1, count, 2, 2, dtype=maps.dtype, generator=torch.Generator())
    sample = sample.to(maps.device)
    same = torch.equal(rule.function(sample), sample[:, picked])
    return picked.cpu().numpy() if same and len(picked.unique()) == len(picked) else None


def _unpicked(signal: Signal, picked: Ints, channels: int) -> Signal:
    if isinstance(signal, Points):
        return replace(signal, channels=picked[signal.channels])
    data = signal.data.new_zeros(*signal.data.shape[:3], channels)
    data[..., torch.from_numpy(picked).to(data.device)] = signal.data
    return replace(signal, data=data)


def _derivative(function: Any, maps: Tensor) -> Tensor:
    """The derivative of a pointwise function at every element, as pixels."""
    with torch.enable_grad():
        source = maps.detach().requires_grad_()
        value = function(source.clone())
        (slope,) = torch.autograd.grad(value, source, torch.ones_like(value))
    return pixels(slope)


def _shares(rule: AvgPool, size: Sequence[int], like: Tensor) -> Tensor:
    """[OH,OW]: what a window's average gives to each of its elements."""
    ones = like.new_ones(1, 1, *size)
    window = (rule.kernel, rule.stride, rule.padding, rule.ceil_mode)
    mean = F.avg_pool2d(ones, *window, rule.count_include_pad, rule.divisor)
    return (mean / F.avg_pool2d(ones, *window, divisor_override=1))[0, 0]


def _cut(plane: Tensor, signal: Windows) -> Tensor:
    """What lies under a settled signal's windows: [q,h,w] of a plane [H,W]."""
    rows, cols = (
        torch.from_numpy(signal.origins[:, axis, None] + np.arange(signal.data.shape[1 + axis])).to(
            plane.device
        )
        for axis in (0, 1)
    )
    return plane[rows[:, :, None], cols[:, None, :]]


def _repeated(data: Tensor, rule: AvgPool) -> Tensor:
    """Each pixel of windows [q,h,w,C] added to all the places that its pooling window had."""
    (kh, kw), (sh, sw) = rule.kernel, rule.stride
    count, h, w, channels = data.shape
    if h == w == 1:
        return data.expand(count, kh, kw, channels).contiguous()
    rows, cols = (h - 1) * sh + 1, (w - 1) * sw + 1
    out = data.new_zeros(count, rows + kh - 1, cols + kw - 1, channels)
    for i in range(kh):
        for j in range(kw):
            out[:, i : i + rows : sh, j : j + cols : sw] += data
    return out


# --- many units -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Projected:
    """A unit on the image: ``patch`` [C,h,w] at ``box`` (y0, x0, y1, x1)."""

    box: tuple[int, int, int, int]
    patch: Tensor


def descend(
    observed: Observed, node: int, images: Ints, units: Ints, seed: float | None, limit: int
) -> Iterator[tuple[int, Projected]]:
    """Carry units of a node down to the images; in any order, with their numbers.

    Args:
        images: [P], which image each unit is of.
        units: [P,3], (channel, row, column); row and column are -1 for the whole map.
        seed: the signal to start from; None for the units' own values.
        limit: bytes that the signals of one batch of units may take (one unit's in any case).
    """
    order = _by_size(observed.graph, node, units)
    images, units = images[order], units[order]
    descent = Descent(observed, images, limit)
    for state in _seeds(observed.outputs[node], node, images, units, seed, limit):
        for signal in descent.run(state, node):
            for unit, projected in _patches(signal, observed.graph.nodes[0].shape):
                yield int(order[unit]), projected


def _by_size(graph: Graph, node: int, units: Ints) -> Ints:
    """The units in an order in which those whose cones are of one size go together: near the edge
    they are smaller, and a batch's windows are as large as its largest cone."""
    boxes = np.concatenate([units[:, 1:], units[:, 1:] + 1], 1)
    cones = cone.descend(graph, graph.nodes[node], boxes).get(0)
    if cones is None:
        return np.arange(len(units))
    return np.lexsort((cones[:, 3] - cones[:, 1], cones[:, 2] - cones[:, 0]))


def _seeds(
    maps: Tensor, node: int, images: Ints, units: Ints, seed: float | None, limit: int
) -> Iterator[State]:
    points = np.flatnonzero(units[:, 1] >= 0)
    if len(points):
        channels, places = units[points, 0], units[points, 1:]
        at = (images[points], channels, *places.T)
        values = maps[tuple(torch.from_numpy(i).to(maps.device) for i in at)]
        if seed is not None:
            values = torch.full_like(values, seed)
        yield {node: [Points(points, channels, places, values)]}
    whole = np.flatnonzero(units[:, 1] < 0)
    for group in np.array_split(whole, -(-len(whole) * maps[0].nbytes // limit) or 1):
        if len(group):
            yield {node: [_whole_maps(maps, group, images[group], units[group, 0], seed)]}


def _whole_maps(
    maps: Tensor, units: Ints, images: Ints, channels: Ints, seed: float | None
) -> Windows:
    count, size = len(units), maps.shape[2:]
    data = maps.new_zeros(count, *size, maps.shape[1])
    for row, (image, channel) in enumerate(zip(images, channels, strict=True)):
        data[row, :, :, channel] = maps[image, channel] if seed is None else seed
    boxes = np.tile(np.array([0, 0, *size]), (count, 1))
    return Windows(units, data, boxes[:, :2], boxes)


def _patches(signal: Signal, shape: Sequence[int]) -> Iterator[tuple[Any, Projected]]:
    if isinstance(signal, Points):
        signal = _as_windows(signal, shape[0])
    starts = signal.boxes[:, :2] - signal.origins
    stops = signal.boxes[:, 2:] - signal.origins
    maps = _maps(signal.data)
    for row, (unit, box) in enumerate(zip(signal.units, signal.boxes, strict=True)):
        (y0, x0), (y1, x1) = starts[row], stops[row]
        patch = maps[row, :, y0:y1, x0:x1] if y0 < y1 and x0 < x1 else maps[row, :, :0, :0]
        yield unit, Projected(tuple(box.tolist()), patch)


__all__ = ["Manner", "Observed", "Projected", "descend", "observe", "obstacle"]
