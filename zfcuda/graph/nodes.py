"""The graph itself: values, the calls that make them, and how they are evaluated.

The rule of a node is its kind (:mod:`.rules`), one that cones understand.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.fx.node import map_aggregate

from zfcuda.graph.rules import Input, Rule, TransposedConv
from zfcuda.inference.checks import without_autocast


def as_recorded(device: torch.device) -> AbstractContextManager[Any]:
    """Within, calls work on the numbers that they are given. What autocast casts, weights too, it
    cast when a graph was recorded; the graph has these casts, and none where the model left
    autocast."""
    return without_autocast(device)


@dataclass(frozen=True)
class Sized:
    """A number that depends on how many images there are: ``fixed + each * images``."""

    fixed: int
    each: int

    def of(self, images: int) -> int:
        return self.fixed + self.each * images

    def images(self, number: int) -> int:
        return (number - self.fixed) // self.each


@dataclass(frozen=True, eq=False)
class Value:
    """A node's value, as an argument.

    Attributes:
        index: of the node.
        shape: per image, where the first axis is that of the images.
        sizes: of the whole.
    """

    index: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    sizes: tuple[int | Sized, ...] = ()

    @property
    def is_map(self) -> bool:
        return len(self.shape) == 3 and self.dtype.is_floating_point


def values_in(arguments: Any) -> list[Value]:
    """The values among a call's arguments, in order."""
    found: list[Value] = []
    map_aggregate(arguments, lambda a: found.append(a) if isinstance(a, Value) else None)
    return found


def filled(arguments: Any, value_of: Callable[[Any], Any]) -> Any:
    """A call's arguments with something in the place of every value, and of every number that
    depends on how many images there are."""
    return map_aggregate(arguments, lambda a: value_of(a) if isinstance(a, (Value, Sized)) else a)


# Functions of ATen that go by another name in torch.
_SPELLED = {
    "convolution": "conv2d",
    "native_batch_norm": "batch_norm",
    "native_layer_norm": "layer_norm",
    "native_group_norm": "group_norm",
    "max_pool2d_with_indices": "max_pool2d",
    "addmm": "linear",
    "mm": "linear",
    "slice": "getitem",
    "select": "getitem",
    "index": "getitem",
    "prelu_kernel": "prelu",
    "log_sigmoid_forward": "logsigmoid",
    "rrelu_with_noise": "rrelu",
    "linalg_vector_norm": "norm",
    "native_multi_head_attention": "multi_head_attention",
    "transformer_encoder_layer_fwd": "transformer_encoder_layer",
    "safe_softmax": "softmax",
    "split_with_sizes": "split",
    "fft_r2c": "fft",
    "fft_c2r": "ifft",
    "fft_c2c": "fft",
    "grid_sampler_2d": "grid_sample",
    "affine_grid_generator": "affine_grid",
    "local_scalar_dense": "item",
    "upsample_nearest2d": "interpolate",
    "to_map": "permute",
    "from_map": "permute",
    "upsample_bilinear2d": "interpolate",
    "upsample_bicubic2d": "interpolate",
    "upsample_bilinear2d_aa": "interpolate",
    "upsample_bicubic2d_aa": "interpolate",
}


def spelled(target: str) -> str:
    """The name of a function of ATen as torch's users write it."""
    name = target.strip("_")
    return _SPELLED.get(name, name)


@dataclass(frozen=True, eq=False)
class Node:
    """One call of the model, and its value.

    Attributes:
        index: its place in the graph.
        name: of the call, told apart from others of its kind.
        rule: what the call does.
        inputs: indices of the nodes whose values the rule takes, in the rule's order.
        layers: names of the modules whose output (of their last call) this value is.
        shape: of the value, per image: (C,H,W) for maps; None for what depends on the number of
            images only.
        function, args, kwargs: the call itself, with :class:`Value` and :class:`Sized` in the place
            of what depends on the images; it changes none of them.
        target: the name of the function.
        author: what the model's author knows the call by.
        module: the module of torch.nn or zfcuda.nn that makes it, or None.
        custom: the torch.autograd.Function that makes it, whose backward is not the call's;
            "no_grad" where the model makes it without gradients; else "".
        within: the innermost module whose forward makes it; "" for the model itself.
    """

    index: int
    name: str
    rule: Rule
    inputs: tuple[int, ...]
    layers: tuple[str, ...]
    shape: tuple[int, ...] | None
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    target: str = ""
    author: str = ""
    module: str | None = None
    custom: str = ""
    within: str = ""

    @property
    def is_map(self) -> bool:
        """Whether the value is maps [n,C,H,W]."""
        return self.shape is not None and len(self.shape) == 3

    @property
    def spelled(self) -> str:
        """The function's name as torch's users write it."""
        vector = self.shape is not None and len(self.shape) == 1
        if vector and self.target == "view":
            return "flatten"
        if isinstance(self.rule, TransposedConv):
            return "conv_transpose2d"
        return spelled(self.target)

    @cached_property
    def _counted(self) -> tuple[int, int, Sized] | None:
        """A value, one of its axes and the size of that: tells how many images there are. None
        where the call need not know."""
        found: list[Sized] = []
        map_aggregate(
            (self.args, self.kwargs), lambda a: found.append(a) if isinstance(a, Sized) else a
        )
        for value in values_in((self.args, self.kwargs)) if found else ():
            for axis, size in enumerate(value.sizes):
                if isinstance(size, Sized):
                    return value.index, axis, size
        return None

    def evaluate(self, values: Mapping[int, Any]) -> Any:
        """See :meth:`Graph.evaluate`."""
        if isinstance(self.rule, Input):
            return values[self.index]
        images = 0
        if self._counted is not None:
            index, axis, size = self._counted
            images = size.images(values[index].shape[axis])
        args, kwargs = filled(
            (self.args, self.kwargs),
            lambda a: values[a.index] if isinstance(a, Value) else a.of(images),
        )
        return self.function(*args, **kwargs)


