"""A run that is killed again and again: ``killed.py FOLDER KILLS``.

The process that kills only imports; children that it forks do the work. So a kill costs no start.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from small_runs import COUNT, SETTINGS, Images, groups_of, images, network, whole_files

import zfcuda
from zfcuda.experiments.occlusion.over import occlusion_over


def results(folder: Path) -> dict[Path, int]:
    """When each result was finished: its second file was written."""
    # Not what a kill left half written, which is hidden.
    return {path: path.stat().st_mtime_ns for path in folder.glob("images/*/[0-9]*.json")}


def work(folder: Path) -> None:
    torch.set_num_threads(1)
    groups_of(4)
    slow = Images(images(), lambda number: time.sleep(0.03))
    occlusion_over(network(), slow, folder, **SETTINGS)


def forked(folder: Path) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work(folder)
            status = 0
        finally:
            os._exit(status)
    return child


def main(folder: Path, kills: int) -> None:
    assert zfcuda.ops  # loaded before there are children
    rng, dead = random.Random(0), 0
    for _ in range(kills):
        if len(results(folder)) == COUNT:  # so that there is something to do
            for path in rng.sample(sorted(results(folder)), 8):
                path.unlink()
        before = results(folder)
        child = forked(folder)
        wanted = len(before) + rng.randrange(4)
        while len(results(folder)) < wanted and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.001)
        time.sleep(rng.random() * 0.1)
        try:
            os.kill(child, signal.SIGKILL)
            dead += os.waitpid(child, 0)[1] == signal.SIGKILL
        except (ProcessLookupError, ChildProcessError):
            pass  # it was done before
        whole_files(folder)
        after = results(folder)
        assert before.items() <= after.items(), "a finished result was lost or written again"
    print(dead)
    assert os.waitpid(forked(folder), 0)[1] == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
