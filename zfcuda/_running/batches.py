"""How much at a time, and how far it has got."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any

import torch

from zfcuda import _terminal


def memory_limit(max_memory: int | None, device: torch.device) -> int:
    """Bytes that one batch's activations may take: as given, or half of what is free on a GPU; on
    a CPU a quarter of what is free, at most 128 MiB (there larger batches only fault pages in).

    Raises:
        ValueError: ``max_memory`` is not a positive, finite number.
    """
    if max_memory is not None:
        number = isinstance(max_memory, Real) and not isinstance(max_memory, bool)
        if not number or not 0 < max_memory < math.inf:
            raise ValueError(f"max_memory must be a positive number of bytes, got {max_memory!r}")
        return int(max_memory)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not every system tells
        return 2**27
    return max(2**26, min(free // 4, 2**27))


def spans(start: int, stop: int, step: int) -> Iterator[slice]:
    """Slices of at most ``step`` that cover start..stop."""
    for begin in range(start, stop, step):
        yield slice(begin, min(begin + step, stop))


@contextmanager
def progress_bar(total: int, shown: bool, title: str) -> Iterator[Callable[[int], Any]]:
    """A function that moves a progress bar (or nothing)."""
    if not shown:
        yield lambda steps: None
        return
    with _terminal.progress(total=total, desc=title, leave=False) as bar:
        yield bar.update
