"""Nodes that became layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
from torch import nn

__all__ = ["Made", "needed"]


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
