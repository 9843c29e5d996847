"""What prove.sh does: stages in processes of their own, each passed, failed or not run.

The stages that prove most come first, and the record is written after each: a machine that goes
away leaves what was found until then.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import datetime
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # zfcuda need not be installed
import compiled
import small

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SECONDS = 460  # that a stage may take: under 8 minutes with its start and its end
ON_GPU = ["tests/ops", "tests/gpu"]  # what tests the kernels; the rest of the suite is Python's


@dataclass
class Stage:
    """What became of one stage.

    Attributes:
        verdict: "passed", "failed" or "not run"; never "passed" for a tool that did not run.
        reason: of any other verdict.
        found: its numbers.
    """

    name: str
    verdict: str
    reason: str = ""
    seconds: float = 0.0
    found: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """What the stages share.

    Attributes:
        arch: what is compiled for, such as "9.0".
    """

    device: str
    scratch: Path
    arch: str = "9.0"

    @property
    def dry(self) -> bool:
        return self.device == "cpu"


class NotRun(Exception):
    """The machine has no such tool, or refuses it."""


class TooLong(RuntimeError):
    """A command did not end in its time."""


def build(settings: Settings) -> Stage:
    """In place, for the one architecture at hand. A dry run compiles, links and loads elsewhere:
    for the chip that it was told, where there is an nvcc."""
    if settings.dry:
        folder = settings.scratch / "compiled"
        command = [sys.executable, str(HERE / "compile_for.py"), settings.arch, str(folder)]
    else:
        command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    environment = {} if settings.dry else {"ZFCUDA_CUDA": "1"}
    environment["TORCH_CUDA_ARCH_LIST"] = settings.arch
    try:
        log = _call(command, settings, "build", environment)
    except TooLong as error:
        raise NotRun(f"{error}; what was compiled is kept: run it again") from None
    if settings.dry:
        return Stage("build", "passed", found={"info": log.splitlines()[-2:]})
    facts = _call([sys.executable, "-m", "zfcuda", "info"], settings, "info", seconds=120)
    return Stage("build", "passed", found={"info": facts.splitlines()})


def tests(settings: Settings) -> Stage:
    """Every op by type, layout and awkward size, streams, graphs, devices: on the GPU, and beside
    it the same bodies on the host."""
    # The host's turn at the tensors past 2^31 elements takes minutes and says nothing of the GPU.
    which = "not slow" if settings.dry else "cuda or not slow"
    return _pytest("tests", [*ON_GPU, "-m", which], settings, needs_gpu=not settings.dry)


def suite(settings: Settings) -> Stage:
    """All other tests."""
    if settings.dry:
        raise NotRun("a dry run leaves it to pytest itself")
    ignored = [f"--ignore={folder}" for folder in ON_GPU]
    return _pytest("suite", ["tests", *ignored], settings)


def _pytest(name: str, what: list[str], settings: Settings, needs_gpu: bool = False) -> Stage:
    report = settings.scratch / f"{name}.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", *what, f"--junitxml={report}"]
    stopped = ""
    try:
        _call(command, settings, name, may_fail=True)
    except TooLong as error:  # pytest reports what it got to
        stopped = str(error)
    if not report.exists():
        return Stage(name, "failed", stopped or "pytest wrote no report: see its log")
    return judged(name, report, stopped, needs_gpu)


def judged(name: str, report: Path, stopped: str = "", needs_gpu: bool = False) -> Stage:
    """The verdict on a JUnit report.

    Args:
        stopped: why pytest was ended before its end, if it was.
        needs_gpu: tests that ran on the GPU have to be among them.
    """
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    bad = [
        _test_name(c) for c in cases if c.find("failure") is not None or c.find("error") is not None
    ]
    skipped = {_test_name(c): c.find("skipped") for c in cases if c.find("skipped") is not None}
    on_gpu = [c for c in cases if _is_on_gpu(c) and _test_name(c) not in skipped]
    found = {
        "tests": len(cases) - len(skipped),
        "on the GPU": len(on_gpu),
        "failed": bad,
        "skipped": [f"{test}: {why.get('message')}" for test, why in skipped.items()],
    }
    if bad or not cases:
        return Stage(name, "failed", f"{len(bad)} of {len(cases)} tests failed", found=found)
    if stopped:
        return Stage(name, "not run", f"{stopped}; what ran until then passed", found=found)
    if needs_gpu and not on_gpu:
        return Stage(name, "not run", "no test ran on the GPU", found=found)
    return Stage(name, "passed", found=found)


def _is_on_gpu(case: ElementTree.Element) -> bool:
    """By its name: a parameter `cuda` (not cuda-on-host), or of the file that needs a GPU."""
    by_name = re.search(r"[\[-]cuda(?!-on-host)[\]-]", str(case.get("name")))
    return bool(by_name) or str(case.get("classname")).endswith("gpu.test_gpu")


def sanitize(settings: Settings) -> Stage:
    """Every kernel on small odd sizes under compute-sanitizer, once for each of its checks."""
    tool = _tool("compute-sanitizer")
    checks = ("memcheck", "racecheck", "initcheck")
    found: dict[str, str] = {}
    for check in checks:
        options = [tool, "--tool", check, "--error-exitcode", "9"]
        # Memory of its own for every tensor: in torch's cache an access out of bounds hits a
        # neighbour and is not noticed.
        environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        command = [*options, sys.executable, str(HERE / "small.py")]
        try:
            log = _call(
                command, settings, check, environment, may_fail=True, seconds=SECONDS // len(checks)
            )
        except TooLong as error:
            found[check] = f"not run: {error}"
            continue
        found[check] = sanitized(log)
    bad = [check for check, line in found.items() if line.startswith("failed")]
    missing = [check for check, line in found.items() if line.startswith("not run")]
    if bad:
        return Stage("sanitize", "failed", ", ".join(bad), found=found)
    if missing:
        return Stage("sanitize", "not run", ", ".join(missing), found=found)
    return Stage("sanitize", "passed", found=found)


def sanitized(log: str) -> str:
    """What a log of compute-sanitizer says, beginning with passed, failed or not run."""
    if refused := re.search(r"Device not supported.*|Unable to.*|.*not supported on.*", log):
        return f"not run: {refused[0].strip()}"
    summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", log)
    if not summary:
        return "failed: no summary, see its log"
    if not re.search(r"SUMMARY: 0 (errors|hazards)", summary[-1]):
        return f"failed: {summary[-1]}"
    if small.DONE not in log:  # 0 errors of a program that ended early say nothing
        return f"failed: the program did not reach its end ({summary[-1]})"
    return f"passed: {summary[-1]}"


def bench(settings: Settings) -> Stage:
    """Kernels against the measured copy bandwidth and against torch: kernels.py."""
    return _benchmark("bench", "kernels.py", settings)


def experiments(settings: Settings) -> Stage:
    """Occlusion against Captum and dense passes, and projections: experiments.py."""
    return _benchmark("experiments", "experiments.py", settings)


def rivals(settings: Settings) -> Stage:
    """Kernels against torch.compile of the reference."""
    if settings.dry:
        raise NotRun("a dry run compiles nothing")
    return _benchmark("rivals", "kernels.py", settings, "--compiled")


def _benchmark(name: str, script: str, settings: Settings, *more: str) -> Stage:
    out = settings.scratch / f"{name}.json"
    out.unlink(missing_ok=True)
    options = ["--device", settings.device, "--out", str(out), "--seconds", str(SECONDS - 60)]
    command = [sys.executable, str(HERE / script), *options, *more]
    stopped = ""
    try:
        _call(command, settings, name, may_fail=True)
    except TooLong as error:  # what it wrote until then stays
        stopped = str(error)
    if not out.exists():
        return Stage(name, "failed", stopped or f"{script} wrote nothing: see its log")
    found = json.loads(out.read_text())
    if found["failed"]:
        return Stage(name, "failed", f"{len(found['failed'])} cases failed", found=found)
    late = [line for line in found["left_out"] if line.endswith("no time was left")]
    if stopped or late:
        why = stopped or f"no time was left for {len(late)} cases"
        return Stage(name, "not run", f"{why}; what was measured is below", found=found)
    return Stage(name, "passed", found=found)


def profile(settings: Settings) -> Stage:
    """Nsight Compute's speed of light of every kernel of the small run, made larger."""
    tool = _tool("ncu")
    metrics = ["--section", "SpeedOfLight", "--section", "LaunchStats", "--clock-control", "none"]
    # All kernels are one template, whose argument is the body.
    only = ["--kernel-name-base", "demangled", "--kernel-name", "regex:zfcuda", "--csv"]
    script = [sys.executable, str(HERE / "small.py"), "--large"]
    log = _call([tool, *metrics, *only, *script], settings, "profile", may_fail=True)
    rows = profiled(log)
    if not rows:
        raise NotRun(f"ncu gave no counters: {(log.strip().splitlines() or ['no output'])[-1]}")
    return Stage("profile", "passed", found={"kernels": rows})


