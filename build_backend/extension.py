"""setuptools' build_ext, exchanged for ninja. It makes zfcuda/_ops.so, the ops, which knows of no
Python, and zfcuda/_C, what Python asks about them."""

from __future__ import annotations

import atexit
import contextlib
import json
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cuda_gate
import torch_finder
from notice import say
from setuptools import Extension
from setuptools.command.build_ext import build_ext
from steps import Step, is_writable, job_count, outdated, run, write
from toolchain import FLAGS, ROOT, Toolchain, digest, is_sanitized, sources

OPS, MODULE = "zfcuda._ops", "zfcuda._C"
# What a file takes of one core, about: only for the sentence before compiling.
SECONDS = {".cpp": 5, ".cu": 7}  # .cu: for one architecture


def extensions() -> list[Extension]:
    """What setuptools is told of the two libraries."""
    parts = {OPS: ("ops", "kernels"), MODULE: ("module",)}
    return [
        Extension(name, [str(f.relative_to(ROOT)) for kind in kinds for f in sources(kind)])
        for name, kinds in parts.items()
    ]


class BuildExtension(build_ext):
    """setuptools' build_ext with its compiler exchanged for :func:`build`."""

    def build_extensions(self) -> None:
        try:
            import torch
        except ImportError as error:
            raise SystemExit(
                f"zfcuda: there is no torch to build against ({error}): install one first, or "
                "leave out --no-build-isolation so that pip fetches one"
            ) from None
        torch_finder.refuse_old(torch.__version__)
        torch_finder.warn_of_new(torch.__version__)
        folder = build_folder(sysconfig.get_config_var("SOABI"))
        try:
            gate = decide()
            say(gate.verdict)
            libraries = build(folder, gate)
        except (cuda_gate.CudaUnavailable, ValueError, subprocess.CalledProcessError) as error:
            raise SystemExit(f"zfcuda: {_reason(error)}") from None
        self._facts = facts_module(gate)
        for name, library in libraries.items():
            target = Path(self.get_ext_fullpath(name))
            write(target.with_name("_build_facts.py"), self._facts)
            self.copy_file(str(library), str(target))

    def get_ext_filename(self, fullname: str) -> str:
        name = super().get_ext_filename(fullname)
        if not fullname.endswith(OPS.rpartition(".")[2]):
            return name
        return f"{name.partition('.')[0]}.so"  # it serves any Python: its name names none

    def copy_extensions_to_source(self) -> None:
        super().copy_extensions_to_source()
        write(ROOT / "zfcuda" / "_build_facts.py", self._facts)


def build_folder(name: str) -> Path:
    """A folder for what is compiled against this torch, kept between builds (an editable build gets
    a fresh build_temp each time); where build/ cannot be written a passing one, which is said."""
    import torch

    sanitized = "-sanitized" if is_sanitized() else ""
    folder = ROOT / "build" / f"{name}-torch-{torch.__version__}{sanitized}"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if is_writable(folder):
        return folder
    passing = tempfile.mkdtemp(prefix="zfcuda-")
    atexit.register(shutil.rmtree, passing, ignore_errors=True)
    say(f"zfcuda: {folder} cannot be written, so what is compiled is not kept for the next build")
    return Path(passing)


def decide() -> cuda_gate.Gate:
    """:func:`cuda_gate.decide` for the torch and the machine at hand."""
    import torch

    visible = []
    if torch.version.cuda and torch.cuda.is_available():
        devices = range(torch.cuda.device_count())
        visible = ["{}.{}".format(*torch.cuda.get_device_capability(i)) for i in devices]
    nvcc = cuda_gate.find_nvcc(torch.version.cuda)
    driver = cuda_gate.has_driver()
    return cuda_gate.decide(torch.__version__, torch.version.cuda, nvcc, visible, driver=driver)


def build(folder: Path, gate: cuda_gate.Gate) -> dict[str, Path]:
    """Compile and link in ``folder``, saying beforehand what there is to do; each module's file."""
    write(folder / "zfcuda_build_facts.h", facts_header(gate))
    tools = Toolchain(gate, folder)
    kernels = [tools.compile(file) for file in sources("kernels") if gate.with_cuda]
    ops = kernels + [tools.compile(file) for file in sources("ops")]  # the slowest first
    module = [tools.compile(file, *FLAGS["module"]) for file in sources("module")]
    module_name = f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    links = {
        OPS: tools.link(_outputs(ops), folder / "_ops.so", *tools.cudart),
        MODULE: tools.link(_outputs(module), folder / module_name),
    }
    run_said([*ops, *module], list(links.values()), folder, gate)
    return {name: link.output for name, link in links.items()}


def build_host_copies(folder: Path) -> Path:
    """The tests' library, in which ``torch.ops.zfcuda_host`` runs the kernels for GPUs as loops."""
    gate = cuda_gate.Gate("these are the kernels for GPUs, run on the host")
    write(folder / "zfcuda_build_facts.h", facts_header(gate))
    tools = Toolchain(gate, folder)
    steps = [tools.compile(file, *FLAGS["host_copies"]) for file in sources("host_copies")]
    link = tools.link(_outputs(steps), folder / "host_copies.so")
    run_said(steps, [link], folder, gate)
    return link.output


def run_said(
    compiles: Sequence[Step], links: Sequence[Step], folder: Path, gate: cuda_gate.Gate
) -> None:
    """:func:`steps.run`, after a line about how much there is to compile, if there is anything."""
    due = outdated([*compiles, *links], folder)
    if not due:
        return
    files = [step.inputs[0] for step in due if step in compiles]
    jobs, archs = job_count(), max(1, len(gate.archs))
    cost = sum(SECONDS[file.suffix] * (archs if file.suffix == ".cu" else 1) for file in files)
    minutes = round(cost / jobs / 60)
    long = f"about {_count(minutes, 'minute')}" if minutes else "less than a minute"
    say(f"zfcuda: compiling {_count(len(files), 'file')} with {_count(jobs, 'job')}, {long}")
    run(compiles, links, folder)


def facts(gate: cuda_gate.Gate) -> dict[str, str | int]:
    """What the binary and the Python side both know about this build."""
    import torch

    return {
        "TORCH_VERSION": torch.__version__,
        "TORCH_TESTED": torch_finder.SETTINGS["torch"],
        "WITH_CUDA": int(gate.with_cuda),
        "CUDA_VERSION": gate.nvcc.version if gate.nvcc else "",
        "CUDA_ARCHS": " ".join(gate.archs),
        "CUDA_VERDICT": gate.verdict,
    }


def facts_header(gate: cuda_gate.Gate) -> str:
    lines = [f"#define ZFCUDA_{name} {json.dumps(value)}" for name, value in facts(gate).items()]
    return "\n".join(["// Written by the build.", "#pragma once", *lines, ""])


def facts_module(gate: cuda_gate.Gate) -> str:
    """The Python side's facts, and of which sources the build is."""
    said = facts(gate) | {"SOURCES": digest()}
    lines = [f"{name} = {value!r}" for name, value in said.items()]
    return "\n".join(['"""Written by the build."""', "", *lines, ""])


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number > 1)}"


def _outputs(steps: Sequence[Step]) -> list[Path]:
    return [step.output for step in steps]


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return "compiling failed: the compiler's own message is above"
    return str(error)
