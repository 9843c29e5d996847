"""IDX files (the MNIST family's format): arrays of bytes behind a header with their shape."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

__all__ = ["find_idx", "idx_folder", "read_idx"]

_BYTES = 8  # the header's code for uint8, the only kind of number these data sets use
_MAX_DIMENSIONS = 8
_MAX_BYTES = 1 << 32  # of one file unpacked
_PIECE = 1 << 20
_DEFLATED = 1032  # bytes that one of a .gz can stand for at most


_TORCHVISION = Path("FashionMNIST/raw")  # where torchvision puts Fashion-MNIST's in its root


def idx_folder(folder: str | os.PathLike[str]) -> Path | None:
    """Where `folder` has its IDX files: in itself, or where torchvision leaves Fashion-MNIST's;
    None if it has none."""
    for place in (Path(folder), Path(folder) / _TORCHVISION):
        if any(place.glob("*-ubyte")) or any(place.glob("*-ubyte.gz")):
            return place
    return None


def find_idx(folder: str | os.PathLike[str], name: str) -> Path | None:
    """The file `name` or `name`.gz in `folder`, plain first; None if there is neither."""
    for path in (Path(folder) / name, Path(folder) / f"{name}.gz"):
        if path.is_file():
            return path
    return None


def read_idx(path: str | os.PathLike[str]) -> Tensor:
    """The array in an IDX file, plain or gzipped (by its first bytes, not its name), as uint8.

    Source: the format's description on the MNIST page: two zero bytes, a code for the kind of
    number, the number of dimensions, each length as a big-endian int32, then the values.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an IDX file of bytes, broken compression, or more or fewer bytes than the
            header promises.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"IDX file '{path}' does not exist")
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            shape = _shape(path, file)
            promised = math.prod(shape)
            size = path.stat().st_size
            if promised > size * (_DEFLATED if packed else 1):
                raise ValueError(
                    f"'{path}' is damaged: its header promises {_said(shape)}, which its {size:,} "
                    "bytes cannot hold"
                )
            content = _at_most(file, promised + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"'{path}' is damaged: {error}") from error
    if len(content) != promised:
        follow = f"{len(content):,} follow" if len(content) < promised else "more follow"
        raise ValueError(f"'{path}' is damaged: its header promises {_said(shape)}, {follow}")
    if not content:
        return torch.empty(shape, dtype=torch.uint8)
    return torch.frombuffer(content, dtype=torch.uint8).reshape(shape)


def _shape(path: Path, file: BinaryIO) -> list[int]:
    """What the header at the beginning of a file promises."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise ValueError(f"'{path}' is not an IDX file: it does not begin with two zero bytes")
    kind, dimensions = magic[2], magic[3]
    lengths = file.read(4 * dimensions)
    if kind != _BYTES or not 1 <= dimensions <= _MAX_DIMENSIONS or len(lengths) < 4 * dimensions:
        raise ValueError(
            f"'{path}' is an IDX file of kind {kind:#04x} with {dimensions} dimensions: expected "
            f"bytes (kind {_BYTES:#04x}) with 1 to {_MAX_DIMENSIONS} dimensions"
        )
    shape = [int.from_bytes(lengths[at : at + 4], "big") for at in range(0, len(lengths), 4)]
    if math.prod(max(length, 1) for length in shape) > _MAX_BYTES:
        raise ValueError(
            f"'{path}' is damaged: its header promises {_said(shape)}; no IDX data set has more "
            f"than {_MAX_BYTES:,}"
        )
    return shape


def _said(shape: list[int]) -> str:
    return f"{'x'.join(map(str, shape))} = {math.prod(shape):,} values"


def _at_most(file: BinaryIO, length: int) -> bytearray:
    """At most so many bytes, piece by piece: memory is taken for what is there, not for what a
    header promises, and a small .gz that unpacks to any length is not unpacked further."""
    content = bytearray()
    while piece := file.read(min(_PIECE, length - len(content))):
        content += piece
    return content
