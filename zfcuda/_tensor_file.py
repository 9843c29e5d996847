"""A .safetensors file that is filled bit by bit, for tensors that are larger than the memory.

The format is eight bytes of length, a JSON header with every tensor's type, shape and place, and
the values. The safetensors library reads it, but writes only what is in memory.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from zfcuda._files import atomic_path

__all__ = ["tensor_file"]

_NAMES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}
_ALIGNED = 64  # bytes, for vector loads from the mapped file


@contextmanager
def tensor_file(
    path: str | os.PathLike[str],
    shapes: Mapping[str, tuple[torch.dtype, Sequence[int]]],
    metadata: Mapping[str, str],
) -> Iterator[dict[str, Tensor]]:
    """The tensors of a new file, zero at first; on leaving, the file appears in one step.

    Args:
        shapes: by name the dtype (float32, float64 or int64) and the shape.
        metadata: texts that the header carries.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    places, size = {}, 0
    # The wide ones first, so that each lies where its values are aligned.
    for name, (dtype, shape) in sorted(shapes.items(), key=lambda item: -item[1][0].itemsize):
        end = size + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": [*shape], "data_offsets": [size, end]}
        places[name], size = (size, end), end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNED)
    start = 8 + len(text)
    with atomic_path(path) as temporary:
        with temporary.open("r+b") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            if size:
                # Reserved now: a mapped file that outgrows its disk ends the process by a signal.
                os.posix_fallocate(file.fileno(), 0, start + size)
        whole = np.memmap(temporary, np.uint8, "r+")
        bytes_of = torch.from_numpy(whole)
        tensors = {}
        for name, (dtype, shape) in shapes.items():
            begin, end = (start + place for place in places[name])
            flat = bytes_of[begin:end].view(dtype) if end > begin else torch.empty(0, dtype=dtype)
            tensors[name] = flat.view(*shape)
        yield tensors
        whole.flush()
