"""A table of operators: under ONNX's name, what makes a layer of a node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from zfcuda.compat.onnx.call import Call, Layer

__all__ = ["Maker", "Operator", "Table"]

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
