"""csrc/'s files, found by pattern, and the exact commands that compile and link them.

torch's own BuildExtension refuses nvcc under a CPU-only torch, where we still compile, link and
load the kernels; and its headers come by -isystem here, so that warnings are about our own code.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sysconfig
import tomllib
from collections.abc import Iterable
from pathlib import Path

import torch_finder
from cuda_gate import Gate
from steps import Step

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
_SAID = tomllib.loads((ROOT / "build_backend" / "flags.toml").read_text())
FLAGS: dict[str, list[str]] = _SAID["flags"]
OLDEST_GCC = 12  # x86-64-v3/v4 dispatch and __builtin_shufflevector


def sources(kind: str) -> list[Path]:
    """The files of ``ops``, ``kernels``, ``module`` or ``host_copies``, in a fixed order."""
    patterns = _SAID["sources"][kind]
    return [file for pattern in patterns for file in sorted(CSRC.glob(pattern))]


def digest() -> str:
    """Of all that the libraries are compiled from: with another one they are others."""
    found = hashlib.sha256()
    files = [file for file in CSRC.rglob("*") if file.is_file()]
    for file in sorted([*files, ROOT / "build_backend" / "flags.toml"]):
        found.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return found.hexdigest()[:16]


class Toolchain:
    """The commands, for the torch that runs and one verdict about CUDA.

    Attributes:
        folder: where objects go, and where zfcuda_build_facts.h lies.
        cxx_flags, nvcc_flags, link_flags: all but the files and the folders of others' headers.
        system_includes: those folders.
    """

    def __init__(self, gate: Gate, folder: Path) -> None:
        from torch.utils import cpp_extension

        self.gate = gate
        self.folder = folder
        self.cxx = compiler()
        self.system_includes = [*cpp_extension.include_paths(), sysconfig.get_path("include")]
        # All that is used of torch is there since the oldest version: newer ones have it for good.
        major, minor = map(int, torch_finder.LOWEST.split("."))
        common = [
            *FLAGS["language"],
            f"-DTORCH_TARGET_VERSION=0x{major:02x}{minor:02x}000000000000ULL",
            f"-I{CSRC}",
            f"-I{folder}",
        ]
        strict = os.environ.get("ZFCUDA_WERROR") == "1"
        sanitized = FLAGS["sanitized"] if is_sanitized() else []
        self.cxx_flags = [
            *FLAGS["gcc"],
            *FLAGS["cxx"],
            *(FLAGS["strict"] if strict else []),
            *common,
            *sanitized,
            *shlex.split(os.environ.get("CXXFLAGS", "")),
        ]
        self.nvcc_flags = [
            *("-ccbin", self.cxx[0]),
            *FLAGS["nvcc"],
            *("-Xcompiler", ",".join(FLAGS["gcc"])),
            *(FLAGS["nvcc_strict"] if strict else []),
            *gate.nvcc_arch_flags,
            *common,
        ]
        self.link_flags = [
            *(f"-L{path}" for path in cpp_extension.library_paths()),
            *FLAGS["link"],
            *sanitized,
            *shlex.split(os.environ.get("LDFLAGS", "")),
        ]

    @property
    def cudart(self) -> list[str]:
        """What links the CUDA runtime: torch's own, shared, where torch has one."""
        nvcc, static = self.gate.nvcc, self.gate.static_runtime
        if nvcc is None:
            return []
        names = ("libcudart_static.a",) if static else ("libcudart.so", "libcudart.so.[0-9]*")
        folders = (nvcc.home / "lib64", nvcc.home / "lib")
        files = [file for folder in folders for name in names for file in folder.glob(name)]
        found = str(files[0]) if files else "-lcudart_static" if static else "-lcudart"
        return [found, *(FLAGS["static_cudart"] if static else [])]

    def compile(self, source: Path, *extra: str, prefix: str = "") -> Step:
        """``source`` compiled by nvcc if it is a kernel, else, or with ``extra`` flags, by g++."""
        output = self.folder / prefix / source.relative_to(CSRC)
        output = output.with_name(f"{output.name}.o")
        if source.suffix == ".cu" and not extra:
            assert self.gate.nvcc is not None
            command = (str(self.gate.nvcc.path), *self.nvcc_flags)
        else:
            command = (*self.cxx, *self.cxx_flags, *extra)
        system = [flag for path in self.system_includes for flag in ("-isystem", path)]
        files = ("-MD", "-MF", f"{output}.d", "-c", str(source), "-o", str(output))
        return Step(output, (source,), (*command, *system, *files))

    def link(self, objects: Iterable[Path], library: Path, *extra: str) -> Step:
        objects = tuple(objects)
        command = (*self.cxx, *map(str, objects), "-o", str(library), *self.link_flags, *extra)
        return Step(library, objects, command)


def is_sanitized() -> bool:
    """Whether the build is one that looks for memory errors and undefined behaviour."""
    return os.environ.get("ZFCUDA_SANITIZE") == "1"


def compiler() -> list[str]:
    """The C++ compiler's command, CXX or g++, known to be new enough."""
    command = shlex.split(os.environ.get("CXX") or "g++")
    needed = f"zfcuda needs g++ {OLDEST_GCC} or later (set CXX to choose another compiler)"
    if shutil.which(command[0]) is None:
        raise ValueError(f"the C++ compiler {command[0]!r} was not found: {needed}")
    macros = subprocess.run(
        [*command, "-dM", "-E", "-x", "c++", os.devnull], capture_output=True, text=True
    ).stdout
    version = re.search(r"#define __GNUC__ (\d+)", macros)
    if version and "__clang__" not in macros and int(version[1]) < OLDEST_GCC:
        raise ValueError(f"the C++ compiler {command[0]!r} is g++ {version[1]}: {needed}")
    return command
