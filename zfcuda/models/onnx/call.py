"""One node of an ONNX graph, as those see it who make a layer of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import Tensor, nn

# The number of images while a network is made: no other length in it is this prime, or a multiple.
BATCH = 999_983

Pads = tuple[int, int, int, int]  # top, left, bottom, right


@dataclass(frozen=True, eq=False)
class Operand:
    """A value that a node takes.

    Attributes:
        name: of the value.
        shape: its first length is ``BATCH``, unless it is a constant.
        dtype: of its numbers.
        constant: the value, if it does not depend on the images.
        padding: zeros that a convolution is to see around it.
    """

    name: str
    shape: torch.Size
    dtype: torch.dtype
    constant: Tensor | None = None
    padding: Pads = (0, 0, 0, 0)


@dataclass(frozen=True, eq=False)
class Layer:
    """What a node becomes: a module, and which of the node's inputs it takes."""

    module: nn.Module
    takes: tuple[int, ...] = (0,)


@dataclass(frozen=True, eq=False)
class Call:
    """A node.

    Attributes:
        node: as the file has it.
        version: of its operator: the opset in which that was last changed.
        inputs: what it takes; None for what is left out.
        images: how many the file was made for, None if any number.
    """

    node: onnx.NodeProto
    version: int
    inputs: tuple[Operand | None, ...]
    images: int | None

    def error(self, message: str) -> ValueError:
        return ValueError(f"node {self.label} ({self.node.op_type}): {message}")

    @property
    def label(self) -> str:
        return label(self.node)

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute: a number, a string, a list of numbers or a TensorProto."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                value = onnx.helper.get_attribute_value(attribute)
                value = value.decode(errors="replace") if isinstance(value, bytes) else value
                return value
        return default

    def choice(self, name: str, default: Any, *known: Any) -> Any:
        """An attribute that may have one of the ``known`` values only.

        Raises:
            ValueError: it has another.
        """
        value = self.attribute(name, default)
        if value not in known:
            expected = " or ".join(map(str, known))
            raise self.error(f"{name} is {value!r}: expected {expected}")
        return value

    def input(self, index: int) -> Operand:
        """An input that must be there."""
        found = self.inputs[index] if index < len(self.inputs) else None
        if found is None:
            raise self.error(f"input {index} is missing")
        return found

    def constant(self, index: int) -> Tensor | None:
        """An input that must not depend on the images; None if it is left out.

        Raises:
            ValueError: it depends on them.
        """
        found = self.inputs[index] if index < len(self.inputs) else None
        if found is not None and found.constant is None:
            raise self.error(f"input {index} ({found.name!r}) must be a constant of the file")
        return None if found is None else found.constant

    def weights(self, index: int, *lengths: int | None) -> Tensor:
        """A constant that must be there, of real numbers and of this shape (None: any but 0)."""
        self.input(index)
        found = self.constant(index)
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
        if found is None:
            return self.attribute(name, default)
        return found.reshape(-1).tolist()

    def axis(self, axis: int, rank: int, images: bool = False) -> int:
        """An axis counted from the front.

        Args:
            rank: of what it is an axis of.
            images: whether it may be the axis along which the images lie.

        Raises:
            ValueError: it is out of range, or lies along the images.
        """
        if not -rank <= axis < rank:
            raise self.error(f"axis {axis} of {rank}")
        if axis % rank == 0 and not images:
            raise self.error("it mixes the images of a batch (axis 0)")
        return axis % rank


def label(node: onnx.NodeProto) -> str:
    """A node's name for messages; its output's if it has none."""
    return repr(node.name or next(iter(node.output), ""))


@dataclass(frozen=True, eq=False)
class Made:
    """A node that became a layer.

    Attributes:
        node: the file's.
        module: the layer.
        inputs, outputs: names of the values that it takes and makes.
    """

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


Maker = Callable[[Call], Layer]  # its ValueErrors name the node


@dataclass(frozen=True)
class Operator:
    """An operator that is known.

    Attributes:
        layer: from a node to what it becomes.
        newest: the latest of the operator's versions that ``layer`` was written for.
    """

    layer: Maker
    newest: int


class Table(dict[str, Operator]):
    """Operators by name."""

    def add(self, name: str, newest: int) -> Callable[[Maker], Maker]:
        """A decorator that enters a maker."""

        def enter(maker: Maker) -> Maker:
            self[name] = Operator(maker, newest)
            return maker

        return enter

    def add_module(self, name: str, newest: int, module: Callable[[], nn.Module]) -> None:
        """Enter an operator without settings."""
        self[name] = Operator(lambda call: Layer(module()), newest)
