"""ReLUs that are spelled as a mask: ``x * (x > 0)``, ``torch.where(x > 0, x, 0)``,
``x.masked_fill(x < 0, 0)``, ``torch.maximum(x, zeros)``.

Masks carry no gradient, so that the backward pass alone would take what they multiply for a
constant. They are remembered here as they are made: what a call makes of one and of a single map
is a ReLU where it is the rectified map; every other use has to be told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.weak import WeakTensorKeyDictionary

_LARGER_OF_TWO = ("maximum", "max", "fmax", "clamp", "clip", "clamp_min")


def plain_name(function: Any) -> str:
    """Of a function or method of torch, without the underscores that say that it is in place or an
    operator, and without its overload."""
    return str(getattr(function, "__name__", function)).split(".")[0].strip("_")


class Masks:
    """The masks that were made of maps with a signal, for as long as they live."""

    def __init__(self) -> None:
        self._known = WeakTensorKeyDictionary()

    def among(self, tensors: Sequence[Tensor]) -> bool:
        return any(tensor in self._known for tensor in tensors)

    def note(self, name: str, tensors: Sequence[Tensor], result: Any) -> None:
        """Remember what the call ``name`` of these tensors gave, if that is a mask."""
        if not isinstance(result, Tensor) or result.requires_grad:
            return
        made = self.among(tensors)
        if result.dtype == torch.bool or name == "heaviside":
            made = made or any(tensor.requires_grad for tensor in tensors)
        if made and not name.endswith("_like") and not name.startswith("new_"):
            self._known[result] = None

    def rectified(
        self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor]
    ) -> Tensor | None:
        """The map that a call rectifies by a mask, or by taking the larger of it and zeros; None if
        it does something else."""
        signals = {id(tensor): tensor for tensor in tensors if tensor.requires_grad}
        if len(signals) != 1 or "out" in kwargs:
            return None
        (x,) = signals.values()
        if x.is_complex():  # is neither above nor below zero
            return None
        others = [tensor for tensor in tensors if tensor is not x]
        masked = any(tensor.shape == x.shape and tensor in self._known for tensor in others)
        larger = plain_name(function) in _LARGER_OF_TWO
        if not masked and not (larger and any(t.numel() and not t.any() for t in others)):
            return None
        with torch.no_grad():
            y = called(function, args, kwargs, x, x.detach().clone())
            wanted = x.detach().clamp_min(0)
        if not isinstance(y, Tensor) or y.shape != x.shape or y.dtype != x.dtype:
            return None
        same = (y == wanted) | (y.isnan() & wanted.isnan())
        return x if bool(same.all()) else None


def called(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor, instead: Tensor
) -> Any:
    """What a call gives with another tensor in the place of ``x``; assigning to parts of a tensor
    gives that tensor."""
    args, kwargs = tree_map(lambda leaf: instead if leaf is x else leaf, (args, kwargs))
    result = function(*args, **kwargs)
    return instead if plain_name(function) == "setitem" else result
