"""Compiles csrc/ into zfcuda._C: g++ for *.cpp, nvcc for *.cu, both through one ninja file.

torch's own BuildExtension refuses nvcc under a CPU-only torch, where we still compile, link and
load the kernels; and its headers come by -isystem here, so that warnings are about our own code.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cuda_gate
import torch_finder
from notice import say
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
OLDEST_GCC = 12  # x86-64-v3/v4 dispatch and __builtin_shufflevector


def sources() -> list[str]:
    """csrc/sources.txt, as paths relative to the repository."""
    lines = (CSRC / "sources.txt").read_text().splitlines()
    names = [line.partition("#")[0].strip() for line in lines]
    return [f"csrc/{name}" for name in names if name]


@dataclass(frozen=True)
class Step:
    """One command of the build, and the files that decide whether it has to run."""

    output: Path
    inputs: tuple[Path, ...]
    command: tuple[str, ...]


class BuildExtension(build_ext):
    """setuptools' build_ext with its compiler exchanged for :func:`compile_and_link`."""

    def build_extension(self, ext: Any) -> None:
        try:
            import torch
        except ImportError as error:
            raise SystemExit(
                f"zfcuda: there is no torch to build against ({error}): install one first, or "
                "leave out --no-build-isolation so that pip fetches one"
            ) from None

        # One folder per torch, kept between builds (an editable build gets a fresh build_temp each
        # time): what has not changed is not compiled again.
        folder = ROOT / "build" / f"{sysconfig.get_config_var('SOABI')}-torch-{torch.__version__}"
        torch_finder.refuse_old(torch.__version__)
        torch_finder.warn_of_new(torch.__version__)
        try:
            gate = decide()
            say(gate.verdict)
            library = compile_and_link([ROOT / source for source in ext.sources], folder, gate)
        except (cuda_gate.CudaUnavailable, ValueError, subprocess.CalledProcessError) as error:
            raise SystemExit(f"zfcuda: {_reason(error)}") from None
        self._facts = facts_module(gate)
        target = Path(self.get_ext_fullpath(ext.name))
        write(target.with_name("_build_facts.py"), self._facts)
        self.copy_file(str(library), str(target))

    def copy_extensions_to_source(self) -> None:
        super().copy_extensions_to_source()
        write(ROOT / "zfcuda" / "_build_facts.py", self._facts)


def decide() -> cuda_gate.Gate:
    """:func:`cuda_gate.decide` for the torch and the machine at hand."""
    import torch

    visible = []
    if torch.version.cuda and torch.cuda.is_available():
        devices = range(torch.cuda.device_count())
        visible = ["{}.{}".format(*torch.cuda.get_device_capability(i)) for i in devices]
    return cuda_gate.decide(torch.__version__, torch.version.cuda, cuda_gate.find_nvcc(), visible)


def facts(gate: cuda_gate.Gate) -> dict[str, str | int]:
    """What the binary and the Python side both know about this build."""
    import torch

    return {
        "TORCH_VERSION": torch.__version__,
        "WITH_CUDA": int(gate.with_cuda),
        "CUDA_VERSION": gate.nvcc.version if gate.nvcc else "",
        "CUDA_ARCHS": " ".join(gate.archs),
        "CUDA_VERDICT": gate.verdict,
    }


def facts_header(gate: cuda_gate.Gate) -> str:
    lines = [f"#define ZFCUDA_{name} {json.dumps(value)}" for name, value in facts(gate).items()]
    return "\n".join(["// Written by the build.", "#pragma once", *lines, ""])


def facts_module(gate: cuda_gate.Gate) -> str:
    lines = [f"{name} = {value!r}" for name, value in facts(gate).items()]
    return "\n".join(['"""Written by the build."""', "", *lines, ""])


def compile_and_link(files: list[Path], folder: Path, gate: cuda_gate.Gate) -> Path:
    """Build the library in ``folder`` and return its path."""
    write(folder / "zfcuda_build_facts.h", facts_header(gate))
    tools = Toolchain(gate, folder)
    compiled = []
    for file in sorted(files, key=lambda file: file.suffix != ".cu"):  # the slowest first
        if file.suffix != ".cu":
            compiled.append(tools.cxx_step(file))
        elif gate.with_cuda:
            compiled.append(tools.nvcc_step(file))
    library = folder / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    run(compiled, tools.link_step([step.output for step in compiled], library), folder)
    return library


