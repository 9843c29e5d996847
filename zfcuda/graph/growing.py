"""A graph while it grows: its nodes so far, and which axes their values have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zfcuda.graph.axes import Axes, axes_of_maps, result_axes, size_of
from zfcuda.graph.calls import Call
from zfcuda.graph.fixed import ConstantMap
from zfcuda.graph.layouts import Layout, keeps_channels
from zfcuda.graph.nodes import Node, Sized, Value, values_in
from zfcuda.graph.pixelwise import Chain, chain_to
from zfcuda.graph.rules import Binary, Fixed, Opaque
from zfcuda.graph.unpooling import SwitchesOf, Unpooling

aten = torch.ops.aten


class Growing:
    """The nodes so far, and how more are made.

    Attributes:
        nodes: so far.
        image: the value of the first.
        axes: by node, as far as they are known.
        grids: rows and columns of the maps they are of.
        derived: the nodes whose axes follow from those of what they take.
        local: those before any barrier.
    """

    def __init__(self, image: Value) -> None:
        self.nodes: list[Node] = []
        self.image = image
        self.axes: dict[int, Axes] = {}
        self.grids: dict[int, tuple[int, ...]] = {}
        self.derived: set[int] = set()
        self.local: set[int] = set()
        self._used: dict[str, int] = {}

    def new_node(
        self, call: Call, rule: Any, inputs: Any, shape: Any, function: Any, args: Any, kwargs: Any
    ) -> Node:
        node = Node(len(self.nodes), "", rule, inputs, (), shape, function, args, kwargs, call.name)
        name = (call.layer or "model").replace(".", "_")
        name = node.spelled if call.layer is None else name
        return replace(
            node,
            name=self.unused(name),
            author=call.author or node.spelled,
            module=call.layer,
            custom=call.custom,
            within=call.within,
        )

    def unused(self, name: str) -> str:
        seen = self._used[name] = self._used.get(name, -1) + 1
        return f"{name}_{seen}" if seen else name

    def appended(self, node: Node, like: Value) -> Value:
        """A node of maps that are no value of the recording."""
        self.nodes.append(node)
        self.axes[node.index] = axes_of_maps(node.shape[0])
        sizes = (Sized(0, 1), *node.shape)
        return Value(node.index, node.shape, like.dtype, like.device, sizes)

    def find_axes(self, node: Node, sizes: tuple[int | Sized, ...]) -> None:
        """Note which axes the node's value has: by the rule of its call, or those of maps."""
        grids = {self.grids.get(v.index) for v in values_in((node.args, node.kwargs))}
        (grid,) = grids if len(grids) == 1 else (None,)
        if grid is not None:
            known = {"n": 2, "h": grid[0], "w": grid[1]}
            axes = result_axes(node, lambda v: self.axes.get(v.index), known)
            told = [s.of(2) if isinstance(s, Sized) else s for s in sizes]
            if axes is not None and [size_of(axis, known) for axis in axes] == told:
                self.axes[node.index], self.grids[node.index] = axes, grid
                self.derived.add(node.index)
                return
        if node.is_map:
            self.axes[node.index] = axes_of_maps(node.shape[0])
            self.grids[node.index] = node.shape[1:]

    def is_map(self, value: Value) -> bool:
        return value.is_map and self.axes.get(value.index) == axes_of_maps(value.shape[0])

    def shortened(self, node: Node) -> Node:
        """A call as the end of a chain that treats every pixel alone, if it is: an opaque one, or
        one that combines two maps that are made of the same."""
        chain = chain_to(self.nodes, node, self.axes, self.derived)
        if chain is None or (isinstance(node.rule, Binary) and not chain.replaces_its_end):
            return node
        args = (chain.source,)
        inputs = (chain.source.index,)
        return replace(node, rule=chain.rule, inputs=inputs, function=chain, args=args, kwargs={})

    def instead(self, node: Node, tried: Callable[[Node], Node | None]) -> Node:
        """What was tried instead of a node that is not added yet; the node itself, and all as it
        was before, where that is nothing."""
        count = len(self.nodes)
        known = self.axes.get(count), self.grids.get(count), count in self.derived
        found = tried(node)
        if found is not None:
            return found
        for index in range(count, len(self.nodes) + 1):
            self.axes.pop(index, None)
            self.grids.pop(index, None)
            self.derived.discard(index)
        del self.nodes[count:]
        axes, grid, derived = known
        if axes is not None and grid is not None:
            self.axes[count], self.grids[count] = axes, grid
        if derived:
            self.derived.add(count)
        return node

    def layout(self, index: int) -> Layout | None:
        return Layout.of(self.axes.get(index), self.grids.get(index))

    def map_of(self, value: Value, layout: Layout) -> tuple[Value, int] | None:
        """The maps whose numbers a value holds, and the node of the maps that they come from."""
        at = value
        while not self.is_map(at):
            node = self.nodes[at.index]
            below = values_in((node.args, node.kwargs))
            around = [self.axes.get(v.index) for v in (at, *below)]
            if len(below) != 1 or node.custom or not keeps_channels(node.target, around):
                break
            at = below[0]
        else:
            return at, at.index
        node = self.shortened(self.laid_out("to_map", layout, value, layout.shape))
        if not isinstance(node.function, Chain):
            return None
        last = self.nodes[value.index]  # known by what makes the value
        self._used.setdefault(last.name, 0)
        node = replace(node, name=self.unused(last.name), author=last.author, module=last.module)
        return self.appended(node, value), node.function.source.index

    def laid_out(self, name: str, layout: Layout, value: Value, shape: Any) -> Node:
        """The call that brings maps into a layout, or a value out of it."""
        function, inputs = getattr(layout, name), (value.index,)
        node = Node(len(self.nodes), "", Opaque(), inputs, (), shape, function, (value,), {}, name)
        axes = layout.axes if name == "from_map" else axes_of_maps(layout.channels)
        self.axes[node.index], self.grids[node.index] = axes, layout.grid
        self.derived.add(node.index)
        node = replace(node, name=self.unused(node.spelled), author=node.spelled)
        return node

    def cast(self, call: Call, x: Value, like: Value) -> Value:
        """A node for a map in another type of number."""
        function, named = aten._to_copy.default, {"dtype": like.dtype}
        made = replace(call, function=function, several=False, layer=None, author="cast", custom="")
        fixed = isinstance(self.nodes[x.index].rule, Fixed)
        rule = Fixed(like.dtype) if fixed else Opaque()
        node = self.new_node(made, rule, (x.index,), x.shape, function, (x,), named)
        self.find_axes(node, x.sizes)
        node = node if fixed else self.shortened(node)
        if x.index in self.local:
            self.local.add(node.index)
        self.nodes.append(node)
        return replace(x, index=node.index, dtype=like.dtype)

    def constant_map(self, call: Call, constant: Tensor, x: Value) -> Value:
        """A node for a constant that acts on the map ``x``, as maps of its size and dtype."""
        shape = (constant.shape[-3] if constant.dim() > 2 else 1, *x.shape[1:])
        function = ConstantMap(shape, x.dtype)
        args = (self.image, constant)
        made = replace(call, function=function, layer=None, author="constant", custom="")
        node = self.new_node(made, Fixed(x.dtype), (0,), shape, function, args, {})
        self.local.add(node.index)
        return self.appended(node, x)

    def switches(self, call: Call, found: Unpooling) -> Value:
        """A node for the switches by which a call unpools."""
        rule, pooled = found.switches, found.pooled
        made = replace(call, function=SwitchesOf(rule), layer=None, author="switches", custom="")
        inputs = (pooled.index,)
        node = self.new_node(made, rule, inputs, found.shape, made.function, (pooled,), {})
        if self.local.issuperset(inputs):
            self.local.add(node.index)
        self.grids[node.index] = found.shape[1:]
        return self.appended(node, pooled)
