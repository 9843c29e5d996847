"""A user's model run without leaving a trace."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import nn

_MOST_THREADS = 4096

_turns: WeakValueDictionary[int, Any] = WeakValueDictionary()  # id of a module -> its lock
_turns_lock = threading.Lock()


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run ``model`` in eval mode and as written, and give every module its own mode back.

    Threads that share a module take turns.
    """
    modules = list(model.modules())
    with _turn(modules), _in_eval_mode(modules), _uncompiled(modules):
        yield


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Forward passes only: eval mode, no gradient."""
    with undisturbed(model), torch.no_grad():
        yield


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads: convolutions and matrix products round differently for another number.

    Raises:
        ValueError: a number that no machine has, as a damaged file may say.
    """
    if not 1 <= count <= _MOST_THREADS:
        raise ValueError(f"{count} threads: expected 1 to {_MOST_THREADS:,}")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _turn(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Wait until no other thread runs an experiment on any of ``modules``: modes and hooks belong
    to the module, not to the thread."""
    with _turns_lock:
        locks = [_turns.setdefault(key, threading.RLock()) for key in sorted(map(id, modules))]
    with ExitStack() as stack:
        for lock in locks:
            stack.enter_context(lock)
        yield


@contextmanager
def _in_eval_mode(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Set directly: ``model.eval()`` may be overridden with something that cannot be undone."""
    flags = [(m, m.training) for m in modules if hasattr(m, "training")]  # frozen ones have none
    try:
        for module, _ in flags:
            module.training = False
        yield
    finally:
        for module, flag in flags:
            module.training = flag


@contextmanager
def _uncompiled(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Compiled calls cannot be intercepted."""
    compiled = any(
        type(module).__name__ == "OptimizedModule" or module._compiled_call_impl is not None
        for module in modules
    )
    with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
        yield
