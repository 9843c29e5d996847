"""From the calls of a trace to its graph, by running them on real images.

That settles what torch.fx leaves open: the shapes, whether a call does what its rule says, and what
in-place calls do to values seen through other names.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.fx
from torch import Tensor
from torch.fx.node import map_aggregate

from zfcuda.graph.guards import CallFailed, Untraceable, version
from zfcuda.graph.nodes import (
    Affine,
    Binary,
    Graph,
    Identity,
    Input,
    Lrn,
    Node,
    Opaque,
    Pixelwise,
    Pointwise,
    Rule,
    Shape,
    Value,
    filled,
    pruned,
    values_in,
)
from zfcuda.graph.pixelwise import chain_to
from zfcuda.graph.recognition.reading import read
from zfcuda.graph.recognition.spellings import NotDeterministic
from zfcuda.graph.symbolic import End, Tracer


class Interpreter:
    """The calls of a trace, run one after another.

    Calls really work in place here, so that what a later call sees is what it sees in the model.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._nodes: list[Node] = []
        self._results: list[Any] = []  # by node; kept alive, so that memory tells who is who
        self._values: list[Value] = []
        self._parameters: dict[torch.fx.Node, Tensor] = {}
        self._current: dict[torch.fx.Node, int] = {}  # whose value a name stands for by now
        self._stale: set[int] = set()  # values that an in-place call changed through a view

    def run(self, images: Tensor, end: End) -> tuple[Graph, Tensor]:
        """The graph, and the value that it ends with.

        Raises:
            Untraceable: a call fails, or changes what cannot be followed; or the value is not one
                for each of the images.
        """
        layers: dict[str, int] = {}
        returned = iter(self._tracer.returned)
        coming = next(returned, None)
        calls = [*self._tracer.graph.nodes][: end.count]
        for done, call in enumerate((*calls, None)):
            # A module's output is the value as it returns, before later calls change it.
            while coming is not None and coming.count <= done:
                layers |= dict.fromkeys(coming.names, self._index(coming.call))
                coming = next(returned, None)
            if call is None:
                break
            if not done:
                node = self._node(call, Input(), (), images, _same, (), {})
                self._current[call] = self._add(node, images)
            elif call.op == "get_attr":
                self._parameters[call] = operator.attrgetter(call.target)(self._tracer.root)
            else:
                self._current[call] = self._call(call)
        output = self._index(end.call)
        y = self._results[output]
        if not isinstance(y, Tensor) or y.dim() < 2 or len(y) != len(images):
            got = list(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise Untraceable(f"it must return a tensor [{len(images)},K], it returns {got}")
        return pruned(self._nodes, output, layers, end.layers), y

    def _index(self, call: torch.fx.Node) -> int:
        index = self._current[call]
        if index in self._stale:
            raise Untraceable(
                f"{self._nodes[index].name} is used after a call changed a part of it in place"
            )
        return index

    def _argument(self, a: Any) -> Any:
        if not isinstance(a, torch.fx.Node):
            return a
        return self._parameters[a] if a in self._parameters else self._values[self._index(a)]

    def _call(self, call: torch.fx.Node) -> int:
        target = self._tracer.modules[call.target] if call.op == "call_module" else call.target
        args, kwargs = map_aggregate((call.args, call.kwargs), self._argument)
        function = _method(target) if call.op == "call_method" else target
        try:
            reading = read(call.op, target, args, kwargs)
            given, named = filled((args, kwargs), lambda value: self._results[value.index])
            versions = {id(t): version(t) for t in _tensors((given, named))}
            # Here a view is a view: what is changed through it later changes this, too.
            really = getattr(given[0], target) if call.op == "call_method" else None
            result = really(*given[1:], **named) if really else function(*given, **named)
        except NotDeterministic as error:
            raise Untraceable(str(error)) from error
        except Exception as error:
            raise CallFailed(f"{call.name} failed: {type(error).__name__}: {error}") from error
        if not reading or not self._holds(*reading, result):
            held = tuple(values_in((args, kwargs)))
            fixed = all(isinstance(self._nodes[v.index].rule, Shape) for v in held)
            reading = (Shape() if fixed and not _tensors(result) else Opaque(), held)
        rule, taken = reading
        node = self._node(call, rule, taken, result, function, args, kwargs)
        if any(version(t) != versions[id(t)] for t in _tensors((given, named))):
            return self._in_place(node, taken, result)
        if isinstance(rule, Identity):
            node = replace(node, function=_same, args=taken, kwargs={})
        elif isinstance(rule, Opaque):
            node = self._shortened(node)
        return self._add(node, result)

    def _node(
        self,
        call: torch.fx.Node,
        rule: Rule,
        taken: Sequence[Value],
        result: Any,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Node:
        """The next node."""
        inputs = tuple(value.index for value in taken)
        shape = tuple(result.shape[1:]) if isinstance(result, Tensor) else None
        index = len(self._nodes)
        return Node(index, call.name, rule, inputs, (), shape, call, function, args, kwargs)

    def _add(self, node: Node, result: Any) -> int:
        self._nodes.append(node)
        self._results.append(result)
        kind = (result.dtype, result.device) if isinstance(result, Tensor) else (None, None)
        constant = result if isinstance(node.rule, Shape) else None
        self._values.append(Value(node.index, node.shape, *kind, constant))
        return node.index

    def _shortened(self, node: Node) -> Node:
        """An opaque call as the end of a chain that treats every pixel alone, if it is."""
        chain = chain_to(self._nodes, node)
        if chain is None:
            return node
        return replace(
            node,
            rule=Pixelwise(node.name, chain),
            inputs=(chain.source.index,),
            function=chain,
            args=(chain.source,),
            kwargs={},
        )

    def _holds(self, rule: Rule, taken: tuple[Value, ...], result: Any) -> bool:
        """Whether the result is what the rule promises."""
        if isinstance(rule, Opaque):
            return True
        if isinstance(rule, Shape):
            only = all(
                isinstance(self._nodes[v.index].rule, Input | Shape) or v.shape for v in taken
            )
            return only and not _tensors(result)
        first = self._results[taken[0].index]
        if not isinstance(result, Tensor) or not isinstance(first, Tensor):
            return False
        alike = result.dtype == first.dtype and result.device == first.device
        if isinstance(rule, Identity | Affine | Pointwise | Binary | Lrn):
            return alike and result.shape == first.shape
        return alike and result.dim() == 4

    def _in_place(self, node: Node, taken: tuple[Value, ...], result: Any) -> int:
        """A call that changed one of its arguments: the graph's makes a new value instead."""
        held = values_in((node.args, node.kwargs))
        target = next((v for v in held if self._results[v.index] is result), None)
        if target is None:
            raise Untraceable(f"{node.name} changes an argument that it does not return")
        if isinstance(node.rule, Pointwise | Binary):
            node = replace(node, function=node.rule.function, args=taken, kwargs={})
        else:
            place = _position(node.args, node.kwargs, target)
            node = replace(node, function=_on_a_copy(node.function, place))
        for other, seen in enumerate(self._results):
            if isinstance(seen, Tensor) and _share_memory(seen, result):
                if _same_place(seen, result):
                    for name, at in self._current.items():
                        if at == other:
                            self._current[name] = node.index
                else:
                    self._stale.add(other)
        return self._add(node, result)


def _same(x: Any) -> Any:
    return x


def _method(name: str) -> Callable[..., Any]:
    def call(x: Any, *args: Any, **kwargs: Any) -> Any:
        # Values come in any layout. No one can tell a view from a copy where values never change.
        sizes = not any(isinstance(a, torch.dtype) for a in (*args, *kwargs.values()))
        chosen = {"view": "reshape", "view_as": "reshape_as"}.get(name, name) if sizes else name
        return getattr(x, chosen)(*args, **kwargs)

    return call


def _position(args: tuple[Any, ...], kwargs: dict[str, Any], value: Value) -> int | str:
    for place, argument in (*enumerate(args), *kwargs.items()):
        if argument is value:
            return place
    raise Untraceable("a call changes one of several tensors that it takes together")


def _on_a_copy(function: Callable[..., Any], place: int | str) -> Callable[..., Any]:
    """The function with its in-place argument copied first."""

    def call(*args: Any, **kwargs: Any) -> Any:
        given: Any = kwargs if isinstance(place, str) else list(args)
        given[place] = given[place].clone()
        return function(*args, **given) if isinstance(place, str) else function(*given, **kwargs)

    return call


def _tensors(arguments: Any) -> list[Tensor]:
    found: list[Tensor] = []
    map_aggregate(arguments, lambda a: found.append(a) if isinstance(a, Tensor) else None)
    return found


def _share_memory(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage()._cdata == b.untyped_storage()._cdata


def _same_place(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors on one storage are the same numbers."""
    same = (a.storage_offset(), a.shape, a.stride(), a.dtype)
    return same == (b.storage_offset(), b.shape, b.stride(), b.dtype)