WATCHED = {
    "Memory Throughput": "memory",
    "DRAM Throughput": "DRAM",
    "Compute (SM) Throughput": "compute",
    "Duration": "duration",
    "Registers Per Thread": "registers",
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


STAGES: dict[str, Callable[[Settings], Stage]] = {
    "build": build,
    "tests": tests,
    "bench": bench,
    "experiments": experiments,
    "sanitize": sanitize,
    "profile": profile,
    "rivals": rivals,
    "suite": suite,
}


MEASURED = ("bench", "experiments", "rivals")


# --- running them ---------------------------------------------------------------------------------


def _call(
    command: Sequence[str],
    settings: Settings,
    name: str,
    environment: dict[str, str] | None = None,
    *,
    may_fail: bool = False,
    seconds: float = SECONDS,
) -> str:
    """The command's output, kept as NAME.log in the scratch folder as well.

    Raises:
        RuntimeError: it failed and must not.
        TooLong: it was interrupted after ``seconds``, and had ten more to report what it got to.
    """
    log = settings.scratch / f"{name}.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": _python_path(), **(environment or {})},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # what it starts ends with it
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            raise TooLong(f"stopped after {seconds:.0f} s") from None
        finally:
            _end_group(process)
    text = log.read_text(errors="replace")
    if status and not may_fail:
        raise RuntimeError(f"{name} ended with status {status}: {text[-600:].strip()}")
    return text


