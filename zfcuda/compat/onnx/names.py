"""Names for layers, from what a file calls its nodes.

Exporters write down where in a model a node comes from: torch's as ``/features/features.0/Conv`` or
in the node's metadata, TensorFlow's and Caffe2's with slashes. Where that tells one node from all
others it becomes the layer's name (``features.0``, as in the model that was exported); else the
operator is appended.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import onnx

from zfcuda.compat.onnx.network import OnnxNetwork

__all__ = ["layer_names"]

_SCOPES = "pkg.torch.onnx.name_scopes"  # torch's exporter from 2.5 on

Path = tuple[str, ...]


def layer_names(nodes: Sequence[onnx.NodeProto]) -> list[str]:
    """A name for each node: unique, made of letters, digits, "_" and dots, and such that no name
    goes on where another ends (a layer is no part of another)."""
    places = [_place(node, index) for index, node in enumerate(nodes)]
    paths = [path for path, _ in places]
    if not any(node.name.startswith("/") or _torchs_scopes(node) for node in nodes):
        paths = _without_common_start(paths)
    clashing = _clashing(paths)
    paths = [
        (*path, operator) if path in clashing else path
        for path, (_, operator) in zip(paths, places, strict=True)
    ]
    paths = _numbered(paths)
    if _clashing(paths):
        paths = _numbered([("_".join(path),) for path in paths])
    return [".".join(path) for path in paths]


def _place(node: onnx.NodeProto, index: int) -> tuple[Path, str]:
    """Where a node comes from, and what it is there."""
    path, operator = _told(node, index)
    operator = _attribute(operator)
    return tuple(map(_attribute, path)) or (operator,), operator


def _told(node: onnx.NodeProto, index: int) -> tuple[Sequence[str], str]:
    """The same as the file has it."""
    operator = node.op_type.lower()
    scopes = _torchs_scopes(node)
    if len(scopes) > 1:
        return [part for part in scopes[-2].split(".") if part], scopes[-1]
    name = node.name or node.output[0]
    if name.isdecimal():
        name = f"{operator}_{index}"
    parts = [part for part in name.split("/") if part]
    if not name.startswith("/"):
        return parts, operator
    *scope, operator = parts or [operator]
    # The children of torch's containers repeat the container's name: features/features.0
    own = [part for part, child in pairwise((*scope, "")) if not child.startswith(f"{part}.")]
    return [part for name in own for part in name.split(".") if part], operator.lower()


def _torchs_scopes(node: onnx.NodeProto) -> list[str]:
    for entry in node.metadata_props:
        if entry.key == _SCOPES and len(entry.value) < 10_000:
            try:
                scopes = ast.literal_eval(entry.value)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                return []
            fine = isinstance(scopes, list) and all(isinstance(s, str) for s in scopes)
            return scopes if fine else []
    return []


def _without_common_start(paths: list[Path]) -> list[Path]:
    """Without what they all begin with (``gpu_0`` in Caffe2's files)."""
    while all(len(path) > 1 for path in paths) and len({path[0] for path in paths}) == 1:
        paths = [path[1:] for path in paths]
    return paths


def _clashing(paths: Sequence[Path]) -> set[Path]:
    """Paths that are there twice, or with which another begins."""
    starts = {path[:length] for path in set(paths) for length in range(1, len(path))}
    return {path for path, times in Counter(paths).items() if times > 1 or path in starts}


def _numbered(paths: Sequence[Path]) -> list[Path]:
    """With a number behind those that were there before."""
    found: dict[Path, None] = {}
    for path in paths:
        candidate, number = path, 1
        while candidate in found:
            number += 1
            candidate = (*path[:-1], f"{path[-1]}_{number}")
        found[candidate] = None
    return [*found]


def _attribute(part: str) -> str:
    """A part of a name as an attribute of a module."""
    part = re.sub(r"\W", "_", part, flags=re.ASCII)[:100] or "_"
    return f"{part}_" if hasattr(_MODULE, part) else part


_MODULE = OnnxNetwork((0, 0, 0))
