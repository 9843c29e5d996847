"""What a node of the file takes and needs, before it is anything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx

from zfcuda.compat.onnx import constants
from zfcuda.compat.onnx.call import label
from zfcuda.compat.onnx.operators import OPERATORS

__all__ = ["needed_nodes", "pads_explicitly", "require_known", "taken", "version_of"]

# Of every operator the latest version that is known.
_NEWEST = (
    {name: operator.newest for name, operator in OPERATORS.items()}
    | {name: newest for name, (_, newest) in constants.MAKERS.items()}
    | {"If": 25}
)


def pads_explicitly(node: onnx.NodeProto, padded: str) -> bool:
    """Whether the node is a convolution of the value ``padded`` that says its own padding in
    numbers, to which more can be added."""
    automatic = any(
        a.name == "auto_pad" and a.s not in (b"NOTSET", b"VALID") for a in node.attribute
    )
    return node.op_type == "Conv" and not automatic and [*node.input].index(padded) == 0


def needed_nodes(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes on which the outputs depend, in order."""
    wanted, found = {*outputs}, []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.output):
            wanted.update(taken(node))
            found.append(node)
    return found[::-1]


def taken(node: onnx.NodeProto) -> list[str]:
    """The values that a node takes, also within its branches."""
    names = [*node.input]
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            inner = attribute.g
            names += [value.name for value in inner.output]
            names += [name for inside in inner.node for name in taken(inside)]
    return names


def require_known(nodes: Iterable[onnx.NodeProto]) -> None:
    """Raise unless all their operators are known.

    Raises:
        ValueError: it names each unknown operator, and the first node that has it.
    """
    unknown: dict[str, str] = {}
    for node in nodes:
        operator = (
            node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        )
        if operator not in _NEWEST:
            unknown.setdefault(operator, label(node))
    if unknown:
        named = ", ".join(f"{operator!r} (node {node})" for operator, node in unknown.items())
        raise ValueError(f"operators that are not known here: {named}")


def version_of(node: onnx.NodeProto, opset: int) -> int:
    """The version of the node's operator.

    Raises:
        ValueError: it is later than the latest that is known.
    """
    version = onnx.defs.get_schema(node.op_type, opset).since_version
    if version > _NEWEST[node.op_type]:
        raise ValueError(
            f"node {label(node)} ({node.op_type}): of opset {version}; known up to "
            f"{_NEWEST[node.op_type]}"
        )
    return version
