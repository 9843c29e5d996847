"""What cannot be traced, and what the user must not notice of a trace."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


class Untraceable(Exception):
    """The model cannot be turned into a graph; the message says why."""


class CallFailed(Untraceable):
    """A call that was followed failed when it was run; perhaps the model's own fails as well."""


def refuse(model: nn.Module) -> None:
    """Raise :class:`Untraceable` for what a trace would not see."""
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


def is_compiled(module: nn.Module) -> bool:
    """Whether it is ``torch.compile``'s wrapper around a module."""
    return type(module).__name__ == "OptimizedModule" and hasattr(module, "_orig_mod")


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Undo what the model's forward does to itself and to the random state; tensors that it
    changes are an error."""
    before = [(m, dict(vars(m)), _copies(vars(m))) for m in model.modules()]
    tensors = [*model.parameters(), *model.buffers()]
    versions = [*map(version, tensors)]
    devices = {t.device for t in tensors if t.device.type == "cuda"}
    python_state, watch = random.getstate(), _Draws()
    states = _random_states(devices)
    drew = False
    failure: Untraceable | None = None
    try:
        with watch:
            yield
    except Untraceable as error:
        failure = error
    finally:
        if random.getstate() != python_state:
            drew = True
            random.setstate(python_state)
        if watch.seen and not _same(states, _random_states(devices)):
            drew = True
            _set_random_states(states)
        for module, attributes, contents in before:
            vars(module).clear()
            vars(module).update(attributes)
            for kept, content in contents:
                _restore(kept, content)
    try:
        if drew:
            raise Untraceable("it draws random numbers") from failure
        if failure is not None:
            raise failure
    finally:
        failure = None  # it holds this frame, and with it the callers' tensors
    if versions != [*map(version, tensors)]:
        raise Untraceable("its forward changes its own parameters or buffers")


def version(tensor: Tensor) -> int | None:
    """How often it was changed in place; inference tensors do not tell."""
    return None if tensor.is_inference() else tensor._version


class _Draws(TorchDispatchMode):
    """Whether this thread calls what may draw random numbers: torch's generators are all threads',
    and those of the others are not to be told to draw theirs again."""

    seen = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: else torch imports its compiler at the first call, two seconds for nothing."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen = self.seen or torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


def _random_states(devices: Collection[torch.device]) -> dict[torch.device | None, Tensor]:
    on_gpus = {device: torch.cuda.get_rng_state(device) for device in devices}
    return {None: torch.get_rng_state(), **on_gpus}


def _same(some: dict[Any, Tensor], others: dict[Any, Tensor]) -> bool:
    return all(torch.equal(state, others[device]) for device, state in some.items())


def _set_random_states(states: dict[torch.device | None, Tensor]) -> None:
    for device, state in states.items():
        if device is None:
            torch.set_rng_state(state)
        else:
            torch.cuda.set_rng_state(state, device)


def _copies(attributes: dict[str, Any]) -> list[tuple[Any, Any]]:
    """The containers among a module's attributes, and what is in them."""
    return [(v, v.copy()) for v in attributes.values() if isinstance(v, list | dict | set)]


def _restore(container: Any, content: Any) -> None:
    container.clear()
    if isinstance(container, list):
        container.extend(content)
    else:
        container.update(content)
