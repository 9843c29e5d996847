"""What cannot be traced, and what the user must not notice of a trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

SMALL = 2**16  # elements; larger constants of a graph are never copied, but read where they are


class Untraceable(Exception):
    """The model cannot be turned into a graph; the message says why."""


def refuse(model: nn.Module) -> None:
    """Raise :class:`Untraceable` for what a trace would not see."""
    if torch.nn.modules.module._has_any_global_hook():
        raise Untraceable("there are global module hooks")
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    for name, module in model.named_modules():
        where = f"module {name!r} ({type(module).__name__})" if name else "the model"
        if any(getattr(module, kind, None) for kind in hooks):
            raise Untraceable(f"{where} has hooks")
        if type(module).__module__.startswith(("torch.ao.nn.", "torch.nn.quantized")):
            raise Untraceable(f"{where} is quantised")


def is_compiled(module: nn.Module) -> bool:
    """Whether it is ``torch.compile``'s wrapper around a module."""
    return type(module).__name__ == "OptimizedModule" and hasattr(module, "_orig_mod")


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Undo what the model's forward does to itself; tensors that it changes are an error."""
    before = [(m, dict(vars(m)), _copies(vars(m))) for m in model.modules()]
    tensors = [*model.parameters(), *model.buffers()]
    versions = [*map(version, tensors)]
    try:
        yield
    finally:
        for module, attributes, contents in before:
            own = vars(module)  # others may be reading it
            for name in own.keys() - attributes.keys():
                del own[name]
            for name, value in attributes.items():
                if own.get(name, own) is not value:
                    own[name] = value
            for kept, content in contents:
                if not _is_as_it_was(kept, content):
                    _restore(kept, content)
    if versions != [*map(version, tensors)]:
        raise Untraceable("its forward changes its own parameters or buffers")


def version(tensor: Tensor) -> int | None:
    """How often it was changed in place; inference tensors do not tell."""
    return None if tensor.is_inference() else tensor._version


def _copies(attributes: dict[str, Any]) -> list[tuple[Any, Any]]:
    """The containers among a module's attributes, and what is in them."""
    held = (v for v in attributes.values() if isinstance(v, list | dict | set))
    return [(v, v.copy() if v else ()) for v in held]


def _is_as_it_was(container: Any, content: Any) -> bool:
    if not container or not content:
        return not container and not content
    if len(container) != len(content) or isinstance(container, set):
        return False
    values = (container.values(), content.values()) if isinstance(container, dict) else ((), ())
    return all(map(is_, container, content)) and all(map(is_, *values))


def _restore(container: Any, content: Any) -> None:
    container.clear()
    if isinstance(container, list):
        container.extend(content)
    else:
        container.update(content)
