"""What does not depend on the images: constants of a position, and values that are made for as many
images as there are, each image's alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zfcuda.graph.calls import Call
from zfcuda.graph.functions import MadeFor
from zfcuda.graph.nodes import Node, Sized, Value
from zfcuda.graph.pixelwise import LeftLinear, Linear
from zfcuda.graph.reading import Reading
from zfcuda.graph.rules import Binary, Opaque

# Functions that make the same of every image, if they make something for each.
ALIKE = ("expand", "repeat", "zeros", "ones", "full", "new_zeros", "new_ones", "new_full")


def is_fixed_map(call: Call, made: Value) -> bool:
    """Whether a value that is made for so many images is a map that is each image's."""
    return made.is_map and made.sizes[0] == Sized(0, 1) and call.name in ALIKE


# --- constants that act on maps -------------------------------------------------------------------


@dataclass(frozen=True)
class ConstantMap:
    """A constant as maps of this shape and dtype, as many as there are images."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def __name__(self) -> str:
        return "constant"

    def __call__(self, images: Tensor, constant: Tensor) -> Tensor:
        return constant.to(self.dtype).expand(len(images), *self.shape)


def constant_map(call: Call, args: Sequence[Any]) -> tuple[int, Value] | None:
    """Of a call that combines a map, element by element, with a constant that is not the same
    everywhere on it: the constant's place among the arguments, and the map. None for others."""
    one_by_one = torch.Tag.pointwise in getattr(call.function, "tags", ())
    if not (one_by_one or call.name in _UNTAGGED) or call.several:
        return None
    maps = [a for a in args if isinstance(a, Value)]
    found = [place for place, a in enumerate(args) if isinstance(a, Tensor) and a.dim()]
    if len(maps) != 1 or not maps[0].is_map or len(found) != 1:
        return None
    return (found[0], maps[0]) if _varies_over(maps[0], args[found[0]]) else None


def _varies_over(x: Value, constant: Tensor) -> bool:
    """Whether a constant has its own number for each pixel of the map ``x``, and the map's dtype is
    the result's."""
    shape = (1,) * (4 - constant.dim()) + tuple(constant.shape)
    if len(shape) != 4 or shape[0] != 1 or shape[2:] == (1, 1) or constant.device != x.device:
        return False
    if any(own not in (1, size) for own, size in zip(shape[2:], x.shape[1:], strict=True)):
        return False
    if shape[1] != x.shape[0] and 1 not in (shape[1], x.shape[0]):
        return False
    return torch.promote_types(constant.dtype, x.dtype) == x.dtype


_UNTAGGED = ("rsub", "masked_fill", "where")  # but one by one all the same


# --- choices by a mask ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Masked:
    """A map where the mask (of zeros and ones) is zero, or one if ``where``, and else ``other``."""

    other: float
    where: bool

    def __call__(self, x: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask != 0 if self.where else mask == 0, x, self.other)

    def kept(self, mask: Tensor) -> Tensor:
        """What the map is multiplied with."""
        return (mask != 0 if self.where else mask == 0).to(mask.dtype)


def choice(call: Call, args: Sequence[Any]) -> Reading | None:
    """Masks that are fixed maps: of a call with the mask in the place of its constant."""
    if call.name == "masked_fill":
        x, mask, other = args
        where = False
    elif call.name == "where":
        mask, x, other = args
        where = True
        if not isinstance(x, Value):
            x, other, where = other, x, False
    else:
        return None
    if isinstance(other, Tensor) and other.numel() == 1:
        other = other.item()
    if not isinstance(other, int | float) or not isinstance(x, Value):
        return None
    return Binary(call.name, Masked(other, where)), (x, mask)


# --- weights repeated for every image -------------------------------------------------------------


def product_with_weights(nodes: Sequence[Node], a: Any, b: Any) -> Reading | None:
    """A batch of matrix products one of whose factors is the same for all: a linear layer."""
    if not isinstance(a, Value) or not isinstance(b, Value):
        return None
    left, right = alike(nodes, a), alike(nodes, b)
    if right is not None and left is None:
        return Opaque(), (a,), Linear(right.t(), None)
    if left is not None and right is None:
        return Opaque(), (b,), LeftLinear(left)
    return None


def alike(nodes: Sequence[Node], value: Value) -> Tensor | None:
    """What all entries along a value's first axis are, as a view of the constant that they are
    made of; None where they may differ, or are no view."""
    views: list[Node] = [nodes[value.index]]
    while views[-1].target == "view" and isinstance(views[-1].args[0], Value):
        views.append(nodes[views[-1].args[0].index])
    made = views.pop()
    if not isinstance(made.function, MadeFor) or made.target != "expand":
        return None
    (images, *_) = made.args
    stand_in = torch.empty((), dtype=images.dtype, device=images.device)
    values = {images.index: stand_in.expand(2, *images.shape)}
    values[made.index] = made.evaluate(values)
    for view in reversed(views):
        values[view.index] = view.evaluate(values)
    found = values[value.index]
    return found[0] if found.dim() and len(found) > 1 and found.stride(0) == 0 else None


def repeated(nodes: Sequence[Node], value: Any, times: Sized) -> Tensor | None:
    """The vector that is repeated so often to make a value."""
    node = nodes[value.index] if isinstance(value, Value) else None
    if node is None or node.target != "repeat" or not isinstance(node.function, MadeFor):
        return None
    _, vector, counts = node.args
    return vector if vector.dim() == 1 and list(counts) == [times] else None
