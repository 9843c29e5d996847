"""One pass over memory, and all of a graph's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zfcuda import ops
from zfcuda.graph.nodes import (
    Affine,
    AvgPool,
    Binary,
    Concat,
    Conv,
    Graph,
    Identity,
    Lrn,
    MaxPool,
    Node,
    PixelCopy,
    Pixelwise,
    Pointwise,
    Rule,
    Shape,
)
from zfcuda.graph.pixelwise import Linear, linear

# What cones understand.
LOCAL = (Conv, MaxPool, AvgPool, Affine, Pointwise, Pixelwise, PixelCopy, Lrn, Concat, Binary)


class Convolution:
    """``rule`` as a function of channels_last maps, followed by a ReLU if ``relu``; over many small
    batches with the same weights.

    torch's convolution stays. Laying the weights out in oneDNN's own formats beforehand was tried
    and left out: formats differ from shape to shape of the windows, so that copies pile up, and
    batches of windows are large enough to pay for it at each call.
    """

    def __init__(self, rule: Conv, relu: bool) -> None:
        self.rule, self.relu = rule, relu
        self._weight: Tensor | None = None

    def __call__(self, x: Tensor, padding: tuple[int, int]) -> Tensor:
        rule = self.rule
        if self._weight is None:  # in the layout of the maps: one reordering less at every call
            self._weight = rule.weight.contiguous(memory_format=torch.channels_last)
        return self._rectified(
            F.conv2d(x, self._weight, rule.bias, rule.stride, padding, rule.dilation, rule.groups)
        )

    @property
    def per_pixel(self) -> bool:
        """Whether every pixel is convolved by itself."""
        rule = self.rule
        one = rule.kernel == (1, 1) and rule.stride == (1, 1) and rule.padding == (0, 0)
        return one and rule.groups == 1

    def of_pixels(self, pixels: Tensor) -> Tensor:
        """The same for pixels [n,C], if it is ``per_pixel``."""
        # A BLAS, since oneDNN would compile, and keep, code for every number of pixels.
        return self._rectified(F.linear(pixels, self.rule.weight.flatten(1), self.rule.bias))

    def _rectified(self, out: Tensor) -> Tensor:
        # oneDNN could do this before the result leaves the registers, but turns NaN into zero.
        return torch.relu_(out) if self.relu else out


@dataclass(frozen=True, eq=False)
class Step:
    """One pass.

    Attributes:
        value: the graph node whose value it makes (the last of those it covers).
        node: the node it begins with.
        rule: that node's rule; a convolution may have a batch norm folded into it, a pool the ReLU
            before it (whose step then leaves it out).
        inputs: the nodes whose values it takes.
        then: what is applied to the result; a ReLU right after a convolution is part of
            ``convolution`` instead.
        shape: of its value, per image.
        convolution: the rule as a function, if it is a convolution.
        owned: for each input, whether this step alone takes it and may overwrite it.
    """

    value: int
    node: Node
    rule: Rule
    inputs: tuple[int, ...]
    then: tuple[Pointwise | Affine, ...]
    shape: tuple[int, ...] | None
    convolution: Convolution | None = None
    owned: tuple[bool, ...] = ()

    @property
    def local(self) -> bool:
        """Whether a change in a rectangle of its input changes a rectangle of its value."""
        return isinstance(self.rule, LOCAL) and self.shape is not None and len(self.shape) == 3


@dataclass(frozen=True, eq=False)
class Schedule:
    """All of a graph's steps in order, and which of them run inside cones, on what.

    Attributes:
        source: for every node, whose value it shares.
        boxes: by step value int64 [P,4], the rectangle that each of P occluders can change; steps
            past a barrier are missing.
        cones: by step value, the steps that run inside cones.
    """

    graph: Graph
    steps: tuple[Step, ...]
    source: Mapping[int, int]
    boxes: Mapping[int, np.ndarray] = field(default_factory=dict)
    cones: frozenset[int] = frozenset()

    @property
    def output(self) -> int:
        return self.source[self.graph.output]

    @cached_property
    def last_takers(self) -> dict[int, int]:
        """See :func:`last_takers`; by value, the value of a step."""
        return last_takers((step.value, step.inputs) for step in self.steps)

    @cached_property
    def released(self) -> dict[int, list[int]]:
        """By step, the values that no later step takes; the output stays."""
        return released(self.last_takers, {self.output})

    @cached_property
    def handed_over(self) -> frozenset[int]:
        """The values that leave the cones: what steps on whole maps take, and the output."""
        inside = {0, *self.cones}
        taken = {
            value
            for step in self.steps[1:]
            if step.value not in self.cones and not isinstance(step.rule, Shape)
            for value in step.inputs
        }
        return frozenset((taken | {self.output}) & inside)


def last_takers(calls: Iterable[tuple[int, Sequence[int]]]) -> dict[int, int]:
    """Of calls in order, each the value that it makes and those that it takes: by value, the call
    that takes it last; the one that makes it where none does."""
    found: dict[int, int] = {}
    for value, inputs in calls:
        found |= dict.fromkeys((*inputs, value), value)
    return found


def released(takers: Mapping[int, int], kept: Collection[int] = ()) -> dict[int, list[int]]:
    """By call, the values that nothing needs once it is done, but for those to be ``kept``."""
    found: dict[int, list[int]] = {}
    for value, call in takers.items():
        if value not in kept:
            found.setdefault(call, []).append(value)
    return found


def fuse(graph: Graph, wanted: Collection[int] = ()) -> Schedule:
    """The graph's steps, such that the value of every ``wanted`` node is made by some step; none
    inside cones yet."""
    kept = {*wanted, graph.output}
    source: dict[int, int] = {}
    made: dict[int, Step] = {}  # by value
    for node in graph.nodes:
        if isinstance(node.rule, Identity):
            source[node.index] = source[node.inputs[0]]
            continue
        inputs = tuple(source[i] for i in node.inputs)
        step = Step(node.index, node, node.rule, inputs, (), node.shape)
        before = made.get(inputs[0]) if inputs else None
        if before is not None and _only_for(graph, node, kept):
            if isinstance(step.rule, MaxPool) and _ends_in_relu(before):
                made[before.value] = replace(before, then=before.then[:-1])
                step = replace(step, rule=replace(step.rule, relu=True))
            elif (joined := _joined(before, step)) is not None:
                del made[before.value]
                step = joined
        source[node.index] = step.value
        made[step.value] = step
    shared = {0, *(source[node] for node in kept)}
    taken = Counter(value for step in made.values() for value in step.inputs)
    return Schedule(
        graph,
        tuple(
            replace(
                _ready(made[value]),
                owned=tuple(taken[i] == 1 and i not in shared for i in made[value].inputs),
            )
            for value in sorted(made)
        ),
        source,
    )


def _ready(step: Step) -> Step:
    """With its convolution prepared."""
    if not isinstance(step.rule, Conv):
        return step
    relu = bool(step.then) and getattr(step.then[0], "name", None) == "relu"
    then = step.then[1:] if relu else step.then
    return replace(step, then=then, convolution=Convolution(step.rule, relu))


def _ends_in_relu(step: Step) -> bool:
    return bool(step.then) and getattr(step.then[-1], "name", None) == "relu"


def _only_for(graph: Graph, node: Node, kept: Collection[int]) -> bool:
    """Whether the node's first input, through identities, has no other use."""
    index = node.inputs[0]
    user = node.index
    while True:
        if index in kept or graph.consumers[index] != (user,):
            return False
        if not isinstance(graph.nodes[index].rule, Identity):
            return True
        index, user = graph.nodes[index].inputs[0], index


