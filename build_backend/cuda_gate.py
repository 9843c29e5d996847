"""Whether this build gets CUDA kernels, for which chips, and the one sentence that says why.

The gate is torch's own CUDA version and an nvcc of the same major version. It is not
``torch.cuda.is_available()``, which is false in a container build.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Ampere and Ada (8.6 and 8.9 run 8.0's code as it is: kernels of their own would only cost a third
# more compile time), Hopper and, where nvcc knows them, Blackwell; PTX serves whatever comes later.
DEFAULT_ARCHS = ("8.0", "9.0", "10.0", "12.0")
TURING, AMPERE, BLACKWELL = 75, 80, 100  # from each on nvcc optimises differently
TOOLKIT = Path("/usr/local/cuda")
DRIVER = Path("/proc/driver/nvidia/version")
# The compiler as Python packages: from CUDA 13 on they are all that compiling takes. Of one version
# of CUDA they have several of their own, which this one knows: nvidia-cuda-nvcc, -crt, -runtime and
# -cccl, nvidia-nvvm.
FIRST_AS_PACKAGES = 13
PACKAGES = "cuda-toolkit[nvcc,cccl]"


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

    def fits(self, torch_cuda: str | None) -> bool:
        """Whether its kernels run beside torch's CUDA: with a torch without CUDA they are only
        compiled, linked and loaded, and any will do."""
        return torch_cuda is None or _major(self.version) == _major(torch_cuda)


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
        """Chips that nvcc optimises alike get their code from one PTX, that of the oldest of them:
        the kernels use nothing that the later ones add, and making PTX is half the work."""
        numbers = [int(arch.removesuffix("+PTX").replace(".", "")) for arch in self.archs]
        flags = []
        for arch, number in zip(self.archs, numbers, strict=True):
            source = min(each for each in numbers if _optimised(each) == _optimised(number))
            flags.append(f"-gencode=arch=compute_{source},code=sm_{number}")
            if arch.endswith("+PTX"):
                flags.append(f"-gencode=arch=compute_{source},code=compute_{source}")
        return list(dict.fromkeys(flags))


def _optimised(number: int) -> int:
    return max((each for each in (TURING, AMPERE, BLACKWELL) if each <= number), default=number)


# --- what is there --------------------------------------------------------------------------------


def find_nvcc(
    torch_cuda: str | None = None,
    environ: Mapping[str, str] = os.environ,
    path: Sequence[str] | None = None,
) -> Nvcc | None:
    """CUDA_HOME's (or CUDA_PATH's) nvcc; without one the first that fits ``torch_cuda`` of PATH's,
    /usr/local/cuda's and the Python packages' on ``path`` (``sys.path``), else the first."""
    named = environ.get("CUDA_HOME") or environ.get("CUDA_PATH")
    if named and (nvcc := _ask(Path(named) / "bin" / "nvcc")):
        return nvcc
    on_path = shutil.which("nvcc", path=environ.get("PATH"))
    entries = sys.path if path is None else path
    candidates = [
        *([Path(on_path)] if on_path else []),
        TOOLKIT / "bin" / "nvcc",
        *(file for entry in entries for file in sorted(Path(entry).glob("nvidia/cu*/bin/nvcc"))),
    ]
    found = [nvcc for candidate in candidates if (nvcc := _ask(candidate))]
    return next((nvcc for nvcc in found if nvcc.fits(torch_cuda)), next(iter(found), None))


def _ask(nvcc: Path) -> Nvcc | None:
    if not nvcc.is_file():
        return None

    def answer(*options: str) -> str:
        done = subprocess.run([nvcc, *options], capture_output=True, text=True)
        return done.stdout + done.stderr

    # --dryrun names the toolkit's own folder, which a wrapper script on PATH hides.
    home = re.search(r"_HERE_=(.+)/bin", answer("--dryrun", "-x", "cu", os.devnull))
    release = re.search(r"release (\d+\.\d+)", answer("--version"))
    archs = re.findall(r"compute_(\d+)(\d)\b", answer("--list-gpu-arch"))
    if home is None or release is None or not archs:
        return None  # something called nvcc that does not run
    return Nvcc(Path(home[1]), release[1], frozenset(f"{a}.{b}" for a, b in archs))


def has_driver() -> bool:
    """Whether an NVIDIA driver is visible here."""
    if DRIVER.exists():
        return True
    try:
        ctypes.CDLL("libcuda.so.1")  # as under WSL
    except OSError:
        return False
    return True


# --- what follows ---------------------------------------------------------------------------------


def compiler_requirements(
    torch_cuda: str | None,
    nvcc: Nvcc | None,
    driver: bool,
    environ: Mapping[str, str] = os.environ,
) -> list[str]:
    """The packages of a compiler of torch's CUDA version, where kernels are wanted and no
    nvcc that fits is there; arguments as :func:`decide`'s."""
    wish = _wish(environ)
    wanted = driver or wish == "1" or environ.get("TORCH_CUDA_ARCH_LIST", "").strip()
    if wish == "0" or not wanted or torch_cuda is None or _major(torch_cuda) < FIRST_AS_PACKAGES:
        return []
    if nvcc is not None and nvcc.fits(torch_cuda):
        return []
    return [f"{PACKAGES}=={_minor(torch_cuda)}.*"]


