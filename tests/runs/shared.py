"""Runs shared by the processes of torchrun: ``shared.py FOLDER``; the last one loses rank 1."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from small_runs import SETTINGS, Slow, groups_of, images, network

from zfcuda._distributed import current_shard, from_environment
from zfcuda.runs import invariance_over, occlusion_over


class Deadly(Slow):
    """Kills the process that reads a certain image."""

    def __getitem__(self, number: int) -> torch.Tensor:
        if current_shard().rank == 1 and number == 10:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(number)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    groups_of(3)
    net = network()
    with from_environment() as shard:
        uneven = occlusion_over(net, images(), folder / "uneven", **SETTINGS)
        few = occlusion_over(net, images(2), folder / "few", **SETTINGS)
        moved = invariance_over(net, images(), folder / "moved", "3", transformations=FAMILIES)
        assert all((one is not None) == shard.first for one in (uneven, few, moved))
        occlusion_over(net, Deadly(images(), 0), folder / "dead", **SETTINGS)


FAMILIES = {"rotation": [0.0, 30.0], "scale": [1.0, 1.2, 1.5]}

if __name__ == "__main__":
    main(Path(sys.argv[1]))
