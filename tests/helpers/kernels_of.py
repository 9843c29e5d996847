"""What a library that was loaded lets tests do with its kernels for GPUs (csrc/cuda/launch.h)."""

from __future__ import annotations

import contextlib
import ctypes
import re
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def int64_only(library: Path) -> Iterator[None]:
    """Within, all indices of this library's kernels are int64, as those of 2^30 elements are."""
    switch = ctypes.CDLL(str(library)).zfcuda_int64_only
    switch(ctypes.c_bool(True))
    try:
        yield
    finally:
        switch(ctypes.c_bool(False))


def runs(library: Path) -> dict[str, int]:
    """Of every kernel in a library of host copies, named as the compiler names it, how often it
    was run in this process."""
    following = ctypes.CDLL(str(library)).zfcuda_next_kernel
    following.restype = ctypes.c_char_p
    last, count = ctypes.c_void_p(), ctypes.c_int64()
    found = {}
    while name := following(ctypes.byref(last), ctypes.byref(count)):
        # g++: "... [with Body = zfcuda::cuda::OccludeRow<short unsigned int, 8, int>; Index = int]"
        body = re.search(r"Body = ([^;\]]+)", name.decode())[1]
        found[body.replace("zfcuda::cuda::", "")] = count.value
    return found
