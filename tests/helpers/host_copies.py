"""The kernels for GPUs, run on the host as ``torch.ops.zfcuda_host``: a library of the tests' own,
compiled from the clone on first use and kept under build/.

ZFCUDA_HOST_COPIES names another library that has these ops, to be tested in its place.
"""

from __future__ import annotations

import fcntl
import functools
import os
from pathlib import Path

import torch
from extension import build_folder, build_host_copies


@functools.cache
def load() -> Path:
    """Register the ops, compiling what has changed: one process does, others wait for it.

    Returns:
        The library.
    """
    library = Path(os.environ.get("ZFCUDA_HOST_COPIES") or _built())
    torch.ops.load_library(library)
    return library


def _built() -> Path:
    folder = build_folder("host-copies")
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return build_host_copies(folder)
