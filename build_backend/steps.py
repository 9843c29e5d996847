"""The commands of a build, and ninja, which runs those whose inputs have changed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Step:
    """One command of a build, and the files that decide whether it has to run."""

    output: Path
    inputs: tuple[Path, ...]
    command: tuple[str, ...]


def run(compiles: Sequence[Step], links: Sequence[Step], folder: Path) -> None:
    """Run what is out of date: with ninja only that, without it everything."""
    jobs = job_count()
    for step in compiles:
        step.output.parent.mkdir(parents=True, exist_ok=True)
    if ninja := shutil.which("ninja"):
        write_ninja_file([*compiles, *links], folder)
        _call([ninja, "-C", str(folder), "-j", str(jobs)])
        return
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda step: _call(step.command), compiles))
    for link in links:
        _call(link.command)


def outdated(steps: Sequence[Step], folder: Path) -> list[Step]:
    """Those that :func:`run` would run."""
    ninja = shutil.which("ninja")
    if ninja is None:
        return list(steps)
    write_ninja_file(steps, folder)
    dry = subprocess.run([ninja, "-C", str(folder), "-n"], capture_output=True, text=True)
    named = set(re.findall(r"^\[\d+/\d+\] (.+)$", dry.stdout, re.M))
    return [step for step in steps if _name(step, folder) in named]


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


def write_ninja_file(steps: Sequence[Step], folder: Path) -> None:
    """``build.ninja``; gcc's depfiles tell it about headers."""

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
        lines += [f"  name = {_name(step, folder)}"]
    write(folder / "build.ninja", "\n".join([*lines, ""]))


def write(path: Path, text: str) -> None:
    """Write only what is new, so that the file's time does not make ninja rebuild."""
    if not path.is_file() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def is_writable(folder: Path) -> bool:
    """Whether files can be made in ``folder`` (by trying: a mode says nothing to root)."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def _name(step: Step, folder: Path) -> str:
    return str(step.output.relative_to(folder))


def _call(command: Iterable[str]) -> None:
    # What ninja tells is progress: with all the rest on stderr.
    subprocess.run(list(command), check=True, stdout=sys.stderr.fileno())
