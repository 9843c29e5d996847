"""From an ONNX file to its graph and its weights, trusting neither.

The file is a protobuf: parsing it executes nothing. Numbers are taken out of it here, after
comparing what each tensor claims with the bytes that are there; ``onnx.checker`` judges the rest.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import Tensor

_LARGEST = 2**31 - 1  # bytes; no protobuf holds more
_OLDEST = 7  # opset; before, a sum named the axis to broadcast along

DTYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT64: torch.int64,
    TensorProto.INT32: torch.int32,
    TensorProto.INT16: torch.int16,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}


@dataclass(frozen=True, eq=False)
class OnnxFile:
    """What is in a file."""

    graph: onnx.GraphProto  # without the weights
    opset: int
    weights: dict[str, Tensor]
    beside: Beside
    size: int  # bytes


class Beside:
    """Files in a model's folder that hold numbers of its tensors; each gives as many as it has.

    Attributes:
        taken: how many bytes of each have been read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.taken: dict[Path, int] = {}

    def read(self, stored: TensorProto, wanted: int) -> bytes:
        """The bytes of a tensor, if its place is in the folder, long enough, and not read again and
        again."""
        name = stored.name
        told = {entry.key: entry.value for entry in stored.external_data}
        place = (self._folder / told.get("location", "")).resolve()
        if not told.get("location") or not place.is_relative_to(self._folder):
            raise ValueError(
                f"weights {name!r} lie in {told.get('location', '')!r}: expected a file in the "
                "folder of the model"
            )
        if not place.is_file():
            raise ValueError(f"weights {name!r} lie in {place.name!r}, which does not exist")
        try:
            offset = int(told.get("offset", 0))
            length = int(told.get("length", wanted))
        except ValueError:
            raise ValueError(f"weights {name!r} lie at no proper place of {place.name!r}") from None
        size = place.stat().st_size
        if offset < 0 or length != wanted or offset + length > size:
            raise ValueError(
                f"weights {name!r} {list(stored.dims)} need {wanted:,} bytes, but bytes "
                f"{offset:,} to {offset + length:,} of {place.name!r} ({size:,} bytes) are named"
            )
        self.taken[place] = self.taken.get(place, 0) + wanted
        if self.taken[place] > size:
            raise ValueError(
                f"weights {name!r}: together the weights in {place.name!r} claim more than its "
                f"{size:,} bytes"
            )
        with place.open("rb") as file:
            file.seek(offset)
            return file.read(wanted)


def read(path: str | os.PathLike[str]) -> OnnxFile:
    """The file's contents; what it raises, :func:`zfcuda.models.onnx.load` does."""
    path = Path(path)
    model = _parsed(path)
    opset = _opset(model)
    beside = Beside(path.resolve().parent)
    weights = _taken_out(model.graph, beside)
    for value in model.graph.output:  # many files do not tell their shapes, which the checker wants
        value.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # ValidationError, and what onnx makes of a hostile file
        raise ValueError(f"not a valid ONNX model: {first_line(error)}") from error
    return OnnxFile(model.graph, opset, weights, beside, path.stat().st_size)


def _parsed(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise FileNotFoundError(f"ONNX file '{path}' does not exist")
    size = path.stat().st_size
    if size > _LARGEST:
        raise ValueError(f"it has {size:,} bytes; an ONNX model has at most {_LARGEST:,}")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except Exception as error:  # OSError, protobuf's DecodeError
        raise ValueError(f"cannot be read as an ONNX model: {first_line(error)}") from error
    names = (name for node in model.graph.node for name in (node.name, *node.input, *node.output))
    if any(isinstance(name, bytes) for name in names):
        raise ValueError("not a valid ONNX model: it has names that are no UTF-8")
    if not model.graph.node:
        raise ValueError(f"not an ONNX model, or an empty one ({size:,} bytes)")
    return model


def first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))


def _opset(model: onnx.ModelProto) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if len(versions) != 1:
        raise ValueError(f"it names {len(versions)} versions of ONNX's operators instead of one")
    if versions[0] < _OLDEST:
        raise ValueError(
            f"its operators are of opset {versions[0]}: expected {_OLDEST} or later; "
            "onnx.version_converter.convert_version(model, 12) makes a newer model of it"
        )
    newest = onnx.defs.onnx_opset_version()
    if versions[0] > newest:
        raise ValueError(
            f"its operators are of opset {versions[0]}; onnx {onnx.__version__} knows them up to "
            f"{newest}"
        )
    return versions[0]


def _taken_out(graph: onnx.GraphProto, beside: Beside) -> dict[str, Tensor]:
    """The initialisers, which become inputs of the graph: the checker need not see them."""
    if graph.sparse_initializer:
        raise ValueError(f"weights {graph.sparse_initializer[0].values.name!r} are sparse")
    weights: dict[str, Tensor] = {}
    declared = {value.name for value in graph.input}
    for stored in graph.initializer:
        if stored.name in weights:
            raise ValueError(f"there are two weights {stored.name!r}")
        weights[stored.name] = tensor(stored, beside)
        if stored.name not in declared:
            graph.input.append(
                onnx.helper.make_tensor_value_info(stored.name, stored.data_type, stored.dims)
            )
    del graph.initializer[:]
    return weights


def tensor(stored: TensorProto, beside: Beside) -> Tensor:
    """A tensor of the file, if its numbers are of a kind that torch has, and as many as it says."""
    name = stored.name or "a constant"
    dtype = DTYPES.get(stored.data_type)
    if dtype is None:
        known = TensorProto.DataType.values()
        kind = TensorProto.DataType.Name(stored.data_type) if stored.data_type in known else "?"
        raise ValueError(f"weights {name!r} are of type {kind} ({stored.data_type})")
    if any(length < 0 for length in stored.dims) or stored.HasField("segment"):
        raise ValueError(f"weights {name!r} have no proper shape: {list(stored.dims)}")
    claimed = math.prod(stored.dims)
    outside = stored.data_location == TensorProto.EXTERNAL
    if outside or stored.HasField("raw_data"):
        wanted, what = claimed * dtype.itemsize, "bytes"
        held = beside.read(stored, wanted) if outside else stored.raw_data
    else:
        wanted, what = claimed, "numbers"
        held = getattr(stored, onnx.helper.tensor_dtype_to_field(stored.data_type))
    if wanted != len(held):
        raise ValueError(
            f"weights {name!r} {list(stored.dims)} need {wanted:,} {what}, "
            f"but there are {len(held):,}"
        )
    if not claimed:
        return torch.empty(tuple(stored.dims), dtype=dtype)
    if what == "bytes":
        # uint8 first: NumPy has no bfloat16. Files are little-endian, and so are torch's machines.
        numbers = torch.from_numpy(np.frombuffer(held, np.uint8).copy()).view(dtype)
    elif dtype in (torch.float16, torch.bfloat16):  # listed as integers with their bits
        numbers = torch.from_numpy(np.array(held, np.int64).astype(np.uint16)).view(dtype)
    else:
        numbers = torch.tensor(list(held), dtype=dtype)
    return numbers.reshape(tuple(stored.dims))
