"""The stages of prove.py: what each runs, and when what it ran is passed, failed or not run."""

from __future__ import annotations

import csv
import importlib
import json
import re
import runpy
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "build_backend"))
import compiled
import small
import toolchain
from commands import ROOT, NotRun, TooLong, call, tool

HERE = Path(__file__).resolve().parent


@dataclass
class Stage:
    """What became of one stage.

    Attributes:
        verdict: "passed", "failed" or "not run"; never "passed" for a tool that did not run.
        reason: of any other verdict.
        seconds: it took.
        found: its numbers.
        sources: digest of what the library was compiled from.
    """

    name: str
    verdict: str
    reason: str = ""
    seconds: float = 0.0
    found: dict[str, Any] = field(default_factory=dict)
    sources: str = ""


@dataclass(frozen=True)
class Settings:
    """What a stage is told.

    Attributes:
        device: "cuda", or "cpu" for a dry run.
        scratch: where logs go.
        end: when the stage has to be over, of time.monotonic().
        arch: what is compiled for, such as "9.0".
        furthest: the cases of kernels.py that are furthest from what is expected; empty where none
            was measured.
    """

    device: str
    scratch: Path
    end: float
    arch: str = "9.0"
    furthest: tuple[str, ...] = ()

    @property
    def dry(self) -> bool:
        return self.device == "cpu"

    @property
    def seconds(self) -> float:
        """That are left."""
        return self.end - time.monotonic()

    def run(self, name: str, *command: str | Path, **environment: str) -> tuple[int, str]:
        """:func:`commands.call` of a Python program, with ``name``.log."""
        log = self.scratch / f"{name}.log"
        return call([sys.executable, *map(str, command)], log, self.seconds, environment)


# --- the library ----------------------------------------------------------------------------------


def lacking(settings: Settings) -> str:
    """Why the clone's library has to be compiled; empty where it serves: it is of these sources and
    has their kernels for this chip, whoever compiled it. To a dry run any zfcuda does."""
    if settings.dry:
        folders = (Path(folder, "zfcuda") for folder in (ROOT, *sys.path))
        there = any((folder / "_ops.so").is_file() for folder in folders)
        return "" if there else "nothing is compiled"
    if not (ROOT / "zfcuda" / "_ops.so").is_file():
        return "nothing is compiled"
    facts = runpy.run_path(str(ROOT / "zfcuda" / "_build_facts.py"))
    if facts.get("SOURCES") != toolchain.digest():
        return "what is compiled is of other sources"
    if settings.arch not in facts["CUDA_ARCHS"].split():
        return f"what is compiled has no kernels for {settings.arch}"
    return ""


def build(settings: Settings) -> Stage:
    """In place, for the one architecture at hand, unless that is done."""
    why = lacking(settings)
    if why:
        cuda = "0" if settings.dry else "1"
        command = ["setup.py", "build_ext", "--inplace"]
        chip = {"ZFCUDA_CUDA": cuda, "TORCH_CUDA_ARCH_LIST": settings.arch}
        try:
            status, log = settings.run("build", *command, **chip)
        except TooLong as error:
            raise NotRun(f"{error}; what was compiled is kept: run it again") from None
        if status or (still := lacking(settings)):
            ended = f"status {status}" if status else still
            return Stage("build", "failed", f"{why}; it ended with {ended}: {_last(log)}")
    status, facts = settings.run("info", "-m", "zfcuda", "info")
    if status:
        return Stage("build", "failed", f"it does not load: {_last(facts)}")
    found = {"compiled": why or "nothing: it was there", "info": facts.splitlines()}
    return Stage("build", "passed", found=found)


def needs_library(stage: Callable[[Settings], Stage]) -> Callable[[Settings], Stage]:
    """``stage``, which is not run without the library."""

    def with_library(settings: Settings) -> Stage:
        if why := lacking(settings):
            raise NotRun(why)
        return stage(settings)

    return with_library


def _last(log: str) -> str:
    return (log.strip().splitlines() or ["no output"])[-1]


# --- tests ----------------------------------------------------------------------------------------


# Those with tests for a GPU, besides tests/ops.
WITH_GPU = ("tests/gpu", "tests/experiments/occlusion/test_tf32.py")


def small_sizes(settings: Settings) -> Stage:
    """Every op once, then streams, graphs, devices, experiments and their precision."""
    status, log = settings.run("small.py", HERE / "small.py")
    if status or small.DONE not in log:
        return Stage("small", "failed", f"small.py ended with status {status}: {_last(log)}")
    return _pytest("small", WITH_GPU[:1] if settings.dry else WITH_GPU, settings)


