"""Looking a call up in all that is known."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zfcuda.graph.recognition.elementwise import ARITHMETIC, POINTWISE
from zfcuda.graph.recognition.passthrough import PASSTHROUGH
from zfcuda.graph.recognition.spellings import Reader, Reading
from zfcuda.graph.recognition.windowed import CONVOLUTION, NORMALISATION, POOLING

_FAMILIES = [CONVOLUTION, POOLING, NORMALISATION, POINTWISE, ARITHMETIC, PASSTHROUGH]


def _all(kind: str) -> dict[Any, Reader]:
    return {key: reader for own in _FAMILIES for key, reader in getattr(own, kind).items()}


_MODULES = _all("modules")
_METHODS = _all("named") | _all("methods")
_FUNCTIONS = {
    getattr(owner, spelled): reader
    for name, reader in _all("named").items()
    for spelled in (name, name + "_")
    for owner in (torch, F, Tensor)
    if hasattr(owner, spelled)
} | _all("functions")
_TORCHVISIONS = _all("torchvisions")


def read(op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Reading | None:
    """The rule of a call and the values that it takes; None for a call that is opaque.

    Args:
        op: "call_module", "call_function" or "call_method".
        target: the module, the function or the method's name.

    Raises:
        NotDeterministic: it draws random numbers or uses the batch's own statistics.
    """
    if op == "call_module":
        reader = _MODULES.get(module_kind(target))
        args = (target, *args)
    elif op == "call_method":
        reader = _METHODS.get(_without_underscore(target))
    else:
        target = getattr(target, "overloadpacket", target)
        reader = _FUNCTIONS.get(target) or _TORCHVISIONS.get(_torchvisions_name(target))
    if reader is None or "out" in kwargs:
        return None
    try:
        inspect.signature(reader).bind(*args, **kwargs)
    except TypeError:  # another overload
        return None
    return reader(*args, **kwargs)


def module_kind(module: nn.Module) -> type[nn.Module] | None:
    """The class of torch.nn or zfcuda.nn whose forward the module runs; None for one of its own."""
    if "forward" in vars(module) or "_conv_forward" in vars(module):
        return None
    for kind in type(module).__mro__:
        if kind in _MODULES:
            same = getattr(type(module), "_conv_forward", None) is getattr(
                kind, "_conv_forward", None
            )
            return kind if same and type(module).forward is kind.forward else None
    return None


def _without_underscore(name: str) -> str:
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def _torchvisions_name(function: Any) -> str | None:
    module = getattr(function, "__module__", None) or ""
    return getattr(function, "__name__", None) if module.startswith("torchvision.") else None
