"""The two files of a result: NAME.npz holds its arrays, NAME.json the settings, which name them."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from zfcuda.storage.files import atomic_path, checksum, write_bytes
from zfcuda.storage.identity import versions

_FORMAT = 1  # of the files; raise it when an older reader would misread what is written


def pair(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The npz and the JSON file; ``path`` may be their common name or either of them."""
    path = Path(path)
    name = path.stem if path.suffix in (".npz", ".json") else path.name
    return path.with_name(f"{name}.npz"), path.with_name(f"{name}.json")


def write(
    path: str | os.PathLike[str],
    kind: str,
    settings: Any,
    arrays: Mapping[str, np.ndarray],
    about: Mapping[str, Any],
) -> None:
    """Write a result of this ``kind``, the arrays first; each file appears whole or not at all.

    Raises:
        OSError: the folder cannot be written.
        ValueError: ``settings`` are no strict JSON.
    """
    npz, header_path = pair(path)
    with atomic_path(npz) as temporary:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **dict[str, Any](arrays))  # projections are mostly zeros
        digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
    header = {
        "kind": kind,
        "format": _FORMAT,
        "zfcuda": versions("zfcuda").get("zfcuda", "unknown"),
        "arrays": {"file": npz.name, "sha256": digest},
        "settings": settings,
        "settings_sha256": checksum(settings),
        **about,
    }
    write_bytes(header_path, json.dumps(header, indent=1, allow_nan=False).encode())


def read(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], bytes]:
    """The settings, and the checked content of the npz file.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: not of this ``kind``, of another format, damaged, or not a pair.
    """
    npz, header_path = pair(path)
    for file in (header_path, npz):
        if file.exists() and not file.is_file():
            raise ValueError(f"{file} is no file: expected those of a zfcuda result")
    text, data = header_path.read_bytes(), npz.read_bytes()
    try:
        header = json.loads(text.decode("utf-8"), parse_constant=_refused)
        found, version = header["kind"], header["format"]
        digest, settings = header["arrays"]["sha256"], header["settings"]
        said = header.get("settings_sha256")  # not in files of 0.1.0
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{header_path} is not the settings file of a zfcuda result") from error
    if found != kind:
        raise ValueError(f"{header_path} holds a {found}, not a {kind}")
    if version != _FORMAT:
        raise ValueError(f"{header_path} has file format {version!r}, this zfcuda reads {_FORMAT}")
    if said is not None and said != checksum(settings):
        raise ValueError(f"{header_path} is damaged: its settings are not what was written")
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(f"{npz} is damaged or was not written together with {header_path}")
    return settings, data


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON's")


_DEFLATED = 1032  # bytes that a byte of deflate's can stand for at most
_PIECE = 1 << 20


def pack(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """``value`` as strict JSON; its tensors go to ``arrays``, under names that begin with ``name``,
    and are referred to by these."""
    if isinstance(value, Tensor):
        arrays[name] = _to_array(value)
        dtype = str(value.dtype).removeprefix("torch.")
        return {"array": name, "dtype": dtype, "shape": list(value.shape)}
    if dataclasses.is_dataclass(value):
        return {
            field.name: pack(getattr(value, field.name), f"{name}{field.name}", arrays)
            for field in dataclasses.fields(value)
        }
    if isinstance(value, dict):
        return {key: pack(item, f"{name}.{key}.", arrays) for key, item in value.items()}
    if isinstance(value, tuple):
        return [pack(item, f"{name}.{i}", arrays) for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):  # strict JSON has no NaN
        return {"float": str(value)}
    return value


class Arrays:
    """The arrays in the content of an npz file, each read when it is asked for by the type and
    shape that the settings have for it: memory is taken for what both agree about.

    Raises:
        ValueError: entries that claim more than compression can give, or that overlap.
    """

    def __init__(self, data: bytes) -> None:
        self._archive = zipfile.ZipFile(io.BytesIO(data))
        entries = self._archive.infolist()
        packed = sum(entry.compress_size for entry in entries)
        if packed > len(data) or any(_impossible(entry) for entry in entries):
            raise ValueError(f"its arrays claim more than its {len(data):,} bytes can hold")

    def read(self, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """An array of this type and shape.

        Raises:
            KeyError: there is none of this name.
            ValueError: it is of another type or shape, or its bytes are not as many.
        """
        with self._archive.open(f"{name}.npy") as stream:
            form, fortran = _header(stream)
            if form != (dtype, shape):
                raise ValueError(
                    f"array {name!r} should be {dtype} {list(shape)}, got {form[0]} {list(form[1])}"
                )
            size = math.prod(shape) * dtype.itemsize
            if size > self._archive.getinfo(f"{name}.npy").file_size:
                raise ValueError(f"array {name!r} {list(shape)} is cut short")
            content = np.empty(size, np.uint8)
            done = 0
            while done < size and (piece := stream.read(min(_PIECE, size - done))):
                content[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
                done += len(piece)
            if done < size or stream.read(1):  # at its end the checksum is compared
                raise ValueError(f"array {name!r} {list(shape)} has another length than it says")
        return content.view(dtype).reshape(shape, order="F" if fortran else "C")


def _impossible(entry: zipfile.ZipInfo) -> bool:
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return True
    return entry.file_size > _DEFLATED * entry.compress_size + _PIECE


def _header(stream: IO[bytes]) -> tuple[tuple[np.dtype, tuple[int, ...]], bool]:
    """Type and shape of the array that follows; whether its columns come first."""
    if np.lib.format.read_magic(stream) == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    else:  # what NumPy writes for the longest headers
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    return (dtype, shape), fortran


def unpack(value: Any, arrays: Arrays) -> Any:
    """What :func:`pack` was given; of dataclasses their fields as a dict.

    Raises:
        KeyError, TypeError, ValueError: ``value`` and ``arrays`` do not belong together.
    """
    if isinstance(value, list):
        return tuple(unpack(item, arrays) for item in value)
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("float"), str):
        return float(value["float"])
    if isinstance(value.get("array"), str):
        return _to_tensor(value, arrays)
    return {key: unpack(item, arrays) for key, item in value.items()}


def _to_array(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:  # NumPy has none: keep the bits
        tensor = tensor.view(torch.int16)
    return tensor.numpy()


def _to_tensor(packed: Mapping[str, Any], arrays: Arrays) -> Tensor:
    name, dtype, shape = packed["array"], str(packed["dtype"]), packed["shape"]
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"array {name!r} has no proper shape: {shape!r}")
    if not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ValueError(f"array {name!r} is of no type of numbers: {dtype!r}")
    # NumPy has no bfloat16: its bits were kept.
    stored = np.dtype("int16" if dtype == "bfloat16" else dtype)
    tensor = torch.from_numpy(arrays.read(name, stored, tuple(shape)))
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor
