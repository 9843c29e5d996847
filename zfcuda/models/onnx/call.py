"""One node of an ONNX graph, as those see it who make a layer of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from zfcuda.models.onnx.reading import Beside

# The number of images while a network is made: no other length in it is this prime, or a multiple.
BATCH = 999_983

Pads = tuple[int, int, int, int]  # top, left, bottom, right


@dataclass(frozen=True, eq=False)
class Operand:
    """A value that a node takes."""

    name: str
    shape: torch.Size  # the first length is BATCH, unless it is a constant
    dtype: torch.dtype
    constant: Tensor | None = None  # the value, if it does not depend on the images
    padding: Pads = (0, 0, 0, 0)  # zeros that a convolution is to see around it


@dataclass(frozen=True, eq=False)
class Layer:
    """What a node becomes: a module, and which of the node's inputs it takes."""

    module: nn.Module
    takes: tuple[int, ...] = (0,)


@dataclass(frozen=True, eq=False)
class Call:
    """A node, and what its layer depends on."""

    node: onnx.NodeProto
    version: int  # of its operator: the opset in which that was last changed
    inputs: tuple[Operand | None, ...]  # None for what is left out
    images: int | None  # how many the file was made for, None if any number
    beside: Beside

    def error(self, message: str) -> ValueError:
        return ValueError(f"node {label(self.node)} ({self.node.op_type}): {message}")

    @property
    def shape(self) -> torch.Size:
        """Of the first input."""
        return self.input(0).shape

    @property
    def of_constant(self) -> bool:
        """Whether the first input does not depend on the images."""
        return self.input(0).constant is not None

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute: a number, a string, a list of numbers or a TensorProto."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                value = onnx.helper.get_attribute_value(attribute)
                return value.decode(errors="replace") if isinstance(value, bytes) else value
        return default

    def choice(self, name: str, default: Any, *known: Any) -> Any:
        """An attribute that may have one of the ``known`` values only."""
        value = self.attribute(name, default)
        if value not in known:
            expected = " or ".join(map(str, known))
            raise self.error(f"{name} is {value!r}: expected {expected}")
        return value

    def input(self, index: int) -> Operand:
        """An input that must be there."""
        found = self._optional(index)
        if found is None:
            raise self.error(f"input {index} is missing")
        return found

    def _optional(self, index: int) -> Operand | None:
        return self.inputs[index] if index < len(self.inputs) else None

    def constant(self, index: int) -> Tensor | None:
        """An input that must not depend on the images; None if it is left out."""
        found = self._optional(index)
        if found is not None and found.constant is None:
            raise self.error(f"input {index} ({found.name!r}) must be a constant of the file")
        return None if found is None else found.constant

    def weights(self, index: int, *lengths: int | None, optional: bool = False) -> Any:
        """A constant of real numbers and of this shape (None: any length but 0); it must be there
        unless it is ``optional``."""
        found = self.constant(index)
        if found is None and optional:
            return None
        self.input(index)
        fits = found.dim() == len(lengths) and all(
            have > 0 and want in (None, have)
            for want, have in zip(lengths, found.shape, strict=True)
        )
        if not fits or not found.is_floating_point():
            wanted = ", ".join("any" if n is None else str(n) for n in lengths)
            raise self.error(
                f"input {index} is {str(found.dtype).removeprefix('torch.')} {list(found.shape)}: "
                f"expected real numbers [{wanted}]"
            )
        return found

    def integers(self, index: int, name: str, default: Any = None) -> Any:
        """What older opsets have as the attribute ``name`` and newer ones as an input."""
        found = self.constant(index)
        return self.attribute(name, default) if found is None else found.reshape(-1).tolist()

    def number(self, index: int, name: str, default: float) -> float:
        """The same of one number."""
        found = self.constant(index)
        return self.attribute(name, default) if found is None else found.item()

    def axis(self, axis: int, rank: int | None = None, images: bool = False) -> int:
        """An axis of the first input, or of ``rank`` axes, counted from the front; the images' own
        only where there are none, or if ``images`` says so."""
        rank = len(self.shape) if rank is None else rank
        if not -rank <= axis < rank:
            raise self.error(f"axis {axis} of {rank}")
        if axis % rank == 0 and not images and not self.of_constant:
            raise self.error("it mixes the images of a batch (axis 0)")
        return axis % rank


def label(node: onnx.NodeProto) -> str:
    """A node's name for messages; its output's if it has none."""
    return repr(node.name or next(iter(node.output), ""))


@dataclass(frozen=True, eq=False)
class Made:
    """A node that became a layer; the names of the values that this takes and makes."""

    node: onnx.NodeProto
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def needed(made: Sequence[Made], output: str) -> list[Made]:
    """The layers on which a value depends, in order."""
    wanted, found = {output}, []
    for layer in reversed(made):
        if not wanted.isdisjoint(layer.outputs):
            wanted.update(layer.inputs)
            found.append(layer)
    return found[::-1]


# What makes a layer, or a constant, of a node; its ValueErrors name the node.
Maker = Callable[[Call], Layer | Tensor]


class Table(dict[str, tuple[Maker, int]]):
    """By operator, what makes a layer of it and the latest of the operator's versions that this was
    written for."""

    def add(self, name: str, newest: int) -> Callable[[Maker], Maker]:
        """A decorator that enters a maker."""

        def enter(maker: Maker) -> Maker:
            self[name] = maker, newest
            return maker

        return enter

    def add_module(self, name: str, newest: int, module: Callable[[], nn.Module]) -> None:
        """Enter an operator without settings."""
        self[name] = lambda call: Layer(module()), newest