def ops(settings: Settings) -> Stage:
    """Every kernel that is compiled, then every op by type, layout and awkward size, and last the
    tensors past 2^31 elements. A dry run has the first, as loops on the host."""
    every, large = (
        ROOT / "tests" / "ops" / f"test_{name}.py" for name in ("every_kernel", "large")
    )
    if settings.dry:
        return _pytest("ops", [str(every)], settings)
    rest = {*(ROOT / "tests" / "ops").glob("test_*.py")} - {every, large}
    return _pytest("ops", map(str, [every, *sorted(rest), large]), settings)


def _pytest(name: str, what: Iterable[str], settings: Settings) -> Stage:
    report = settings.scratch / f"{name}.xml"
    report.unlink(missing_ok=True)
    which = "not slow and not tooling" if settings.dry else "cuda"
    options = ["-q", "-p", "no:cacheprovider", "-m", which, f"--junitxml={report}"]
    stopped = ""
    try:
        settings.run(name, "-m", "pytest", *options, *what)
    except TooLong as error:  # pytest reports what it got to
        stopped = str(error)
    if not report.exists():
        verdict = "not run" if stopped else "failed"
        return Stage(name, verdict, stopped or "pytest wrote no report: see its log")
    return judged(name, report, stopped)


def judged(name: str, report: Path, stopped: str = "") -> Stage:
    """The verdict on a JUnit report.

    Args:
        stopped: why pytest was ended before its end, if it was.
    """
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    bad = [
        _test_name(c) for c in cases if c.find("failure") is not None or c.find("error") is not None
    ]
    ran = [case for case in cases if case.find("skipped") is None]
    reasons = Counter(str(skip.get("message")) for case in cases for skip in case.iter("skipped"))
    found = {
        "tests": len(ran),
        "failed": bad,
        "skipped": [f"{count}: {reason}" for reason, count in reasons.items()],
    }
    if bad:
        return Stage(name, "failed", f"{len(bad)} of {len(cases)} tests failed", found=found)
    if stopped:
        return Stage(name, "not run", f"{stopped}; what ran until then passed", found=found)
    if not cases:
        return Stage(name, "failed", "there were no tests", found=found)
    if not ran:
        return Stage(name, "not run", "all tests were skipped", found=found)
    return Stage(name, "passed", found=found)


def _test_name(case: ElementTree.Element) -> str:
    return f"{case.get('classname')}::{case.get('name')}"


# --- benchmarks -----------------------------------------------------------------------------------


def kernels(settings: Settings) -> Stage:
    """Against the measured copy bandwidth and against torch."""
    return _benchmark("kernels", settings, "kernels.py")


def occlusion(settings: Settings) -> Stage:
    """Against Captum and the best dense batch, in every precision."""
    return _benchmark("occlusion", settings, "experiments.py", "--what", "occlusion")


def networks(settings: Settings) -> Stage:
    """Occlusion of more networks: none of them slower than dense."""
    return _benchmark("networks", settings, "experiments.py", "--what", "networks")


def projections(settings: Settings) -> Stage:
    """Of the strongest activations of all maps."""
    return _benchmark("projections", settings, "experiments.py", "--what", "projections")


def rivals(settings: Settings) -> Stage:
    """Kernels against torch.compile of the reference."""
    if settings.dry:
        raise NotRun("a dry run compiles nothing")
    return _benchmark("rivals", settings, "kernels.py", "--compiled")


LATE = ("no time was left", "there is no torchvision here")  # how what was left out ends, if it was


def _benchmark(name: str, settings: Settings, script: str, *more: str) -> Stage:
    out = settings.scratch / f"{name}.json"
    out.unlink(missing_ok=True)
    options = ["--device", settings.device, "--out", out, "--seconds", str(0.9 * settings.seconds)]
    stopped, status = "", 0
    try:
        status, _ = settings.run(name, HERE / script, *options, *more)
    except TooLong as error:  # what it wrote until then stays
        stopped = str(error)
    if not out.exists():
        verdict = "not run" if stopped else "failed"
        return Stage(name, verdict, stopped or f"{script} wrote nothing: see its log")
    found = json.loads(out.read_text())
    if found["failed"]:
        return Stage(name, "failed", f"{len(found['failed'])} cases failed", found=found)
    if status:
        return Stage(name, "failed", f"{script} ended with status {status}", found=found)
    late = [line for line in found["left_out"] if line.endswith(LATE)]
    if stopped or late:
        why = stopped or f"{late[0]}, and {len(late) - 1} more"
        return Stage(name, "not run", f"{why}; what was measured is below", found=found)
    return Stage(name, "passed", found=found)


def benchmark_table(name: str, found: dict[str, Any]) -> list[str]:
    """Markdown. What it imports has to be built before."""
    module = "kernels" if name in ("kernels", "rivals") else "experiments"
    return importlib.import_module(module).table(name, found)