class Toolchain:
    """The exact commands, for one torch and one verdict about CUDA."""

    def __init__(self, gate: cuda_gate.Gate, folder: Path) -> None:
        import torch
        from torch.utils import cpp_extension

        self.gate = gate
        self.folder = folder
        self.cxx = compiler()
        system = [*cpp_extension.include_paths(), sysconfig.get_path("include")]
        if gate.nvcc:
            system.append(str(gate.nvcc.home / "include"))
        self.torch_libraries = cpp_extension.library_paths()
        self.includes = [f"-I{CSRC}", f"-I{folder}"]
        self.system_includes = [flag for path in system for flag in ("-isystem", path)]
        # unknown-pragmas: kernel bodies say `#pragma unroll`, and g++ compiles them as well.
        self.warnings = ["-Wall", "-Wextra", "-Wno-unknown-pragmas"]
        self.strict = os.environ.get("ZFCUDA_WERROR") == "1"
        self.defines = [
            "-DNDEBUG",
            "-DTORCH_EXTENSION_NAME=_C",
            f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
        ]

    def cxx_step(self, source: Path) -> Step:
        output = self._object(source)
        return Step(
            output,
            (source,),
            (
                *self.cxx,
                *("-O3", "-std=c++20", "-fPIC", "-fvisibility=hidden"),
                # -fopenmp: without it at::parallel_for is silently single-threaded.
                # -ffp-contract=off: a*b+c rounds twice, as in the reference, on every machine.
                *("-fopenmp", "-ffp-contract=off"),
                # Neither changes a result; with them sqrt and comparisons vectorise.
                *("-fno-math-errno", "-fno-trapping-math"),
                *self.warnings,
                *(["-Werror"] if self.strict else []),
                *self.defines,
                *self.includes,
                *self.system_includes,
                *shlex.split(os.environ.get("CXXFLAGS", "")),
                *("-MD", "-MF", f"{output}.d", "-c", str(source), "-o", str(output)),
            ),
        )

    def nvcc_step(self, source: Path) -> Step:
        assert self.gate.nvcc is not None
        output = self._object(source)
        return Step(
            output,
            (source,),
            (
                str(self.gate.nvcc.path),
                *("-ccbin", self.cxx[0]),
                *("-O3", "-std=c++20", "--expt-relaxed-constexpr"),
                # Without these `half > half` is ambiguous beside c10's own operators.
                "-D__CUDA_NO_HALF_OPERATORS__",
                "-D__CUDA_NO_HALF_CONVERSIONS__",
                "-D__CUDA_NO_HALF2_OPERATORS__",
                "-D__CUDA_NO_BFLOAT16_CONVERSIONS__",
                *("-Xcompiler", ",".join(["-fPIC", "-fvisibility=hidden", *self.warnings])),
                *(["-Werror=all-warnings"] if self.strict else []),
                *self.gate.nvcc_arch_flags,
                *self.defines,
                *self.includes,
                *self.system_includes,
                *("-MD", "-MF", f"{output}.d", "-c", str(source), "-o", str(output)),
            ),
        )

    def link_step(self, objects: Iterable[Path], library: Path) -> Step:
        objects = tuple(objects)
        return Step(
            library,
            objects,
            (
                *self.cxx,
                *("-shared", "-fopenmp", *map(str, objects), "-o", str(library)),
                *(f"-L{path}" for path in self.torch_libraries),
                *("-ltorch_python", "-ltorch", "-ltorch_cpu", "-lc10"),
                *self._cuda_runtime(),
                *shlex.split(os.environ.get("LDFLAGS", "")),
            ),
        )

    def _cuda_runtime(self) -> list[str]:
        if self.gate.nvcc is None:
            return []
        paths = [f"-L{self.gate.nvcc.home / name}" for name in ("lib64", "lib")]
        if self.gate.static_runtime:
            static = ["-lcudart_static", "-Wl,--exclude-libs,libcudart_static.a"]
            return [*paths, *static, "-ldl", "-lrt", "-lpthread"]
        return [*paths, "-lcudart"]  # shared: one runtime state in the process, torch's

    def _object(self, source: Path) -> Path:
        output = self.folder / source.relative_to(CSRC)
        return output.with_name(f"{output.name}.o")


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


def run(compiles: list[Step], link: Step, folder: Path) -> None:
    """Run what is out of date: with ninja only that, without it everything."""
    jobs = job_count()
    for step in compiles:
        step.output.parent.mkdir(parents=True, exist_ok=True)
    if ninja := shutil.which("ninja"):
        write(folder / "build.ninja", ninja_file([*compiles, link]))
        _call([ninja, "-C", str(folder), "-j", str(jobs)])
        return
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda step: _call(step.command), compiles))
    _call(link.command)


def job_count() -> int:
    """MAX_JOBS, else one job for each core, as far as memory allows (2 GiB a job)."""
    wished = os.environ.get("MAX_JOBS", "").strip()
    if wished:
        if not wished.isdigit() or int(wished) < 1:
            raise ValueError(f"MAX_JOBS must be a positive whole number, got {wished!r}")
        return int(wished)
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(cores, memory // 2**31))


def ninja_file(steps: list[Step]) -> str:
    """The steps as a ninja file; gcc's depfiles tell it about headers."""

    def escape(path: Path) -> str:
        return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")

    lines = [
        "rule compile",
        "  command = $line",
        "  description = $name",
        "  deps = gcc",
        "  depfile = $out.d",
        "rule link",
        "  command = $line",
        "  description = $name",
    ]
    for step in steps:
        rule = "compile" if step.output.suffix == ".o" else "link"
        inputs = " ".join(map(escape, step.inputs))
        command = shlex.join(step.command).replace("$", "$$")
        lines += [f"build {escape(step.output)}: {rule} {inputs}", f"  line = {command}"]
        lines += [f"  name = {step.output.name}"]
    return "\n".join([*lines, ""])


def _call(command: Iterable[str]) -> None:
    subprocess.run(list(command), check=True)


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return "compiling failed: the compiler's own message is above"
    return str(error)


def write(path: Path, text: str) -> None:
    """Write only what is new, so that the file's time does not make ninja rebuild."""
    if not path.is_file() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
