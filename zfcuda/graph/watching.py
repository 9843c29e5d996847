"""What a model does that its calls of ATen do not tell: which of its modules run, which functions
with a backward of their own, where it switches gradients off, and where it takes values out of
torch."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(eq=False)
class Watched:
    """What goes on at the moment.

    Attributes:
        custom: name of the torch.autograd.Function that runs.
        cut: whether the model has switched gradients off, as ``with torch.no_grad()`` does. What it
            is followed under does not count.
        detached: how many tensors it has detached where they are.
        refused: why it cannot be followed, once that is known: a model may catch the error.
    """

    custom: str = ""
    cut: bool = False
    detached: int = 0
    refused: str = ""
    _before: dict[int, bool] = field(default_factory=dict)  # by context, while it is entered

    def entered(self, context: Any, cut: bool) -> None:
        """A context was entered, before which gradients were ``cut`` or not."""
        self._before[id(context)] = cut

    def left(self, context: Any) -> None:
        """Gradients are what they were before the context."""
        self.cut = self._before.pop(id(context), self.cut)


def maker_of(module: nn.Module | None, known: Container[nn.Module], watched: Watched) -> Any:
    """What tells who makes a call: the model's own modules by identity, others by their class."""
    # A class may hold what its methods were defined beside: perhaps the model.
    own = id(module) if module in known else weakref.ref(type(module))
    return (own, watched.custom, watched.cut, watched.detached)


@contextmanager
def told(follower: Any) -> Iterator[None]:
    """While entered, ``follower`` is told what goes on in this thread.

    It has a :class:`Watched` as ``watched`` and the methods ``begin(module, args)``,
    ``end(module, args, output)``, ``own(tensor)`` for what a function with a backward of its own
    returned, ``detached(tensor)`` for what was detached where it is, and ``is_of_images(tensor)``,
    and ``refuse(reason)`` raises.
    """
    thread = threading.get_ident()

    def here() -> bool:
        return threading.get_ident() == thread

    with ExitStack() as stack:
        _tell_of_modules(stack, here, follower)
        _tell_of_functions(stack, here, follower)
        _tell_of_values(stack, here, follower)
        _tell_of_gradients(stack, here, follower.watched)
        _tell_of_detached(stack, here, follower)
        _tell_of_scripts(stack, here, follower.watched)
        yield


Here = Callable[[], bool]  # whether this is the thread to tell of


def _tell_of_modules(stack: ExitStack, here: Here, follower: Any) -> None:
    modules = torch.nn.modules.module

    def begin(module: nn.Module, args: Any) -> None:
        if here():
            follower.begin(module, args)

    def end(module: nn.Module, args: Any, output: Any) -> None:
        if here():
            follower.end(module, args, output)

    stack.callback(modules.register_module_forward_pre_hook(begin).remove)
    stack.callback(modules.register_module_forward_hook(end, always_call=True).remove)


def _tell_of_functions(stack: ExitStack, here: Here, follower: Any) -> None:
    # However and whenever apply was looked up, it asks the class for _backward_cls, to make the
    # context of, and after that for the forward that it calls.
    watched: Watched = follower.watched
    applied: type | None = None

    def looked_up(function: Any, name: str) -> Any:
        nonlocal applied
        found = type.__getattribute__(function, name)
        if name not in ("_backward_cls", "forward") or not here() or watched.custom:
            return found
        if name == "_backward_cls":
            applied = function
        elif applied is function:
            applied = None
            return _told_forward(function.__name__, found, follower)
        return found

    _replaced(stack, type(torch.autograd.Function), "__getattribute__", looked_up)


def _told_forward(name: str, forward: Any, follower: Any) -> Any:
    def told(*args: Any) -> Any:
        follower.watched.custom = name
        try:
            versions = {id(t): _version_of(t) for t in args if isinstance(t, Tensor)}
            result = forward(*args)
            several = isinstance(result, tuple)
            results = [
                # What was given and not changed: apply returns a view of it, but after this.
                r.view_as(r) if id(r) in versions and _version_of(r) == versions[id(r)] else r
                for r in (result if several else (result,))
            ]
            for tensor in results:
                follower.own(tensor)
            return tuple(results) if several else results[0]
        finally:
            follower.watched.custom = ""

    return told