class Graph:
    """A traced model; made by :func:`zfcuda.graph.trace`.

    Attributes:
        nodes: in an order in which they can be evaluated; the first is the input. Calls on which
            neither the output nor a requested layer depends are left out.
        output: index of the node whose value is the model's output.
        consumers: by node, the indices of the nodes whose rules take its value.
        mixes: a call that makes one value of all images of a batch, so that only one may go through
            it at a time; empty where there is none.
        casts: weights, and what autocast made of them in the recording, which the nodes hold.
    """

    def __init__(self, nodes: tuple[Node, ...], output: int, mixes: str = "") -> None:
        self.casts: tuple[tuple[Tensor, Tensor], ...] = ()
        self.nodes = nodes
        self.output = output
        self.mixes = mixes
        taken: list[list[int]] = [[] for _ in nodes]
        for node in nodes:
            for index in dict.fromkeys(node.inputs):
                taken[index].append(node.index)
        self.consumers = tuple(map(tuple, taken))
        self._layers = {name: node for node in nodes for name in node.layers}

    def evaluate(self, node: Node, values: Mapping[int, Any]) -> Any:
        """The node's value for a batch, by the model's own call.

        Args:
            values: the values of at least the nodes that it takes, by index. None is changed, but
                the result may be one of them or share its memory.
        """
        return node.evaluate(values)

    @cached_property
    def released(self) -> dict[int, list[int]]:
        """By node, the values that no later call takes; the output stays."""
        taken = ((n.index, [v.index for v in values_in((n.args, n.kwargs))]) for n in self.nodes)
        return released(last_takers(taken), {self.output})

    def layer(self, name: str) -> Node | None:
        """The node whose value is the output of that module's last call; None if there is none: the
        module was not called, does not return a tensor, or nothing depends on its output."""
        return self._layers.get(name)

    def ancestors(self, tops: Collection[int]) -> set[int]:
        """The indices of these nodes and of all whose values theirs are made of."""
        found = {*tops}
        for index in range(max(found, default=-1), -1, -1):
            if index in found:
                found.update(self.nodes[index].inputs)
        return found


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


def pruned(
    nodes: Sequence[Node],
    output: int,
    layers: Mapping[str, int],
    requested: Collection[str],
    mixing: Mapping[int, str],
) -> Graph:
    """The nodes on which the output or a requested layer depends, numbered anew.

    Args:
        layers: by name, the node whose value is that layer's output.
        mixing: by node, the call that makes it of all images together.
    """
    wanted = {0, output, *(layers[name] for name in requested)}
    for node in reversed(nodes):
        if node.index in wanted:
            wanted |= {value.index for value in values_in((node.args, node.kwargs))}
            wanted |= {*node.inputs}
    place = {old: new for new, old in enumerate(sorted(wanted))}
    names: dict[int, list[str]] = {}
    for name, index in layers.items():
        names.setdefault(index, []).append(name)

    def moved(node: Node) -> Node:
        args, kwargs = filled(
            (node.args, node.kwargs),
            lambda a: replace(a, index=place[a.index]) if isinstance(a, Value) else a,
        )
        return replace(
            node,
            index=place[node.index],
            inputs=tuple(place[i] for i in node.inputs),
            layers=tuple(names.get(node.index, ())),
            args=args,
            kwargs=dict(kwargs),
        )

    mixes = next((mixing[index] for index in place if index in mixing), "")
    return Graph(tuple(moved(nodes[old]) for old in place), place[output], mixes)
