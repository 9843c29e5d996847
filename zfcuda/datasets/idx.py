"""IDX files (the MNIST family's format): arrays of bytes behind a header with their shape."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["find_idx", "read_idx"]

_BYTES = 8  # the header's code for uint8, the only kind of number these data sets use
_MAX_DIMENSIONS = 8
_MAX_BYTES = 1 << 32  # of one file unpacked: a small .gz can claim to be endless


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
    content = _unpacked(path)
    if len(content) < 4 or content[:2] != b"\0\0":
        raise ValueError(f"'{path}' is not an IDX file: it does not begin with two zero bytes")
    kind, dimensions = content[2], content[3]
    start = 4 + 4 * dimensions
    if kind != _BYTES or not 1 <= dimensions <= _MAX_DIMENSIONS or len(content) < start:
        raise ValueError(
            f"'{path}' is an IDX file of kind {kind:#04x} with {dimensions} dimensions: expected "
            f"bytes (kind {_BYTES:#04x}) with 1 to {_MAX_DIMENSIONS} dimensions"
        )
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    if len(content) - start != math.prod(shape):
        raise ValueError(
            f"'{path}' is damaged: its header promises {'x'.join(map(str, shape))} = "
            f"{math.prod(shape):,} values, {len(content) - start:,} follow"
        )
    if len(content) == start:
        return torch.empty(shape, dtype=torch.uint8)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).reshape(shape)


def _unpacked(path: Path) -> bytes:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"'{path}' is damaged: {error}") from error
    if len(content) > _MAX_BYTES:
        raise ValueError(f"'{path}' holds more than {_MAX_BYTES:,} bytes: no IDX data set does")
    return content