def _version_of(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _tell_of_values(stack: ExitStack, here: Here, follower: Any) -> None:
    def seen(tensor: Tensor, name: str) -> None:
        if here() and follower.is_of_images(tensor):
            follower.refuse(f"it looks at values outside of torch ({name})")

    def to_numpy(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        seen(tensor, "numpy")
        return torch._C.TensorBase.numpy(tensor, *args, **kwargs)

    def to_list(tensor: Tensor) -> Any:
        seen(tensor, "tolist")
        return torch._C.TensorBase.tolist(tensor)

    _replaced(stack, torch.Tensor, "numpy", to_numpy)
    _replaced(stack, torch.Tensor, "tolist", to_list)


def _tell_of_gradients(stack: ExitStack, here: Here, watched: Watched) -> None:
    """Models are followed without gradients, so that torch's own switch cannot tell."""
    switch = torch._C._set_grad_enabled

    def switched(mode: bool) -> None:
        switch(mode)
        if here():
            watched.cut = not mode

    def entering(enter: Any, cuts: Callable[[Any], bool] | None = None) -> Any:
        def entered(context: Any, *args: Any, **kwargs: Any) -> Any:
            cut = watched.cut
            result = enter(context, *args, **kwargs)
            if here():
                watched.entered(context, cut)
                watched.cut = cuts(context) if cuts is not None else watched.cut
            return result

        return entered

    def leaving(leave: Any) -> Any:
        def left(context: Any, *args: Any) -> Any:
            result = leave(context, *args)
            if here():
                watched.left(context)
            return result

        return left

    _replaced(stack, torch._C, "_set_grad_enabled", switched)
    contexts = (torch.no_grad, torch.enable_grad, torch.set_grad_enabled, torch.inference_mode)
    for kind in contexts:
        # torch.set_grad_enabled acts as it is made, being a function as well.
        name = "__init__" if kind is torch.set_grad_enabled else "__enter__"
        cuts = (lambda context: context.mode) if kind is torch.inference_mode else None
        _replaced(stack, kind, name, entering(vars(kind)[name], cuts))
        _replaced(stack, kind, "__exit__", leaving(vars(kind)["__exit__"]))


def _tell_of_detached(stack: ExitStack, here: Here, follower: Any) -> None:
    def detach_(tensor: Tensor) -> Tensor:
        result = torch._C.TensorBase.detach_(tensor)
        if here():
            follower.watched.detached += 1
            follower.detached(tensor)
        return result

    _replaced(stack, torch.Tensor, "detach_", detach_)
    _replaced(stack, torch, "detach_", detach_)


def _tell_of_scripts(stack: ExitStack, here: Here, watched: Watched) -> None:
    """TorchScript enters contexts where nobody sees it. All of a function that enters any counts as
    one that has switched gradients off."""

    def calling(call: Any) -> Any:
        def called(function: Any, *args: Any, **kwargs: Any) -> Any:
            if not here() or watched.cut or not _enters_contexts(function):
                return call.__get__(function)(*args, **kwargs)
            watched.cut = True
            try:
                return call.__get__(function)(*args, **kwargs)
            finally:
                watched.cut = False

        return called

    for kind in (torch._C.ScriptFunction, torch._C.ScriptMethod):
        _replaced(stack, kind, "__call__", calling(vars(kind)["__call__"]))


def _enters_contexts(function: Any) -> bool:
    graphs, modules = [function.graph], [getattr(function, "owner", None)]
    while modules:
        module = modules.pop()
        if module is not None:
            graphs += [module._get_method(name).graph for name in module._method_names()]
            modules += [child for _, child in torch._C.ModuleDict(module).items()]
    return any(map(_has_context, graphs))


def _has_context(graph: Any) -> bool:
    called = [str(next(n.inputs()).type()) for n in graph.findAllNodes("prim::CallFunction")]
    if not all(name.startswith("__torch__.torch.nn.functional.") for name in called):
        graph = graph.copy()
        torch._C._jit_pass_inline(graph)  # which takes much longer than all the rest
    return graph.findNode("prim::Enter") is not None


def _replaced(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    """Set an attribute until the stack is left."""
    own = vars(owner)
    if name in own:
        stack.callback(setattr, owner, name, own[name])
    else:
        stack.callback(delattr, owner, name)
    setattr(owner, name, value)