def _joined(before: Step, step: Step) -> Step | None:
    """Both steps as one, if one pass can do them."""
    rule = step.rule
    if isinstance(rule, Affine) and isinstance(before.rule, Conv) and not before.then:
        folded = _folded(before.rule, rule)
        return replace(before, value=step.value, rule=folded, shape=step.shape)
    fresh = isinstance(before.rule, Conv | Binary | Affine | Concat)
    if isinstance(rule, Affine | Pointwise) and fresh:
        return replace(before, value=step.value, then=(*before.then, rule), shape=step.shape)
    return None


def _folded(conv: Conv, affine: Affine) -> Conv:
    """The convolution followed by ``affine``, as one convolution."""
    wide = torch.float64
    scale, shift = affine.scale.to(wide), affine.shift.to(wide)
    weight = conv.weight.to(wide) * scale.expand(len(conv.weight))[:, None, None, None]
    bias = shift if conv.bias is None else conv.bias.to(wide) * scale + shift
    dtype = conv.weight.dtype
    bias = bias.expand(len(conv.weight)).to(dtype)
    # In the layout that Convolution wants, so that it makes no copy of this one.
    weight = weight.to(dtype).contiguous(memory_format=torch.channels_last)
    return replace(conv, weight=weight, bias=bias)


# Activations that torch can write over their input: new memory for their result would cost more
# than the activation.
_INPLACE = (
    F.celu,
    F.elu,
    F.hardsigmoid,
    F.hardswish,
    F.hardtanh,
    F.leaky_relu,
    F.mish,
    F.relu6,
    F.selu,
    F.silu,
)