BENCHMARKS = ("kernels", "occlusion", "networks", "projections", "rivals")


# --- the toolkit's tools --------------------------------------------------------------------------


def memcheck(settings: Settings) -> Stage:
    """Every kernel on small odd sizes under compute-sanitizer."""
    if settings.dry:
        raise NotRun("a dry run has no GPU")
    command = [
        tool("compute-sanitizer"),
        "--tool",
        "memcheck",
        sys.executable,
        str(HERE / "small.py"),
    ]
    # Memory of its own for every tensor: in torch's cache an access out of bounds hits a neighbour
    # and is not noticed.
    alone = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    _, log = call(command, settings.scratch / "memcheck.log", settings.seconds, alone)
    verdict, _, line = sanitized(log).partition(": ")
    return Stage("memcheck", verdict, "" if verdict == "passed" else line, found={"said": line})


def sanitized(log: str) -> str:
    """What a log of compute-sanitizer says, beginning with passed, failed or not run."""
    if refused := re.search(r"Device not supported.*|Unable to.*|.*not supported on.*", log):
        return f"not run: {refused[0].strip()}"
    summary = re.findall(r"ERROR SUMMARY: .*", log)
    if not summary:
        return "failed: no summary, see its log"
    if not re.search(r"SUMMARY: 0 errors", summary[-1]):
        return f"failed: {summary[-1]}"
    if small.DONE not in log:  # 0 errors of a program that ended early say nothing
        return f"failed: the program did not reach its end ({summary[-1]})"
    return f"passed: {summary[-1]}"


def profile(settings: Settings) -> Stage:
    """Nsight Compute on the cases furthest from what is expected; where none was measured, on every
    kernel of the small run, made larger."""
    if settings.dry:
        raise NotRun("a dry run has no GPU")
    sections = ("SpeedOfLight", "LaunchStats", "Occupancy")
    ncu = [tool("ncu"), *(part for name in sections for part in ("--section", name))]
    # All kernels are one template, whose argument is the body.
    ncu += ["--kernel-name-base", "demangled", "--kernel-name", "regex:zfcuda", "--csv"]
    ncu += ["--clock-control", "none"]
    script = [str(HERE / "small.py"), "--large"]
    if settings.furthest:
        script = [str(HERE / "kernels.py"), "--run", *settings.furthest]
    log = settings.scratch / "profile.log"
    _, said = call([*ncu, sys.executable, *script], log, settings.seconds)
    rows = profiled(said)
    if not rows:
        raise NotRun(f"ncu gave no counters: {_last(said)}")
    return Stage("profile", "passed", found={"cases": [*settings.furthest], "kernels": rows})


WATCHED = {
    "Memory Throughput": "memory",
    "DRAM Throughput": "DRAM",
    "Compute (SM) Throughput": "compute",
    "Duration": "duration",
    "Registers Per Thread": "registers",
    "Achieved Occupancy": "occupancy",
}


def profiled(log: str) -> list[str]:
    """A line a kernel launch of ncu's CSV; nothing where there is no CSV."""
    lines = log.splitlines()
    begin = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    launches: dict[str, dict[str, str]] = {}
    for row in csv.DictReader(lines[begin:]):
        if row.get("Metric Name") in WATCHED:
            launch = launches.setdefault(row["ID"], {"": row["Kernel Name"]})
            value = f"{row['Metric Value']} {row['Metric Unit']}".strip()
            launch.setdefault(WATCHED[row["Metric Name"]], value)
    return [
        f"{compiled.body_name(launch.pop('')) or 'another kernel'}: "
        + ", ".join(f"{what} {value}" for what, value in launch.items())
        for launch in launches.values()
    ]


# In the order in which they run; those that run unless others are named come first.
STAGES: dict[str, Callable[[Settings], Stage]] = {
    "build": build,
    "small": needs_library(small_sizes),
    "kernels": needs_library(kernels),
    "occlusion": needs_library(occlusion),
    "ops": needs_library(ops),
    "memcheck": needs_library(memcheck),
    "profile": needs_library(profile),
    "networks": needs_library(networks),
    "projections": needs_library(projections),
    "rivals": needs_library(rivals),
}
DEFAULT = ("build", "small", "kernels", "occlusion", "ops")
# Of the time; seconds, where there are 400 and the default stages.
SHARES = {"build": 90, "small": 40, "kernels": 80, "occlusion": 130, "ops": 60}
SHARES |= {"memcheck": 60, "profile": 60, "networks": 120, "projections": 40, "rivals": 200}
# A dry run measures next to nothing, and compiles what the tests run on the host.
DRY_SHARES = SHARES | {"build": 180, "kernels": 50, "occlusion": 50, "ops": 80}
