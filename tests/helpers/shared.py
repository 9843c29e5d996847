"""Runs that several processes share: ``shared.py FOLDER`` under torchrun, or :func:`start`. The
last one, called ``dead``, loses the last rank; :func:`go_on` finishes it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from ranks import processes
from small_runs import COUNT, SETTINGS, Images, groups_of, images, network

from zfcuda.experiments.invariance.over import invariance_over
from zfcuda.experiments.occlusion.over import occlusion_over
from zfcuda.storage.ranks import Shard, current_shard, from_environment
from zfcuda.storage.run_folder import claimed

COUNTS = (COUNT, 7, 2)  # five groups, three, one
FAMILIES = {"rotation": [0.0, 30.0], "scale": [1.0, 1.2, 1.5]}
_TOGETHER = 3


def die(number: int) -> None:
    """Kill the last rank within its last group."""
    shard = current_shard()
    last = shard.own(range(-(-COUNT // _TOGETHER)))[-1]
    if shard.rank == shard.world - 1 and number == last * _TOGETHER + 1:
        os.kill(os.getpid(), signal.SIGKILL)


def all_runs(folder: Path) -> None:
    """What a rank does."""
    net, shard = network(), current_shard()
    for count in COUNTS:
        found = occlusion_over(net, images(count), folder / str(count), **SETTINGS)
        assert (found is not None) == shard.first
    moved = invariance_over(net, images(), folder / "moved", "3", transformations=FAMILIES)
    assert (moved is not None) == shard.first
    _refused(net, folder / "busy")
    occlusion_over(net, Images(images(), die), folder / "dead", **SETTINGS)


def _refused(net: torch.nn.Module, folder: Path) -> None:
    """Where another run is at work, every rank says so, and none is left waiting."""
    shard = current_shard()
    with claimed(folder, Shard()) if shard.first else nullcontext():
        shard.wait()
        with pytest.raises(ValueError, match="another run is at work"):
            occlusion_over(net, images(), folder, **SETTINGS)
        shard.wait()


def go_on(folder: Path) -> None:
    """What a rank does to finish what the dead one left."""
    occlusion_over(network(), Images(images()), folder / "dead", **SETTINGS)


def start(world: int, work: Callable[[Path], None], folder: Path) -> None:
    """Processes of one run, forked from this one."""
    processes(world, _grouped, work, folder)


def _grouped(work: Callable[[Path], None], folder: Path) -> None:
    groups_of(_TOGETHER)
    work(folder)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with from_environment():
        _grouped(all_runs, Path(sys.argv[1]))