def run(schedule: Schedule, step: Step, values: Mapping[int, Any]) -> Any:
    """The step's value for a batch, from the values of its inputs (by node)."""
    rule = step.rule
    called = step.node.function
    if isinstance(called, Linear):
        return linear(values[step.inputs[0]], called.weight, called.bias)
    if not step.local:
        return schedule.graph.evaluate(step.node, Values(schedule.source, values))
    x = values[step.inputs[0]]
    match rule:
        case Conv():
            out = step.convolution(x, rule.padding)
        case MaxPool():
            out = ops.max_pool2d(
                x,
                rule.kernel,
                rule.stride,
                rule.padding,
                rule.dilation,
                rule.ceil_mode,
                rule.relu,
            )[0]
        case AvgPool():
            out = averages(x, rule)
        case Lrn():
            out = ops.local_response_norm(x, rule.size, rule.alpha, rule.beta, rule.k)
        case Concat():
            out = torch.cat([values[i] for i in step.inputs], 1)
        case Binary():
            out = rule.function(*(values[i] for i in step.inputs))
        case Affine():
            out = affine(x, rule)
        case Pointwise() | Pixelwise() | PixelCopy():
            out = rule.function(x)
    return finish(step, out)


def averages(x: Tensor, rule: AvgPool) -> Tensor:
    """The rule on maps [n,C,h,w]."""
    if rule.kernel == tuple(x.shape[2:]) and rule.padding == (0, 0) and rule.divisor is None:
        return x.mean((2, 3), keepdim=True)  # whose sum is pairwise: a pool's loses digits
    more = (rule.ceil_mode, rule.count_include_pad, rule.divisor)
    return F.avg_pool2d(x, rule.kernel, rule.stride, rule.padding, *more)


def finish(step: Step, out: Tensor) -> Tensor:
    """What the step does last, to a fresh ``out`` [n,C,h,w]."""
    for rule in step.then:
        if isinstance(rule, Affine):
            out = affine(out, rule)
        elif rule.name == "relu":
            out = torch.relu_(out)
        elif getattr(rule.function, "func", rule.function) in _INPLACE:
            out = rule.function(out, inplace=True)
        else:
            out = rule.function(out)
    return out


def affine(x: Tensor, rule: Affine) -> Tensor:
    """The rule on maps [n,C,h,w]."""
    scale, shift = rule.scale.expand(x.shape[1]), rule.shift.expand(x.shape[1])
    return torch.addcmul(shift[:, None, None], x, scale[:, None, None])


class Values(Mapping[int, Any]):
    """Values by any node, looked up where the value is kept."""

    def __init__(self, source: Mapping[int, int], values: Mapping[int, Any]) -> None:
        self._source, self._values = source, values

    def __getitem__(self, node: int) -> Any:
        return self._values[self._source[node]]

    def __iter__(self) -> Iterator[int]:
        return (node for node in self._source if self._source[node] in self._values)

    def __len__(self) -> int:
        return sum(1 for _ in self)
