"""What the floors of docs/performance.md let one expect, and what a record of prove.sh says of it.

    python benchmarks/gpu/expected.py                   every line, nothing measured
    python benchmarks/gpu/expected.py gpu-CHIP-DATE.json

A line is *met* when all that it speaks of was measured and reaches what is expected, *missed* when
something that was measured does not, *unmeasured* when nothing was, and else *unmeasured in part*.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import compiled
import experiments
import kernels
from cases import OPS

PROJECTIONS = 12_384  # nine of each of ZFNet's 1,376 maps
SECONDS = 10.0  # what "in seconds" is taken to mean
Numbers = dict[str, float]  # by what they are of


@dataclass(frozen=True)
class Expectation:
    """A line of the table.

    Attributes:
        what: it speaks of.
        expected: in words.
        least: the number to be reached, or not to be exceeded where ``at_most``.
        found: what a record says, of everything that the line speaks of; NaN what was not measured.
        show: a number as it is printed.
    """

    what: str
    expected: str
    least: float | Callable[[Any], Numbers]
    found: Callable[[Record], Numbers]
    show: str = "{:.2f}×"
    at_most: bool = False

    def verdict(self, record: Record) -> tuple[str, str]:
        """The verdict, and the number that decides it with what it is of."""
        found = self.found(record)
        measured = {name: value for name, value in found.items() if not math.isnan(value)}
        if not measured:
            return "unmeasured", ""
        least = self.least(record) if callable(self.least) else dict.fromkeys(found, self.least)

        def room(name: str) -> float:
            ratio = measured[name] / least[name]
            return 1 / max(ratio, 1e-12) if self.at_most else ratio

        worst = min(measured, key=room)
        said = f"{self.show.format(measured[worst])} ({worst})"
        if room(worst) < 1:
            return "missed", said
        return ("met" if len(measured) == len(found) else "unmeasured in part"), said


@dataclass(frozen=True)
class Record:
    """What prove.sh wrote, by stage."""

    stages: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, record: dict[str, Any]) -> Record:
        return cls({stage["name"]: stage["found"] for stage in record.get("stages", [])})

    def rows(self, stage: str) -> dict[str, dict[str, Any]]:
        """A benchmark's rows by what they are of."""
        rows = self.stages.get(stage, {}).get("rows", [])
        return {row.get("key") or row["name"]: row for row in rows}

    def numbers(self, stage: str, field: str, names: Iterable[str]) -> Numbers:
        """NaN what was not measured, zero what gave wrong results."""
        rows = self.rows(stage)
        wrong = [line.partition(": ")[0] for line in self.stages.get(stage, {}).get("failed", [])]
        missing = {name: 0.0 if name in wrong else math.nan for name in names}
        return {name: rows.get(name, {}).get(field, missing[name]) for name in missing}


# --- kernels --------------------------------------------------------------------------------------


def _cases(op: str, wanted: Callable[[kernels.Case], object]) -> list[str]:
    return [case.name for case in kernels.all_cases() if OPS[case.family] == op and wanted(case)]


def _share(what: str, op: str, least: float, bandwidth: str = "copy") -> Expectation:
    names = _cases(op, lambda case: case.share == least)
    words = f"≥ {100 * least:.0f} % of {bandwidth} bandwidth"
    return Expectation(what, words, least, lambda r: r.numbers("kernels", "share", names), "{:.0%}")


def _ratio(what: str, op: str, least: float) -> Expectation:
    names = _cases(op, lambda case: case.ratio == least)
    return Expectation(what, f"≥ {least:g}×", least, lambda r: r.numbers("kernels", "ratio", names))


def _compiled() -> Expectation:
    names = [case.name for case in kernels.all_cases() if case.family not in kernels.LOOPS]

    def least(record: Record) -> Numbers:
        shares = record.numbers("rivals", "share", names)
        return {name: kernels.expected_against_compile(share) for name, share in shares.items()}

    return Expectation(
        "every op against `torch.compile` of its reference (`rivals`)",
        "no case slower, ≥ 1.2× below 70 % of copy bandwidth",
        least,
        lambda r: r.numbers("rivals", "ratio", names),
    )


# --- experiments ----------------------------------------------------------------------------------


CALLED = {"float32": "float32 without TF32", "tf32": "TF32", "bfloat16": "bfloat16"}


def _occlusion(name: str) -> list[Expectation]:
    keys = [f"{row.key}, {name}" for row in experiments.HARD if row.goal]
    times = experiments.CAPTUM_EXPECTED[name]
    return [
        Expectation(
            f"occlusion, {CALLED[name]}, of VGG16 and ZFNet 16/4 against Captum at its best batch",
            f"≥ {times:g}×",
            times,
            lambda r: r.numbers("occlusion", "vs_captum", keys),
        ),
        Expectation(
            f"occlusion, {CALLED[name]}, of both against our own best dense batch",
            f"≥ {100 * experiments.SHARE_EXPECTED:.0f} % of the multiply-add ceiling",
            experiments.SHARE_EXPECTED,
            lambda r: r.numbers("occlusion", "reached", keys),
            "{:.0%}",
        ),
    ]


