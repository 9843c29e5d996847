"""Whether this build gets CUDA kernels, for which chips, and the one sentence that says why.

The gate is torch's own CUDA version and an nvcc of the same major version. It is not
``torch.cuda.is_available()``, which is false in a container build.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Ampere and Ada (8.6 and 8.9 run 8.0's code as it is: kernels of their own would only cost a third
# more compile time), Hopper and, where nvcc knows them, Blackwell; PTX serves whatever comes later.
DEFAULT_ARCHS = ("8.0", "9.0+PTX", "10.0", "12.0")


class CudaUnavailable(Exception):
    """CUDA was demanded (ZFCUDA_CUDA=1) and cannot be had."""


@dataclass(frozen=True)
class Nvcc:
    home: Path
    version: str  # "13.0"
    archs: frozenset[str]  # {"8.0", ...}: what it can compile for

    @property
    def path(self) -> Path:
        return self.home / "bin" / "nvcc"


@dataclass(frozen=True)
class Gate:
    verdict: str
    nvcc: Nvcc | None = None  # None: a CPU-only build
    archs: tuple[str, ...] = ()
    static_runtime: bool = False

    @property
    def with_cuda(self) -> bool:
        return self.nvcc is not None

    @property
    def nvcc_arch_flags(self) -> list[str]:
        flags = []
        for arch in self.archs:
            number = arch.removesuffix("+PTX").replace(".", "")
            flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
            if arch.endswith("+PTX"):
                flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
        return flags


def find_nvcc(environ: Mapping[str, str] = os.environ) -> Nvcc | None:
    """nvcc of CUDA_HOME (or CUDA_PATH), else of PATH, else of /usr/local/cuda."""
    named = environ.get("CUDA_HOME") or environ.get("CUDA_PATH")
    on_path = shutil.which("nvcc", path=environ.get("PATH"))
    candidates = [
        Path(named) / "bin" / "nvcc" if named else None,
        Path(on_path) if on_path else None,
        Path("/usr/local/cuda/bin/nvcc"),
    ]
    nvcc = next((path for path in candidates if path is not None and path.is_file()), None)
    if nvcc is None:
        return None

    def ask(*options: str) -> str:
        done = subprocess.run([nvcc, *options], capture_output=True, text=True)
        return done.stdout + done.stderr

    # --dryrun names the toolkit's own folder, which a wrapper script on PATH hides.
    home = re.search(r"_HERE_=(.+)/bin", ask("--dryrun", "-x", "cu", os.devnull))
    release = re.search(r"release (\d+\.\d+)", ask("--version"))
    archs = re.findall(r"compute_(\d+)(\d)\b", ask("--list-gpu-arch"))
    if home is None or release is None or not archs:
        return None  # something called nvcc that does not run
    return Nvcc(Path(home[1]), release[1], frozenset(f"{a}.{b}" for a, b in archs))


def decide(
    torch_version: str,
    torch_cuda: str | None,
    nvcc: Nvcc | None,
    visible: Sequence[str] = (),
    environ: Mapping[str, str] = os.environ,
) -> Gate:
    """The decision, from facts alone.

    Args:
        torch_version: as in ``torch.__version__``.
        torch_cuda: as in ``torch.version.cuda``; None for a CPU build of torch.
        nvcc: what :func:`find_nvcc` found.
        visible: compute capabilities of the GPUs that can be seen, such as ``["9.0"]``.
        environ: ZFCUDA_CUDA (``auto``, ``0`` or ``1``) and TORCH_CUDA_ARCH_LIST are read from it.

    Raises:
        CudaUnavailable: ZFCUDA_CUDA=1 and there is no nvcc that fits.
        ValueError: a setting that cannot be understood.
    """
    wish = environ.get("ZFCUDA_CUDA", "auto").strip().lower() or "auto"
    if wish not in ("auto", "0", "1"):
        raise ValueError(f"ZFCUDA_CUDA must be auto, 0 or 1, got {wish!r}")
    obstacle = _obstacle(torch_version, torch_cuda, nvcc, wish)
    if obstacle and wish == "1":
        raise CudaUnavailable(f"ZFCUDA_CUDA=1 demands CUDA kernels, but {obstacle}")
    if obstacle or nvcc is None:
        return Gate(f"zfcuda was built for the CPU only, because {obstacle}")
    archs = _archs(nvcc, visible, environ.get("TORCH_CUDA_ARCH_LIST", ""))
    verdict = f"zfcuda was built with CUDA {nvcc.version} kernels for {' '.join(archs)}"
    if torch_cuda is None:
        verdict += f"; torch {torch_version} has no CUDA, so they load but cannot run"
    return Gate(verdict, nvcc, archs, static_runtime=torch_cuda is None)


def _obstacle(
    torch_version: str, torch_cuda: str | None, nvcc: Nvcc | None, wish: str
) -> str | None:
    if wish == "0":
        return "ZFCUDA_CUDA=0 was set"
    if torch_cuda is None and wish == "auto":
        return f"torch {torch_version} has no CUDA"
    if nvcc is None:
        return "no working nvcc was found (CUDA_HOME, PATH and /usr/local/cuda were searched)"
    # With a torch without CUDA any nvcc will do: the kernels are only compiled, linked and loaded.
    if torch_cuda is not None and nvcc.version.split(".")[0] != torch_cuda.split(".")[0]:
        return (
            f"nvcc is CUDA {nvcc.version} and torch {torch_version} uses CUDA {torch_cuda} "
            "(the major versions must be the same)"
        )
    return None


def _archs(nvcc: Nvcc, visible: Sequence[str], wished: str) -> tuple[str, ...]:
    if archs := tuple(wished.replace(";", " ").replace(",", " ").split()):
        for arch in archs:
            if arch.removesuffix("+PTX") not in nvcc.archs:
                raise ValueError(
                    f"TORCH_CUDA_ARCH_LIST names {arch!r}, but nvcc {nvcc.version} compiles for "
                    + " ".join(sorted(nvcc.archs, key=float))
                )
        return archs
    if visible and nvcc.archs.issuperset(visible):
        return tuple(sorted(set(visible), key=float))
    return tuple(arch for arch in DEFAULT_ARCHS if arch.removesuffix("+PTX") in nvcc.archs)
