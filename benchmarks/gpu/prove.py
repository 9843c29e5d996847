"""What prove.sh does: stages in processes of their own, each passed, failed or not run.

The stages that prove most come first, each in its share of the time and what those before it left,
and the record is written after each: a machine that goes away leaves what was found until then.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # zfcuda need not be installed
import commands
import stages
import toolchain
from commands import ROOT, NotRun, TooLong
from stages import BENCHMARKS, DEFAULT, DRY_SHARES, SHARES, STAGES, Settings, Stage

END = 5.0  # seconds that the last record and this process's end may take
LOG = 2**20  # bytes of a log that the archive keeps, its last ones
RESULTS = ROOT / "benchmarks" / "results"


@dataclass
class Record:
    """What was found, in files that are whole after every stage.

    Attributes:
        head: what it was found on.
        stages: by name; those of an earlier call of the same day stay until they are run again.
    """

    folder: Path
    name: str
    head: dict[str, str]
    stages: dict[str, Stage]

    @classmethod
    def begun(cls, folder: Path, name: str, head: dict[str, str]) -> Record:
        file = folder / f"{name}.json"
        before = json.loads(file.read_text())["stages"] if file.exists() else []
        return cls(folder, name, head, {each["name"]: Stage(**each) for each in before})

    @property
    def in_order(self) -> list[Stage]:
        return [self.stages[name] for name in STAGES if name in self.stages]

    def write(self, scratch: Path) -> None:
        """NAME.json, NAME.md and, of the logs in ``scratch``, NAME-logs.tar.gz."""
        record = {**self.head, "stages": [asdict(stage) for stage in self.in_order]}
        self._put(".json", (json.dumps(record, indent=1) + "\n").encode())
        self._put(".md", markdown(self.head, self.in_order).encode())
        packed = scratch / "logs.tar.gz"
        with tarfile.open(packed, "w:gz") as archive:
            for file in sorted([*scratch.glob("*.log"), *scratch.glob("*.xml")]):
                text = file.read_bytes()
                kept = scratch / "kept"
                kept.write_bytes(text[-LOG:])
                archive.add(kept, f"{self.name}/{file.name}")
        self._put("-logs.tar.gz", packed.read_bytes())

    def _put(self, ending: str, content: bytes) -> None:
        file = self.folder / f"{self.name}{ending}"
        beside = file.with_name(f".{file.name}")
        beside.write_bytes(content)
        os.replace(beside, file)


def ends(names: Sequence[str], shares: Mapping[str, float], seconds: float) -> dict[str, float]:
    """By when each stage has to be over, in seconds from the beginning: what a stage leaves of its
    share is the next ones'."""
    scale = seconds / sum(shares[name] for name in names)
    whole = accumulate(shares[name] for name in names)
    return {name: scale * end for name, end in zip(names, whole, strict=True)}


def run(name: str, settings: Settings) -> Stage:
    """One stage, whatever goes wrong in it."""
    begin = time.monotonic()
    if commands.stopped():
        stage = Stage(name, "not run", f"{commands.stopped()} came before")
    elif settings.seconds < 2:
        stage = Stage(name, "not run", "no time was left")
    else:
        try:
            stage = STAGES[name](settings)
        except (NotRun, TooLong) as reason:
            stage = Stage(name, "not run", str(reason))
        except Exception as error:  # the next stages can still tell something
            stage = Stage(name, "failed", f"{type(error).__name__}: {error}")
    return replace(stage, seconds=time.monotonic() - begin, sources=toolchain.digest())


def furthest(record: Record) -> tuple[str, ...]:
    """The cases furthest from what is expected of them, of this record or else of the newest of
    this chip that there is."""
    expected = importlib.import_module("expected")
    chip = record.name.removesuffix(record.head["date"])
    files = sorted(RESULTS.glob(f"{chip}*.json"), reverse=True)
    known = [{"stages": [asdict(stage) for stage in record.in_order]}]
    known += [json.loads(file.read_text()) for file in files]
    found = (expected.furthest(expected.Record.of(each)) for each in known)
    return next((tuple(row["name"] for row in rows) for rows in found if rows), ())


# --- the page -------------------------------------------------------------------------------------


