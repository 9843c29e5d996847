"""Following a model's forward with torch.fx: the calls it makes, and where its modules return."""

from __future__ import annotations

import operator
import threading
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import torch
import torch.fx
from torch import Tensor, nn

from zfcuda.graph.guards import Untraceable, is_compiled
from zfcuda.graph.recognition.reading import module_kind
from zfcuda.inference.interception import author_of

_one_at_a_time = threading.RLock()  # torch.fx patches nn.Module for as long as it traces


class _Proxy(torch.fx.Proxy):
    """fx takes ``x += y`` for ``x = x + y``; but others may hold ``x``."""


def _operator_in_place(function: Callable[..., Any]) -> Callable[..., Any]:
    def record(self: _Proxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return record


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior"):
    setattr(_Proxy, f"__{_name}__", _operator_in_place(getattr(operator, _name)))


class Returned(NamedTuple):
    """A call of a module as it returns."""

    count: int  # of the fx nodes there were by then
    call: torch.fx.Node  # its result
    names: tuple[str, ...]  # the module's


@dataclass(frozen=True)
class End:
    """Where a graph ends: the call whose value is its output and how many fx nodes precede that
    value; where layers were asked for, which, the module of the last and how often it is called."""

    call: torch.fx.Node
    count: int
    layers: tuple[str, ...] = ()
    module: nn.Module | None = None
    times: int = 0


class Tracer(torch.fx.Tracer):
    """Modules of torch.nn and zfcuda.nn are calls; everything else is followed."""

    def __init__(self, model: nn.Module, parameters_are_calls: bool) -> None:
        super().__init__()
        self.modules: dict[str, nn.Module] = {}
        self.returned: list[Returned] = []
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
        names, before = self._names.get(m, ()), len(self.graph.nodes)
        if _is_leaf(m):
            target = names[0] if names else f"unregistered {len(self.modules)}"
            self.modules[target] = m
            result = self.create_proxy("call_module", target, args, kwargs, name=_fx_name(target))
        elif is_compiled(m):
            result = m._orig_mod(*args, **kwargs)
        else:
            result = m.forward(*args, **kwargs)
        author = author_of(m, names[0]) if names else ""
        for node in islice(self.graph.nodes, before, None) if author else ():
            node.meta.setdefault("author", author)
        if isinstance(result, torch.fx.Proxy) and result.node.op != "get_attr":
            self.returned.append(Returned(len(self.graph.nodes), result.node, tuple(names)))
        return result

    def end(self, layers: Collection[str]) -> End:
        """Where the last of these layers returns, or the whole model does."""
        last = {name: at for at, done in enumerate(self.returned) for name in done.names}
        if layers and all(name in last for name in layers):
            at = max(last[name] for name in layers)
            count, call, names = self.returned[at]
            times = sum(done.names == names for done in self.returned[: at + 1])
            return End(call, count, tuple(layers), self.root.get_submodule(names[0]), times)
        *calls, last = self.graph.nodes
        (output,) = last.args
        if not isinstance(output, torch.fx.Node):
            raise Untraceable(f"it returns {type(output).__name__}, not a tensor")
        return End(output, len(calls))


def _is_leaf(module: nn.Module) -> bool:
    if module_kind(module) is not None:
        return True
    if isinstance(module, nn.Sequential | nn.DataParallel):
        return False
    return type(module).__module__.startswith(("torch.nn.", "zfcuda.nn"))


def _fx_name(target: str) -> str:
    return target.replace(".", "_") or "model"


def follow(model: nn.Module) -> Tracer:
    """The trace of the whole forward.

    Raises:
        Untraceable: torch.fx stumbles, as over control flow that depends on values.
    """
    with _one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        error: Exception | None = None
        for parameters_are_calls in (False, True):
            tracer = Tracer(model, parameters_are_calls)
            try:
                tracer.trace(model)
                return tracer
            except Untraceable:
                raise
            except Exception as stumbled:
                error = error or stumbled
    said = str(error).strip().split("\n")[0]
    try:
        raise Untraceable(f"torch.fx cannot follow it: {type(error).__name__}: {said}") from error
    finally:
        error = None  # it holds this frame, and with it the callers' tensors
