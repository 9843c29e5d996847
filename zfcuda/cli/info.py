"""What this installation is: versions, devices, the CUDA verdict with its reason, threads, SIMD."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

import zfcuda
from zfcuda import _build_facts as facts
from zfcuda import _minor, load_library
from zfcuda.storage.identity import versions

PACKAGES = ("numpy", "matplotlib", "pillow", "safetensors", "scikit-image", "torchvision")


@dataclass(frozen=True)
class Info:
    """What :func:`collect` found. ``print(info)`` shows it as aligned lines."""

    zfcuda: str  # version
    folder: str  # that it was imported from
    python: str  # version and platform
    torch: str  # version that is running
    built_against: str  # version of torch that the kernels were compiled against
    torch_tested: str  # range of torch that both should be of, as ">=2.11,<2.16"
    packages: dict[str, str | None]  # their versions; None where one is not installed
    cuda: bool  # whether CUDA kernels were compiled in
    cuda_verdict: str  # the build's sentence about CUDA, with its reason
    devices: tuple[str, ...]  # as ("cpu", "cuda:0 (NVIDIA H200)")
    threads: int  # that the CPU kernels use (torch.get_num_threads())
    cores: int  # that this process may use
    simd_level: str  # instruction set that the CPU kernels chose when they were loaded, if known
    # What to know where other work shares the cores: threads that wait do not sleep, unless
    # OMP_WAIT_POLICY or GOMP_SPINCOUNT says so.
    waiting: str = ""

    def __str__(self) -> str:
        packages = (
            f"{name} {number or '(not installed)'}" for name, number in self.packages.items()
        )
        lines = {
            "zfcuda": f"{self.zfcuda} in {self.folder}",
            "python": self.python,
            "torch": f"{self.torch} (kernels built against {self.built_against}{self._untested()})",
            "packages": ", ".join(packages),
            "CUDA": self.cuda_verdict,
            "devices": ", ".join(self.devices),
            "threads": f"{self.threads} on {self.cores} cores{self.waiting}",
            "SIMD": self.simd_level,
        }
        return "\n".join(f"{name:<9} {value}" for name, value in lines.items())

    def _untested(self) -> str:
        oldest, too_new = map(_minor, self.torch_tested.split(","))
        tested = [oldest <= _minor(torch) < too_new for torch in (self.torch, self.built_against)]
        return "" if all(tested) else f"; an untested pair, tested is torch {self.torch_tested}"


def collect() -> Info:
    """Look at the running process; what cannot be had is said, never raised."""
    load_library()
    installed = versions(*PACKAGES)
    indices = range(torch.cuda.device_count())
    gpus = (f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in indices)
    return Info(
        zfcuda=zfcuda.__version__,
        folder=str(Path(zfcuda.__file__).resolve().parent),
        python=f"{platform.python_version()} on {sys.platform} {platform.machine()}",
        torch=torch.__version__,
        built_against=facts.TORCH_VERSION,
        torch_tested=facts.TORCH_TESTED,
        packages={name: installed.get(name) for name in PACKAGES},
        cuda=bool(facts.WITH_CUDA),
        cuda_verdict=facts.CUDA_VERDICT,
        devices=("cpu", *gpus),
        threads=torch.get_num_threads(),
        cores=len(os.sched_getaffinity(0)),
        simd_level=_simd_level(),
        waiting=_waiting(torch.get_num_threads()),
    )


def _simd_level() -> str:
    try:
        from zfcuda._C import simd_level
    except ImportError:  # one for each Python, which the ops do not need
        return f"not known (the build's zfcuda._C is not for Python {platform.python_version()})"
    return simd_level()


def _waiting(threads: int) -> str:
    """libgomp, which torch comes with, reads its environment when it is loaded: too late now."""
    if threads < 2 or "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ:
        return ""
    return " (they spin while they wait: beside other work OMP_WAIT_POLICY=passive is faster)"