def markdown(head: dict[str, str], found: Sequence[Stage]) -> str:
    title = "Dry run on a CPU: proves nothing" if head["chip"] == "cpu" else f"On {head['chip']}"
    lines = [f"# {title}", "", *(f"{key}: {value}  " for key, value in head.items()), ""]
    lines += ["| stage | verdict | seconds | |", "|---|---|---:|---|"]
    for stage in found:
        reason = stage.reason.splitlines()[-1] if stage.reason else ""
        if stage.sources != head["sources"]:
            reason += f" (of sources {stage.sources})"
        lines.append(f"| {stage.name} | {stage.verdict} | {stage.seconds:.0f} | {reason} |")
    numbers = {stage.name: stage.found for stage in found if stage.found}
    if numbers.keys() & {*BENCHMARKS}:
        try:
            lines += _verdicts(found, head)
        except ImportError as error:  # numbers of an earlier call, and nothing is compiled now
            return "\n".join([*lines, "", f"No tables: {error}", ""])
    for name, values in numbers.items():
        lines += [""]
        if name in BENCHMARKS:
            lines += stages.benchmark_table(name, values)
        else:
            lines += [f"## {name}", ""]
            lines += [f"- {key}: {_short(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _verdicts(found: Sequence[Stage], head: dict[str, str]) -> list[str]:
    """What was expected, line by line, and the cases furthest from it."""
    expected = importlib.import_module("expected")
    record = expected.Record.of({"stages": [asdict(stage) for stage in found]})
    lines = ["", "## Expected and found", ""]
    if head["chip"] == "cpu":  # shares and ratios of a dry run mean nothing
        return [*lines, "A dry run decides nothing.", "", *expected.table(expected.Record({}))]
    lines += expected.table(record)
    if rows := expected.slowest(record, head["arch"]):
        lines += ["", "Furthest from what was expected:", "", *rows]
    return lines


def _short(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    return ("none" if not value else "") + "".join(f"\n  - {item}" for item in value[:40])


# --- the command ----------------------------------------------------------------------------------


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=STAGES,
        default=[*DEFAULT],
        metavar="STAGE",
        help=f"of {', '.join(STAGES)}; without it the first {len(DEFAULT)}",
    )
    parser.add_argument(
        "--seconds", type=float, default=400, help="that all of it may take (400); shared out"
    )
    parser.add_argument("--dry", action="store_true", help="on the CPU: does it run at all?")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder for what is written")
    options = parser.parse_args()
    if not options.dry and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; --dry tries the stages on the CPU")
    return options


def main() -> int:
    options = parsed()
    commands.heed_signals()
    # prove.sh says when it began: importing torch takes seconds.
    begin = time.monotonic() - (time.time() - float(os.environ.get("PROVE_BEGAN") or time.time()))
    chip = "cpu" if options.dry else torch.cuda.get_device_name()
    today = datetime.date.today().isoformat()
    arch = "9.0" if options.dry else "{}.{}".format(*torch.cuda.get_device_capability())
    head = {
        "chip": chip,
        "arch": arch,
        "date": today,
        "torch": torch.__version__,
        "driver": "" if options.dry else _driver(),
        "sources": toolchain.digest(),
    }
    name = f"gpu-{re.sub('[^a-z0-9]+', '-', chip.lower())}-{today}"
    scratch = ROOT / "build" / name
    for folder in (scratch, options.out):
        folder.mkdir(parents=True, exist_ok=True)
    record = Record.begun(options.out, name, head)
    settings = Settings("cpu" if options.dry else "cuda", scratch, begin + options.seconds, arch)
    wanted = {*options.only} | ({"build"} if stages.lacking(settings) else set())
    shares = DRY_SHARES if options.dry else SHARES
    plan = ends([name for name in STAGES if name in wanted], shares, options.seconds - END)
    for name, end in plan.items():
        cases = furthest(record) if name == "profile" else ()
        stage = run(name, replace(settings, end=begin + end, furthest=cases))
        record.stages[name] = stage
        record.write(scratch)
        print(f"{name}: {stage.verdict} {stage.reason}", flush=True)
    print((options.out / f"{record.name}.md").read_text())
    if commands.stopped():
        return 1
    return int(any(record.stages[name].verdict == "failed" for name in plan))


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
