"""What the benchmarks of whole experiments share: JSON lines, memory, contests in rounds."""

from __future__ import annotations

import ctypes
import gc
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import zfcuda.cli.info


@dataclass(frozen=True, eq=False)
class Contestant:
    """One way to do the work.

    Attributes:
        label: with which settings.
        run: does ``count`` pieces of it.
        count: positions, or units.
    """

    label: str
    run: Callable[[], Any]
    count: int

    def seconds(self) -> float:
        _wait_for_gpu()
        begin = time.perf_counter()
        self.run()
        _wait_for_gpu()
        return time.perf_counter() - begin


def _wait_for_gpu() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def finalists(contestants: Sequence[Contestant], count: int = 2) -> list[Contestant]:
    """The fastest a piece: one run each, another for those that came near, the better counts."""
    cost = {each: each.seconds() / each.count for each in contestants}
    near = 1.5 * min(cost.values(), default=0.0)
    for each in contestants:
        if cost[each] <= near:
            cost[each] = min(cost[each], each.seconds() / each.count)
    return sorted(contestants, key=cost.__getitem__)[:count]


def median_ratio(rounds: Sequence[dict[str, float]], peer: str) -> float:
    """How many times longer ``peer`` took than ours: the median of the rounds' ratios."""
    return statistics.median(times[peer] / times["ours"] for times in rounds)


def machine() -> dict[str, str]:
    """What the numbers were measured on, for the table's head."""
    return {
        "machine": f"{zfcuda.cli.info.collect().simd_level}, {torch.get_num_threads()} threads, "
        f"float32, torch {torch.__version__}, Python {platform.python_version()}"
    }


def append(path: Path, line: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def added_memory(run: Callable[[], Any]) -> int:
    """Bytes by which ``run`` raises the process's peak of resident memory above what it held
    before."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _resident("VmRSS")
    run()
    return _resident("VmHWM") - before


def _resident(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")