def _never_slower(record: Record) -> Numbers:
    extent = experiments.Extent.full()
    found: Numbers = {}
    for stage in ("occlusion", "networks"):
        keys = [f"{row.key}, {name}" for row, name in extent.rows(stage)]
        found |= record.numbers(stage, "vs_dense", keys)
    return found


def _projections(record: Record) -> Numbers:
    top = record.stages.get("projections", {}).get("projections", {})
    seconds = top.get("seconds", math.nan) if top.get("units") == PROJECTIONS else math.nan
    return {"with the pass that finds them": seconds}


def expectations() -> list[Expectation]:
    """Every line of the table."""
    return [
        _share("`max_pool2d`, all types and layouts, but 16-bit 3×3", "max_pool2d", 0.85),
        _share("`max_pool2d` 3×3, 16 bits", "max_pool2d", 0.7),
        _share("`max_unpool2d`", "max_unpool2d", 0.85),
        _share("`occlude`", "occlude", 0.85),
        _share("`local_response_norm`, float32", "local_response_norm", 0.85),
        _share("`local_response_norm`, 16 bits", "local_response_norm", 0.7),
        _share("`spatial_max`", "spatial_max", 0.85),
        _share("`gather_windows`", "gather_windows", 0.75),
        _share("`pool_windows`", "pool_windows", 0.75),
        _share("`unpool_windows`", "unpool_windows", 0.75),
        _share("`warp_affine`", "warp_affine", 0.7, "write"),
        _ratio("pool + switches against torch eager", "max_pool2d", 2.5),
        _ratio("unpool + rectify against torch eager", "max_unpool2d", 3),
        _ratio("`local_response_norm` against torch eager", "local_response_norm", 5),
        _ratio("72-angle rotation against torch eager", "warp_affine", 3),
        _compiled(),
        *(each for name in experiments.PRECISIONS for each in _occlusion(name)),
        Expectation("no network slower than dense", "≥ 1×", 1.0, _never_slower),
        Expectation(
            f"all {PROJECTIONS:,} top-9 projections of a ZFNet",
            f"in seconds (below {SECONDS:.0f})",
            SECONDS,
            _projections,
            "{:.1f} s",
            at_most=True,
        ),
    ]


# --- the three slowest ----------------------------------------------------------------------------


def furthest(record: Record, count: int = 3) -> list[dict[str, Any]]:
    """The rows of the cases furthest from the share that is expected of them."""
    rows = record.rows("kernels").values()
    return sorted(rows, key=lambda row: row["share"] / row["share_expected"])[:count]


def slowest(record: Record, arch: str) -> list[str]:
    """The cases furthest from what is expected, each with what Nsight Compute counted of its op,
    or where that did not run with what the compiler says.

    Args:
        arch: of the chip, such as "9.0".
    """
    ops = {case.name: OPS[case.family] for case in kernels.all_cases()}
    lines = []
    for row in furthest(record):
        name = row["name"]
        lines.append(f"- {name}: {row['share']:.0%} of {row['share_expected']:.0%}")
        lines += [f"  - {line}" for line in _behind(record, ops[name], arch)]
    return lines


def _behind(record: Record, op: str, arch: str) -> list[str]:
    profiled = record.stages.get("profile", {}).get("kernels", [])
    bodies = [name for name, body in compiled.BODIES.items() if body.op == op]
    counted = [line for line in profiled if line.partition("<")[0] in bodies]
    if counted:
        return counted
    path = compiled.ROOT / "benchmarks" / "results" / "compiled.json"
    own = [k for k in compiled.read(path) if k.arch == arch and k.body.op == op and k.hot]
    return [
        f"not profiled; the compiler says {k.name}: {k.registers} registers, {k.spills} bytes of "
        f"spills, accesses {', '.join(f'{w} ×{n}' for w, n in (k.accesses or {}).items())}"
        for k in own
    ]


def table(record: Record) -> list[str]:
    """Markdown: every line with its verdict."""
    lines = ["| of what | expected | verdict | found |", "|---|---|---|---|"]
    for each in expectations():
        verdict, said = each.verdict(record)
        lines.append(f"| {each.what} | {each.expected} | {verdict} | {said} |")
    profiled = record.stages.get("profile", {}).get("kernels")
    lines.append(
        "| the three slowest under Nsight Compute, or the compiler's report | – | "
        f"{'profiled' if profiled else 'not run'} | |"
    )
    return lines


def main(arguments: Sequence[str]) -> None:
    record = json.loads(Path(arguments[0]).read_text()) if arguments else {}
    print("\n".join(table(Record.of(record))))


if __name__ == "__main__":
    main(sys.argv[1:])
