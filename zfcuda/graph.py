"""A model as a graph of the calls that it makes, each with the rule that cones need of it.

:func:`trace` follows the model's forward with torch.fx, runs what it found once, and settles what
fx leaves open: the shapes, and what in-place calls do to values seen through other names. In the
graph a value never changes: ``x.relu_()`` makes a new one, and whoever uses ``x`` afterwards uses
that. The user's model is neither changed nor copied; rules hold its own weights.
"""

from __future__ import annotations

import math
import operator
import random
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.fx.node import map_aggregate

from zfcuda import _recall
from zfcuda.pixelwise import Chain, chain_to
from zfcuda.recognition import (
    NotDeterministic,
    Value,
    filled,
    module_kind,
    read,
    values_in,
)
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
    Opaque,
    Pair,
    Pixelwise,
    Pointwise,
    Rule,
    Shape,
)

__all__ = [
    "Affine",
    "AvgPool",
    "Binary",
    "Concat",
    "Conv",
    "Graph",
    "Identity",
    "Input",
    "Lrn",
    "MaxPool",
    "Node",
    "Opaque",
    "Pair",
    "Pixelwise",
    "Pointwise",
    "Rule",
    "Shape",
    "Untraceable",
    "trace",
]


class Untraceable(Exception):
    """The model cannot be turned into a graph; the message says why."""


@dataclass(frozen=True, eq=False)
class Node:
    """One call of the model, and its value.

    Attributes:
        index: its place in the graph.
        name: torch.fx's name for the call.
        rule: what the call does.
        inputs: indices of the nodes whose values the rule takes, in the rule's order.
        layers: names of the modules whose output (of their last call) this value is.
        shape: of the value, per image: (C,H,W) for maps; None for what is not a tensor.
        call: the torch.fx node.
        function, args, kwargs: the call itself, with :class:`Value` in the place of values; it
            changes none of them.
    """

    index: int
    name: str
    rule: Rule
    inputs: tuple[int, ...]
    layers: tuple[str, ...]
    shape: tuple[int, ...] | None
    call: torch.fx.Node
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def is_map(self) -> bool:
        """Whether the value is maps [n,C,H,W]."""
        return self.shape is not None and len(self.shape) == 3

    def evaluate(self, values: Mapping[int, Any]) -> Any:
        """See :meth:`Graph.evaluate`."""
        if isinstance(self.rule, Input):
            return values[self.index]
        args, kwargs = filled((self.args, self.kwargs), lambda value: values[value.index])
        return self.function(*args, **kwargs)


class Graph:
    """A traced model; made by :func:`trace`.

    Attributes:
        nodes: in an order in which they can be evaluated; the first is the input. Calls on which
            neither the output nor a requested layer depends are left out.
        output: index of the node whose value is the model's output.
        consumers: by node, the indices of the nodes whose rules take its value.
    """

    def __init__(self, nodes: tuple[Node, ...], output: int) -> None:
        self.nodes = nodes
        self.output = output
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

    def layer(self, name: str) -> Node | None:
        """The node whose value is the output of that module's last call; None if there is none: the
        module was not called, does not return a tensor, or nothing depends on its output."""
        return self._layers.get(name)

    def fan_in(self, node: Node) -> int:
        """Multiply-adds behind each number of the node's value; 0 for what has no weights."""
        if isinstance(node.rule, Conv):
            return node.rule.weight[0].numel()
        if isinstance(node.function, Chain):
            parts = [call for call in node.function.calls if call.shape is not None]
            work = sum(self.fan_in(call) * math.prod(call.shape) for call in parts)
            return work // math.prod(node.shape)
        weight = getattr(node.function, "weight", None)
        if weight is None:
            weight = next((a for a in node.args if isinstance(a, Tensor) and a.dim() == 2), None)
        linear = isinstance(node.rule, Opaque) and isinstance(weight, Tensor) and weight.dim() == 2
        return weight.shape[1] if linear else 0


