"""Compile ``torch.ops.zfcuda_host`` so that its ops launch nvcc's kernels, translated to C++.

    python tests/emulation/emulated.py    prints the library, kept under build/

What has not changed is not made again. Needs nvcc, g++ and a CPU torch; no GPU.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "build_backend"))
import cuda_gate
import extension
import ptx_to_cpp
import steps
import toolchain
from steps import Step
from toolchain import CSRC, FLAGS, ROOT, Toolchain

HERE = Path(__file__).resolve().parent
PTX = "-gencode=arch=compute_80,code=compute_80"


@dataclass(frozen=True)
class Edit:
    """Another text in a file of csrc/cuda or csrc/core, as nvcc reads it.

    Attributes:
        file: its path below csrc.
        before, after: what occurs once in it, and what stands there instead.
    """

    file: str
    before: str
    after: str

    def of(self, text: str) -> str:
        """Raises a ValueError where ``before`` does not occur once."""
        if text.count(self.before) != 1:
            raise ValueError(f"csrc/{self.file} does not have this once: {self.before}")
        return text.replace(self.before, self.after)


@dataclass(frozen=True)
class Plan:
    """A library: the files of csrc that it is made of, their edits, and where it goes."""

    files: tuple[Path, ...]
    edits: tuple[Edit, ...]
    folder: Path

    @property
    def kernels(self) -> list[Path]:
        return [file for file in self.files if file.suffix == ".cu"]

    @property
    def library(self) -> Path:
        return self.folder / "emulated.so"


def build() -> Path:
    """The library of all ops, for the variable ZFCUDA_HOST_COPIES.

    Raises:
        ValueError: there is no nvcc.
    """
    folder = extension.build_folder("emulation")
    return made(Plan(tuple(toolchain.sources("host_copies")), (), folder / "all"))


def build_edited(name: str, op: str, edits: Sequence[Edit]) -> Path:
    """A library of one op, its kernels' sources edited.

    Raises:
        ValueError: there is no nvcc, or not the text that is edited.
    """
    folder = extension.build_folder("emulation")
    files = tuple(file for file in toolchain.sources("host_copies") if file.stem == op)
    return made(Plan(files, tuple(edits), folder / name))


def guard() -> Path:
    """guard.cpp's library, which comes with every other."""
    return extension.build_folder("emulation") / "guard.so"


def made(plan: Plan) -> Path:
    """The plan's library: an earlier call's where everything is the same."""
    nvcc = cuda_gate.find_nvcc()
    if nvcc is None:
        raise ValueError("the emulation needs nvcc (CUDA_HOME, PATH and /usr/local/cuda)")
    shared, record = extension.build_folder("emulation"), plan.folder / "made_of"
    plan.folder.mkdir(exist_ok=True)
    with open(shared / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        now = fingerprint(plan, nvcc)
        if not (plan.library.exists() and record.exists() and record.read_text() == now):
            record.unlink(missing_ok=True)
            gate = cuda_gate.Gate("these are the kernels for GPUs, emulated", nvcc)
            compile_and_link(plan, Toolchain(gate, shared))
            record.write_text(now)
    return plan.library


def fingerprint(plan: Plan, nvcc: cuda_gate.Nvcc) -> str:
    """Of all that a library is made of: sources, edits, flags, compilers, torch."""
    digest = hashlib.sha256()
    own = [*HERE.glob("*.h"), *HERE.glob("*.cpp"), *HERE.glob("ptx*.py"), Path(__file__)]
    tools = [file for file in (ROOT / "build_backend").iterdir() if file.suffix in (".py", ".toml")]
    for file in (*sorted(p for p in CSRC.rglob("*") if p.is_file()), *sorted(own), *sorted(tools)):
        digest.update(f"{file.name}\0".encode() + file.read_bytes())
    compilers = [
        subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout
        for command in (toolchain.compiler(), [nvcc.path])
    ]
    flags = [os.environ.get(name) for name in ("CXXFLAGS", "LDFLAGS", "ZFCUDA_WERROR")]
    digest.update(repr((plan, torch.__version__, compilers, flags)).encode())
    return digest.hexdigest()


def compile_and_link(plan: Plan, tools: Toolchain) -> None:
    """Make the plan's library, and guard.so; ninja skips what is newer than what it is made of."""
    steps.write(tools.folder / "zfcuda_build_facts.h", extension.facts_header(tools.gate))
    write_edited(plan)
    stubs = [stub(tools, plan, kernel) for kernel in plan.kernels]
    ops = [
        tools.compile(file, "-O1", "-DZFCUDA_HOST_COPIES")
        for file in plan.files
        if file.suffix == ".cpp"
    ]
    # The guard needs torch's own allocator, which is not of the stable ABI.
    runtime, guards = (
        plain(tools, HERE / f"{name}.cpp", tools.folder, "-O2", "-UTORCH_TARGET_VERSION")
        for name in ("runtime", "guard")
    )
    guard_link = tools.link([guards.output], guard(), "-lc10")
    steps.run([*stubs, *ops, runtime, guards], [guard_link], tools.folder)
    kernels = [translated(tools, plan, kernel) for kernel in plan.kernels]
    objects = [step.output for step in (*stubs, *kernels, *ops, runtime)]
    steps.run(kernels, [tools.link(objects, plan.library)], tools.folder)


def write_edited(plan: Plan) -> None:
    """The files that are edited, to be found before csrc's."""
    for file in {edit.file for edit in plan.edits}:
        text = (CSRC / file).read_text()
        for edit in plan.edits:
            text = edit.of(text) if edit.file == file else text
        steps.write(plan.folder / "edited" / file, text)


def stub(tools: Toolchain, plan: Plan, kernel: Path) -> Step:
    """nvcc's code for the host, which launches; its PTX is kept beside it."""
    edited = plan.folder / "edited" / kernel.relative_to(CSRC)
    source = edited if edited.exists() else kernel
    folder = plan.folder / "stubs"
    output = folder / f"{kernel.stem}.o"
    command = (
        *(str(tools.gate.nvcc.path), f"-I{plan.folder / 'edited'}", *tools.nvcc_flags, PTX),
        *("-Xcompiler", "-O1", "--keep", "--keep-dir", str(folder)),
        *(*system(tools), *files(source, output)),
    )
    return Step(output, (source,), command)


def translated(tools: Toolchain, plan: Plan, kernel: Path) -> Step:
    """The PTX of a kernel's file as C++, compiled."""
    folder = plan.folder / "translated"
    source = folder / f"{kernel.stem}.cpp"
    written = (plan.folder / "stubs" / f"{kernel.stem}.ptx").read_text()
    steps.write(source, ptx_to_cpp.translate(written))
    return plain(tools, source, folder, "-O1", "-w", f"-I{HERE}")


def plain(tools: Toolchain, source: Path, folder: Path, *extra: str) -> Step:
    """A file of this folder, or a translated one, compiled."""
    output = folder / f"{source.stem}.o"
    flags = [flag for flag in tools.cxx_flags if flag not in FLAGS["cxx"][:1]]
    command = (*tools.cxx, *flags, *extra, *system(tools), *files(source, output))
    return Step(output, (source,), command)


def system(tools: Toolchain) -> list[str]:
    return [flag for path in tools.system_includes for flag in ("-isystem", path)]


def files(source: Path, output: Path) -> tuple[str, ...]:
    return ("-MD", "-MF", f"{output}.d", "-c", str(source), "-o", str(output))


if __name__ == "__main__":
    print(build())
