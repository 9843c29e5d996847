"""Who gets the machine's cores: processes that read images, or threads of the network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_MOST = 16  # workers by default: beyond, the process that they feed is busy with being fed


def cores() -> int:
    """Cores for this process: those that it may run on, shared with the others that torchrun
    started on this machine."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def workers(wanted: int | None, device: torch.device) -> int:
    """Processes that read images, unless so many are ``wanted``: a quarter of the cores beside a
    network on the CPU, all but one for a network on a GPU."""
    if wanted is not None:
        return wanted
    return min(_MOST, cores() // 4 if device.type == "cpu" else cores() - 1)


@contextmanager
def cores_shared_with(workers: int, device: torch.device) -> Iterator[None]:
    """The network on the cores that its workers leave: threads that wait for each other wait for
    the one that shares its core. OMP_NUM_THREADS, where it is set, has the last word."""
    from zfcuda.inference.guards import threads

    on_cpu = workers and device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ
    with threads(max(1, cores() - workers)) if on_cpu else nullcontext():
        yield