def trace(model: nn.Module, x: Tensor, layers: Collection[str] = ()) -> Graph:
    """The model's graph for images like ``x``.

    The graph runs once on the first one or two images, and so does the model: both must agree. A
    model that was traced before, and makes the same calls of the same modules, need not run again.

    Args:
        model: in eval mode.
        x: [n,C,H,W].
        layers: names of modules; what is run, and the graph, then end when the last of them has
            returned, and its output is the graph's. Empty, or with one that is never called: the
            whole model.

    Raises:
        Untraceable: the graph would not answer as the model does, or not for every image alike:
            control flow that depends on values, hooks, random numbers, statistics of the batch,
            several inputs or outputs, compiled or quantised parts.
    """
    _refuse(model)
    with _unchanged(model), _uncompiled(model), torch.inference_mode(False), torch.no_grad():
        tracer = _followed(model)
        end = tracer.end(layers)
        images = x[:2].detach()
        mark = _mark(tracer, end, images)
        graph = _recall.recall(model, mark)
        if graph is None:
            graph, value = _Run(tracer).graph(images.clone(), end)
            _compare(value, _answer(model, images.clone(), end))
            _recall.keep(model, mark, graph)
        return graph


def _mark(tracer: _Tracer, end: _End, images: Tensor) -> _recall.Mark | None:
    if any(_makes_its_weights(module) for module in tracer.modules.values()):
        return None
    returned = tuple((count, names) for count, _, names in tracer.returned if count <= end.count)
    kind = (tuple(images.shape), images.stride(), images.dtype, images.device)
    cast = torch.is_autocast_enabled(images.device.type)  # values then have other dtypes
    cast = torch.get_autocast_dtype(images.device.type) if cast else None
    return _recall.mark(tracer.graph, tracer.modules, end.count, end.layers, returned, *kind, cast)


def _makes_its_weights(module: nn.Module) -> bool:
    """Whether weights are computed when they are read (parametrisations): a graph that holds them
    holds what they were."""
    read = (getattr(module, name, None) for name in ("weight", "bias"))
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return any(isinstance(w, Tensor) and not any(w is mine for mine in own) for w in read)


@dataclass(frozen=True)
class _End:
    """Where a graph ends: the call whose value is its output and how many fx nodes precede that
    value; where layers were asked for, which, the module of the last and how often it is called."""

    call: torch.fx.Node
    count: int
    layers: tuple[str, ...] = ()
    module: nn.Module | None = None
    times: int = 0


class _Enough(BaseException):
    """Ends a forward early; no ``except Exception`` of the model's may catch it."""


def _answer(model: nn.Module, images: Tensor, end: _End) -> Any:
    """The model's own output, or its layer's, where the graph ends."""
    if end.module is None:
        return model(images)
    outputs: list[Any] = []

    def receive(module: nn.Module, args: Any, output: Any) -> None:
        outputs.append(output)
        if len(outputs) == end.times:
            raise _Enough

    hook = end.module.register_forward_hook(receive)
    try:
        model(images)
    except _Enough:
        return outputs[-1]
    finally:
        hook.remove()
    raise Untraceable("it does not call its modules as torch.fx sees it")