def decide(
    torch_version: str,
    torch_cuda: str | None,
    nvcc: Nvcc | None,
    visible: Sequence[str] = (),
    environ: Mapping[str, str] = os.environ,
    driver: bool = True,
) -> Gate:
    """The decision, from facts alone.

    Args:
        torch_version: as in ``torch.__version__``.
        torch_cuda: as in ``torch.version.cuda``; None for a CPU build of torch.
        nvcc: what :func:`find_nvcc` found.
        visible: compute capabilities of the GPUs that can be seen, such as ``["9.0"]``.
        environ: ZFCUDA_CUDA (``auto``, ``0`` or ``1``) and TORCH_CUDA_ARCH_LIST are read from it.
        driver: whether an NVIDIA driver is visible.

    Raises:
        CudaUnavailable: ZFCUDA_CUDA=1 and there is no nvcc that fits.
        ValueError: a setting that cannot be understood.
    """
    wish = _wish(environ)
    obstacle = _obstacle(torch_version, torch_cuda, nvcc, wish, driver)
    if obstacle and wish == "1":
        raise CudaUnavailable(f"ZFCUDA_CUDA=1 demands CUDA kernels, but {obstacle}")
    if obstacle or nvcc is None:
        return Gate(f"zfcuda was built for the CPU only, because {obstacle}")
    archs = _archs(nvcc, visible, environ.get("TORCH_CUDA_ARCH_LIST", ""))
    verdict = f"zfcuda was built with CUDA {nvcc.version} kernels for {' '.join(archs)}"
    if torch_cuda is None:
        verdict += f"; torch {torch_version} has no CUDA, so they load but cannot run"
    return Gate(verdict, nvcc, archs, static_runtime=torch_cuda is None)


def _wish(environ: Mapping[str, str]) -> str:
    wish = environ.get("ZFCUDA_CUDA", "auto").strip().lower() or "auto"
    if wish not in ("auto", "0", "1"):
        raise ValueError(f"ZFCUDA_CUDA must be auto, 0 or 1, got {wish!r}")
    return wish


def _obstacle(
    torch_version: str, torch_cuda: str | None, nvcc: Nvcc | None, wish: str, driver: bool
) -> str | None:
    if wish == "0":
        return "ZFCUDA_CUDA=0 was set"
    if torch_cuda is None and wish == "auto":
        return f"torch {torch_version} has no CUDA"
    if nvcc is None:
        return _no_nvcc(torch_version, torch_cuda, driver or wish == "1")
    if not nvcc.fits(torch_cuda):
        return (
            f"nvcc is CUDA {nvcc.version} and torch {torch_version} uses CUDA {torch_cuda} "
            "(the major versions must be the same)"
        )
    return None


def _no_nvcc(torch_version: str, torch_cuda: str | None, driver: bool) -> str:
    if not driver:
        return (
            "there is no NVIDIA driver and no nvcc here (for a machine with a GPU build with "
            "ZFCUDA_CUDA=1)"
        )
    none = "no working nvcc was found (CUDA_HOME, PATH, /usr/local/cuda and Python packages)"
    if torch_cuda is None:
        return none
    if _major(torch_cuda) < FIRST_AS_PACKAGES:
        return f"{none}: torch {torch_version} needs the toolkit of CUDA {torch_cuda} installed"
    command = f"pip install '{PACKAGES}=={_minor(torch_cuda)}.*'"
    return (
        f"{none}: an isolated build fetches one where torch is installed before, else install one "
        f"with `{command}`"
    )


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
    *known, last = (arch for arch in DEFAULT_ARCHS if arch in nvcc.archs)
    return (*known, f"{last}+PTX")


def _major(version: str) -> int:
    return int(version.split(".")[0])


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
