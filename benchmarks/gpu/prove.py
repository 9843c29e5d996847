"""What prove.sh does: stages in processes of their own, each passed, failed or not run."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SECONDS = 8 * 60  # a stage may take
PROFILED = "max_pool2d|max_unpool2d|local_response_norm|warp_affine|windows|occlude"


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
    """What the stages share."""

    device: str
    scratch: Path

    @property
    def dry(self) -> bool:
        return self.device == "cpu"


class NotRun(Exception):
    """The machine has no such tool, or refuses it."""


def build(settings: Settings) -> Stage:
    """In place, for the one architecture at hand, with the compiler's report of every kernel."""
    environment: dict[str, str] = {}
    if not settings.dry:
        architecture = "{}.{}".format(*torch.cuda.get_device_capability())
        environment = {"ZFCUDA_CUDA": "1", "TORCH_CUDA_ARCH_LIST": architecture}
    _call([sys.executable, "setup.py", "build_ext", "--inplace"], settings, "build", environment)
    facts = _call([sys.executable, "-m", "zfcuda", "info"], settings, "info")
    return Stage("build", "passed", found={"info": facts.splitlines()})


def tests(settings: Settings) -> Stage:
    """The whole suite, which runs every op on the GPU too where there is one."""
    report = settings.scratch / "tests.xml"
    some = ["tests/ops", "tests/gpu"] if settings.dry else ["tests"]
    marks = (
        ["-m", "not slow"] if settings.dry else ["-m", "slow or not slow", "-k", "not torchvision"]
    )
    command = [sys.executable, "-m", "pytest", "-q", *some, *marks, f"--junitxml={report}"]
    _call(command, settings, "tests", may_fail=True)
    if not report.exists():
        return Stage("tests", "failed", "pytest wrote no report: see its log")
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    bad = [
        _test_name(c) for c in cases if c.find("failure") is not None or c.find("error") is not None
    ]
    skipped = [
        f"{_test_name(c)}: {c.find('skipped').get('message')}"
        for c in cases
        if c.find("skipped") is not None
    ]
    on_gpu = sum("[cuda" in str(c.get("name")) or "-cuda-" in str(c.get("name")) for c in cases)
    found = {"tests": len(cases), "on the GPU by name": on_gpu, "failed": bad, "skipped": skipped}
    if bad or not cases:
        return Stage("tests", "failed", f"{len(bad)} of {len(cases)} tests failed", found=found)
    return Stage("tests", "passed", found=found)


def sanitize(settings: Settings) -> Stage:
    """Every kernel once, on small odd sizes, under compute-sanitizer."""
    tool = _tool("compute-sanitizer")
    found: dict[str, str] = {}
    for check in ("memcheck", "racecheck", "initcheck"):
        command = [
            tool,
            "--tool",
            check,
            "--error-exitcode",
            "9",
            sys.executable,
            str(HERE / "small.py"),
        ]
        log = _call(command, settings, check, may_fail=True)
        summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", log)
        refused = re.search(r"Device not supported|Unable to|not supported on", log)
        found[check] = (
            f"not run: {refused[0]}" if refused else (summary or ["no summary: see its log"])[-1]
        )
    clean = [bool(re.search(r"SUMMARY: 0 (errors|hazards)", line)) for line in found.values()]
    if all(clean):
        return Stage("sanitize", "passed", found=found)
    if all(
        ok or line.startswith("not run") for ok, line in zip(clean, found.values(), strict=True)
    ):
        return Stage("sanitize", "not run", "the machine refuses some of it", found=found)
    return Stage("sanitize", "failed", "see below", found=found)


def bench(settings: Settings) -> Stage:
    """Kernels against the measured copy bandwidth and against torch: kernels.py."""
    out = settings.scratch / "kernels.json"
    options = ["--device", settings.device, "--out", str(out)]
    _call([sys.executable, str(HERE / "kernels.py"), *options], settings, "bench")
    return Stage("bench", "passed", found=json.loads(out.read_text()))


def profile(settings: Settings) -> Stage:
    """Nsight Compute's speed of light of every kernel of the small run."""
    tool = _tool("ncu")
    metrics = ["--section", "SpeedOfLight", "--section", "LaunchStats", "--clock-control", "none"]
    only = ["--kernel-name", f"regex:{PROFILED}", "--csv"]
    script = [sys.executable, str(HERE / "small.py"), "--large"]
    log = _call([tool, *metrics, *only, *script], settings, "profile", may_fail=True)
    if "Memory Throughput" not in log:
        raise NotRun(f"ncu gave no counters: {log.strip().splitlines()[-1:] or 'no output'}")
    lines = [line for line in log.splitlines() if "Throughput" in line or "Registers" in line]
    return Stage("profile", "passed", found={"lines": lines})


STAGES: dict[str, Callable[[Settings], Stage]] = {
    "build": build, "tests": tests, "sanitize": sanitize, "bench": bench, "profile": profile
}  # fmt: skip


# --- running them ---------------------------------------------------------------------------------


def _call(
    command: Sequence[str],
    settings: Settings,
    name: str,
    environment: dict[str, str] | None = None,
    may_fail: bool = False,
) -> str:
    """The command's output, kept as NAME.log in the scratch folder as well.

    Raises:
        RuntimeError: it failed and must not, or took too long.
    """
    log = settings.scratch / f"{name}.log"
    with log.open("w") as file:
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{name} took more than {SECONDS} s") from None
    text = log.read_text(errors="replace")
    if done.returncode and not may_fail:
        raise RuntimeError(f"{name} ended with status {done.returncode}: {text[-600:].strip()}")
    return text


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
    except (RuntimeError, OSError, ValueError) as error:
        stage = Stage(name, "failed", str(error))
    stage.seconds = time.perf_counter() - begin
    return stage


def markdown(head: dict[str, str], stages: Sequence[Stage]) -> str:
    title = "Dry run on a CPU: proves nothing" if head["chip"] == "cpu" else f"On {head['chip']}"
    lines = [f"# {title}", "", *(f"{key}: {value}  " for key, value in head.items()), ""]
    lines += ["| stage | verdict | seconds | |", "|---|---|---:|---|"]
    for stage in stages:
        reason = stage.reason.splitlines()[-1] if stage.reason else ""
        lines.append(f"| {stage.name} | {stage.verdict} | {stage.seconds:.0f} | {reason} |")
    for stage in stages:
        if stage.name == "bench" and stage.found:
            from kernels import table

            lines += ["", *table(stage.found)]
        elif stage.found:
            lines += ["", f"## {stage.name}", ""]
            lines += [f"- {key}: {_short(value)}" for key, value in stage.found.items()]
    return "\n".join(lines) + "\n"


def _short(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    return f"{len(value)}" + "".join(f"\n  - {item}" for item in value[:40])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=STAGES, default=list(STAGES), metavar="STAGE")
    parser.add_argument("--dry", action="store_true", help="on the CPU: does it run at all?")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    if not options.dry and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; --dry tries the stages on the CPU")
    chip = "cpu" if options.dry else torch.cuda.get_device_name()
    today = datetime.date.today().isoformat()
    head = {
        "chip": chip,
        "date": today,
        "torch": torch.__version__,
        "driver": "" if options.dry else _driver(),
    }
    name = f"gpu-{re.sub('[^a-z0-9]+', '-', chip.lower())}-{today}"
    scratch = ROOT / "build" / name
    for folder in (scratch, options.out):
        folder.mkdir(parents=True, exist_ok=True)
    settings = Settings("cpu" if options.dry else "cuda", scratch)
    stages: list[Stage] = []
    for stage in options.only:
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