def _python_path() -> str:
    """This clone's zfcuda first, as it was built in place; the rest as it was."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tool(name: str) -> str:
    path = shutil.which(name) or shutil.which(f"/usr/local/cuda/bin/{name}")
    if path is None:
        raise NotRun(f"there is no {name} here")
    return path


def _test_name(case: ElementTree.Element) -> str:
    return f"{case.get('classname')}::{case.get('name')}"


def _run(name: str, settings: Settings) -> Stage:
    begin = time.perf_counter()
    try:
        if settings.dry and name in ("sanitize", "profile"):
            raise NotRun("a dry run has no GPU")
        stage = STAGES[name](settings)
    except NotRun as reason:
        stage = Stage(name, "not run", str(reason))
    except Exception as error:  # a stage of its own: the others still have their turn
        stage = Stage(name, "failed", f"{type(error).__name__}: {error}")
    stage.seconds = time.perf_counter() - begin
    return stage


def markdown(head: dict[str, str], stages: Sequence[Stage]) -> str:
    title = "Dry run on a CPU: proves nothing" if head["chip"] == "cpu" else f"On {head['chip']}"
    lines = [f"# {title}", "", *(f"{key}: {value}  " for key, value in head.items()), ""]
    lines += ["| stage | verdict | seconds | |", "|---|---|---:|---|"]
    for stage in stages:
        reason = stage.reason.splitlines()[-1] if stage.reason else ""
        lines.append(f"| {stage.name} | {stage.verdict} | {stage.seconds:.0f} | {reason} |")
    found = {stage.name: stage.found for stage in stages if stage.found}
    if found.keys() & {*MEASURED}:
        lines += _verdicts(stages, head)
    for name, numbers in found.items():
        lines += [""]
        if name in MEASURED:
            # Not before: what they import has to be built first.
            module = importlib.import_module("experiments" if name == "experiments" else "kernels")
            lines += module.table(numbers)
        else:
            lines += [f"## {name}", ""]
            lines += [f"- {key}: {_short(value)}" for key, value in numbers.items()]
    return "\n".join(lines) + "\n"


def _verdicts(stages: Sequence[Stage], head: dict[str, str]) -> list[str]:
    """What was expected, line by line, and the cases furthest from it."""
    expected = importlib.import_module("expected")
    record = expected.Record.of({"stages": [asdict(stage) for stage in stages]})
    lines = ["", "## Expected and found", ""]
    if head["chip"] == "cpu":  # shares and ratios of a dry run mean nothing
        return [*lines, "A dry run decides nothing.", "", *expected.table(expected.Record({}))]
    lines += expected.table(record)
    if furthest := expected.slowest(record, head["arch"]):
        lines += ["", "Furthest from what was expected:", "", *furthest]
    return lines


def _short(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    return f"{len(value)}" + "".join(f"\n  - {item}" for item in value[:40])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=STAGES,
        default=list(STAGES),
        metavar="STAGE",
        help=f"of {', '.join(STAGES)}; bench brings experiments along",
    )
    parser.add_argument("--dry", action="store_true", help="on the CPU: does it run at all?")
    parser.add_argument("--arch", default="9.0", help="what a dry run compiles for (9.0)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    if not options.dry and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; --dry tries the stages on the CPU")
    chip = "cpu" if options.dry else torch.cuda.get_device_name()
    today = datetime.date.today().isoformat()
    arch = options.arch if options.dry else "{}.{}".format(*torch.cuda.get_device_capability())
    head = {
        "chip": chip,
        "arch": arch,
        "date": today,
        "torch": torch.__version__,
        "driver": "" if options.dry else _driver(),
    }
    name = f"gpu-{re.sub('[^a-z0-9]+', '-', chip.lower())}-{today}"
    scratch = ROOT / "build" / name
    for folder in (scratch, options.out):
        folder.mkdir(parents=True, exist_ok=True)
    settings = Settings("cpu" if options.dry else "cuda", scratch, arch)
    stages: list[Stage] = []
    wanted = {*options.only} | ({"experiments"} if "bench" in options.only else set())
    for stage in (name for name in STAGES if name in wanted):
        stages.append(_run(stage, settings))
        record = {**head, "stages": [asdict(each) for each in stages]}
        (options.out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
        (options.out / f"{name}.md").write_text(markdown(head, stages))
        print(f"{stage}: {stages[-1].verdict} {stages[-1].reason}", flush=True)
    print((options.out / f"{name}.md").read_text())
    return int(any(stage.verdict == "failed" for stage in stages))


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