def _compare(value: Tensor, answer: Any) -> None:
    if not isinstance(answer, Tensor) or answer.shape != value.shape:
        got = list(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise Untraceable(f"its trace returns {list(value.shape)}, it returns {got}")
    if torch.equal(value, answer):  # as a rule, and checked much faster
        return
    # The same calls in the same order: what differs is what a parallel sum may differ by.
    tolerance = 32 * torch.finfo(value.dtype).eps if value.is_floating_point() else 0.0
    scale = float(answer.nan_to_num(0, 0, 0).abs().max()) if answer.numel() else 0.0
    if not torch.allclose(value, answer, tolerance, tolerance * scale, equal_nan=True):
        raise Untraceable("its trace answers otherwise than the model itself")


# --- what cannot be traced, and what must not be noticed ------------------------------------------


def _is_compiled(module: nn.Module) -> bool:
    """Whether it is ``torch.compile``'s wrapper around a module."""
    return type(module).__name__ == "OptimizedModule" and hasattr(module, "_orig_mod")


@contextmanager
def _uncompiled(model: nn.Module) -> Iterator[None]:
    """Run compiled modules as they are written."""
    modules = [*model.modules()]
    if any(_is_compiled(m) or m._compiled_call_impl is not None for m in modules):
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        yield


def _refuse(model: nn.Module) -> None:
    if torch.nn.modules.module._has_any_global_hook():
        raise Untraceable("there are global module hooks")
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    for name, module in model.named_modules():
        where = f"module {name!r} ({type(module).__name__})" if name else "the model"
        if isinstance(module, torch.jit.ScriptModule):
            raise Untraceable(f"{where} is a ScriptModule")
        if any(getattr(module, kind, None) for kind in hooks):
            raise Untraceable(f"{where} has hooks")
        if type(module).__module__.startswith(("torch.ao.nn.", "torch.nn.quantized")):
            raise Untraceable(f"{where} is quantised")


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Undo what the model's forward does to itself and to the random state; tensors that it
    changes are an error."""
    before = [(m, dict(vars(m)), _copies(vars(m))) for m in model.modules()]
    tensors = [*model.parameters(), *model.buffers()]
    versions = [*map(_version, tensors)]
    devices = {t.device for t in tensors if t.device.type == "cuda"}
    python_state = random.getstate()
    with torch.random.fork_rng(list(devices)):
        states = _random_states(devices)
        failure: Untraceable | None = None
        try:
            yield
        except Untraceable as error:
            failure = error
        finally:
            drew = states != _random_states(devices)
            random.setstate(python_state)
            for module, attributes, contents in before:
                vars(module).clear()
                vars(module).update(attributes)
                for kept, content in contents:
                    _restore(kept, content)
    if drew:
        raise Untraceable("it draws random numbers") from failure
    if failure is not None:
        raise failure
    if versions != [*map(_version, tensors)]:
        raise Untraceable("its forward changes its own parameters or buffers")


def _version(tensor: Tensor) -> int | None:
    """How often it was changed in place; inference tensors do not tell."""
    return None if tensor.is_inference() else tensor._version


def _random_states(devices: Collection[torch.device]) -> list[Any]:
    on_gpus = [torch.cuda.get_rng_state(device).tolist() for device in devices]
    return [torch.get_rng_state().tolist(), random.getstate(), *on_gpus]


def _copies(attributes: dict[str, Any]) -> list[tuple[Any, Any]]:
    """The containers among a module's attributes, and what is in them."""
    return [(v, v.copy()) for v in attributes.values() if isinstance(v, list | dict | set)]


def _restore(container: Any, content: Any) -> None:
    container.clear()
    if isinstance(container, list):
        container.extend(content)
    else:
        container.update(content)


# --- following the forward ------------------------------------------------------------------------

_one_at_a_time = threading.RLock()  # torch.fx patches nn.Module for as long as it traces


class _Proxy(torch.fx.Proxy):
    """fx takes ``x += y`` for ``x = x + y``; but others may hold ``x``."""


def _operator_in_place(function: Callable[..., Any]) -> Callable[..., Any]:
    def record(self: _Proxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return record


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior"):
    setattr(_Proxy, f"__{_name}__", _operator_in_place(getattr(operator, _name)))


class _Tracer(torch.fx.Tracer):
    """Modules of torch.nn and zfcuda.nn are calls; everything else is followed."""

    def __init__(self, model: nn.Module, parameters_are_calls: bool) -> None:
        super().__init__()
        self.modules: dict[str, nn.Module] = {}
        # Calls of modules as they return: how many fx nodes there were, the result, the module's
        # names.
        self.returned: list[tuple[int, torch.fx.Node, tuple[str, ...]]] = []
        self._parameters_are_calls = parameters_are_calls
        self._names: dict[nn.Module, list[str]] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            self._names.setdefault(module, []).append(name)
        self._thread = threading.get_ident()

    def proxy(self, node: torch.fx.Node) -> torch.fx.Proxy:
        return _Proxy(node, self)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        """One input; whatever else the forward takes has its default."""

        def call(x: Any) -> Any:
            return self.root(x)

        return call, [self.create_proxy("placeholder", "x", (), {})]

    def create_arg(self, a: Any) -> Any:
        """Tensors go into the graph as they are: fx would hang them on the user's model."""
        return a if isinstance(a, Tensor) else super().create_arg(a)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:
        """What is made of parameters alone is made now, unless that is what fx stumbled over."""
        if self._parameters_are_calls:
            return super().getattr(attr, attr_val, parameter_proxy_cache)
        return attr_val

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if threading.get_ident() != self._thread:  # someone else's model, meanwhile
            return forward(*args, **kwargs)
        names = self._names.get(m, ())
        if _is_leaf(m):
            target = names[0] if names else f"unregistered {len(self.modules)}"
            self.modules[target] = m
            result = self.create_proxy("call_module", target, args, kwargs, name=_fx_name(target))
        elif _is_compiled(m):
            result = m._orig_mod(*args, **kwargs)
        else:
            result = m.forward(*args, **kwargs)
        if isinstance(result, torch.fx.Proxy) and result.node.op != "get_attr":
            self.returned.append((len(self.graph.nodes), result.node, tuple(names)))
        return result

    def end(self, layers: Collection[str]) -> _End:
        """Where the last of these layers returns, or the whole model does."""
        last = {name: at for at, (_, _, names) in enumerate(self.returned) for name in names}
        if layers and all(name in last for name in layers):
            at = max(last[name] for name in layers)
            count, call, names = self.returned[at]
            times = sum(other == names for _, _, other in self.returned[: at + 1])
            return _End(call, count, tuple(layers), self.root.get_submodule(names[0]), times)
        *calls, last = self.graph.nodes
        (output,) = last.args
        if not isinstance(output, torch.fx.Node):
            raise Untraceable(f"it returns {type(output).__name__}, not a tensor")
        return _End(output, len(calls))


def _is_leaf(module: nn.Module) -> bool:
    if module_kind(module) is not None:
        return True
    if isinstance(module, nn.Sequential | nn.DataParallel):
        return False
    return type(module).__module__.startswith(("torch.nn.", "zfcuda.nn"))


def _fx_name(target: str) -> str:
    return target.replace(".", "_") or "model"


def _followed(model: nn.Module) -> _Tracer:
    """The trace of the whole forward."""
    with _one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        error: Exception | None = None
        for parameters_are_calls in (False, True):
            tracer = _Tracer(model, parameters_are_calls)
            try:
                tracer.trace(model)
                return tracer
            except Untraceable:
                raise
            except Exception as stumbled:
                error = error or stumbled
    said = str(error).strip().split("\n")[0]
    raise Untraceable(f"torch.fx cannot follow it: {type(error).__name__}: {said}") from error


# --- running what was found -----------------------------------------------------------------------


class _Run:
    """The calls of a trace, run one after another on real images.

    Calls really work in place here, so that what a later call sees is what it sees in the model.
    """

    def __init__(self, tracer: _Tracer) -> None:
        self._tracer = tracer
        self._nodes: list[Node] = []
        self._results: list[Any] = []  # by node; kept alive, so that memory tells who is who
        self._values: list[Value] = []
        self._parameters: dict[torch.fx.Node, Tensor] = {}
        self._current: dict[torch.fx.Node, int] = {}  # whose value a name stands for by now
        self._stale: set[int] = set()  # values that an in-place call changed through a view

    def graph(self, images: Tensor, end: _End) -> tuple[Graph, Tensor]:
        """The graph, and the value that it ends with."""
        layers: dict[str, int] = {}
        returned = iter(self._tracer.returned)
        coming = next(returned, None)
        calls = [*self._tracer.graph.nodes][: end.count]
        for done, call in enumerate((*calls, None)):
            # A module's output is the value as it returns, before later calls change it.
            while coming is not None and coming[0] <= done:
                layers |= dict.fromkeys(coming[2], self._index(coming[1]))
                coming = next(returned, None)
            if call is None:
                break
            if not done:
                self._current[call] = self._add(call, Input(), (), images, _same, (), {})
            elif call.op == "get_attr":
                self._parameters[call] = operator.attrgetter(call.target)(self._tracer.root)
            else:
                self._current[call] = self._call(call)
        output = self._index(end.call)
        y = self._results[output]
        if not isinstance(y, Tensor) or y.dim() < 2 or len(y) != len(images):
            got = list(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise Untraceable(f"it must return a tensor [{len(images)},K], it returns {got}")
        return _finished(self._nodes, output, layers, end.layers), y

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
            versions = {id(t): _version(t) for t in _tensors((given, named))}
            # Here a view is a view: what is changed through it later changes this, too.
            really = getattr(given[0], target) if call.op == "call_method" else None
            result = really(*given[1:], **named) if really else function(*given, **named)
        except NotDeterministic as error:
            raise Untraceable(str(error)) from error
        except Exception as error:
            raise Untraceable(f"{call.name} failed: {type(error).__name__}: {error}") from error
        if not reading or not self._holds(*reading, result):
            held = tuple(values_in((args, kwargs)))
            fixed = all(isinstance(self._nodes[v.index].rule, Shape) for v in held)
            reading = (Shape() if fixed and not _tensors(result) else Opaque(), held)
        rule, taken = reading
        changed = [t for t in _tensors((given, named)) if _version(t) != versions[id(t)]]
        if changed:
            return self._in_place(call, rule, taken, result, changed, function, args, kwargs)
        if isinstance(rule, Identity):
            function, args, kwargs = _same, taken, {}
        index = self._add(call, rule, taken, result, function, args, kwargs)
        if isinstance(rule, Opaque):
            self._shorten(index)
        return index

    def _shorten(self, index: int) -> None:
        """Make an opaque call the end of a chain that treats every pixel alone, if it is."""
        node = self._nodes[index]
        if (chain := chain_to(self._nodes, node)) is not None:
            self._nodes[index] = replace(
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
            return only and not any(True for _ in _tensors(result))
        first = self._results[taken[0].index]
        if not isinstance(result, Tensor) or not isinstance(first, Tensor):
            return False
        alike = result.dtype == first.dtype and result.device == first.device
        if isinstance(rule, Identity | Affine | Pointwise | Binary | Lrn):
            return alike and result.shape == first.shape
        return alike and result.dim() == 4

    def _in_place(
        self,
        call: torch.fx.Node,
        rule: Rule,
        taken: tuple[Value, ...],
        result: Any,
        changed: list[Tensor],
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> int:
        """A call that changed one of its arguments: the graph's makes a new value instead."""
        held = values_in((args, kwargs))
        target = next((v for v in held if self._results[v.index] is result), None)
        if target is None:
            raise Untraceable(f"{call.name} changes an argument that it does not return")
        if isinstance(rule, Pointwise | Binary):
            function, args, kwargs = rule.function, taken, {}
        else:
            function = _on_a_copy(function, _position(args, kwargs, target))
        index = self._add(call, rule, taken, result, function, args, kwargs)
        for other, seen in enumerate(self._results[:index]):
            if isinstance(seen, Tensor) and _share_memory(seen, result):
                if _same_place(seen, result):
                    for name, at in self._current.items():
                        if at == other:
                            self._current[name] = index
                else:
                    self._stale.add(other)
        return index

    def _add(
        self,
        call: torch.fx.Node,
        rule: Rule,
        taken: tuple[Value, ...],
        result: Any,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> int:
        index = len(self._nodes)
        tensor = isinstance(result, Tensor)
        shape = tuple(result.shape[1:]) if tensor else None
        inputs = tuple(value.index for value in taken)
        self._nodes.append(
            Node(index, call.name, rule, inputs, (), shape, call, function, args, kwargs)
        )
        self._results.append(result)
        self._values.append(
            Value(
                index,
                shape,
                result.dtype if tensor else None,
                result.device if tensor else None,
                result if isinstance(rule, Shape) else None,
            )
        )
        return index


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


def _finished(
    nodes: list[Node], output: int, layers: dict[str, int], requested: Collection[str]
) -> Graph:
    """The nodes on which the output or a requested layer depends, numbered anew."""
    wanted = {0, output, *(layers[name] for name in requested)}
    for node in reversed(nodes):
        if node.index in wanted:
            wanted |= {value.index for value in values_in((node.args, node.kwargs))}
            wanted |= {*node.inputs}
    place = {old: new for new, old in enumerate(sorted(wanted))}
    names: dict[int, list[str]] = {}
    for name, index in layers.items():
        names.setdefault(index, []).append(name)

    def moved(value: Value) -> Value:
        return Value(place[value.index], value.shape, value.dtype, value.device, value.constant)

    kept = []
    for old in place:
        node = nodes[old]
        args, kwargs = filled((node.args, node.kwargs), moved)
        kept.append(
            Node(
                place[old],
                node.name,
                node.rule,
                tuple(place[i] for i in node.inputs),
                tuple(names.get(old, ())),
                node.shape,
                node.call,
                node.function,
                args,
                dict(kwargs),
            )
        )
    return Graph(tuple(kept), place[output])
