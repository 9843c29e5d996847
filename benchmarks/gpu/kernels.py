"""Every kernel against the measured copy bandwidth and against torch eager doing the same.

    python benchmarks/gpu/kernels.py --device cuda --out kernels.json
    python benchmarks/gpu/kernels.py --floors          what each case cannot be faster than: no GPU
    python benchmarks/gpu/kernels.py --run CASE ...    for a profiler: each twice, nothing timed

Random inputs; several copies of them take turns, so that together they exceed the L2 cache. What
ours writes to is poisoned before every timed call, and what the last calls left is checked against
torch, as is a call before any timing whose outputs are known to have been NaN. A time is the median
over events around single calls. The share of copy bandwidth is the time that a copy of as many
bytes (floors.py's, each counted once) takes in the same run, over ours; of warp_affine, which reads
next to nothing, the time that as many bytes take to be written.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from cases import (
    CHANNELS_LAST,
    DEMANDS,
    Work,
    gather,
    lrn,
    maxima,
    occlude,
    pool,
    pool_windows,
    rotate,
    unpool,
    unpool_windows,
)
from floors import CHIPS, Demand

CONTIGUOUS = torch.contiguous_format
ROTATED = 2**28  # bytes that the copies of a case have together: more than any L2
LOOPS = (gather, pool_windows, unpool_windows, occlude)  # the reference loops over lists


@dataclass(frozen=True)
class Case:
    """A row of the table.

    Attributes:
        family: of cases.DEMANDS.
        arguments: the family's, given a scale of the batch, 1 for the real one.
        share: of the bandwidth that is expected.
        ratio: to torch that is expected.
        limit: which bandwidth, ``"copy"`` or ``"write"``.
    """

    name: str
    family: Callable[..., Work]
    arguments: Callable[[float], dict[str, Any]]
    share: float
    ratio: float | None = None
    limit: str = "copy"

    def make(self, scale: float = 1.0) -> Work:
        """Inputs on the current device."""
        return self.family(**self.arguments(scale))

    def demand(self, scale: float = 1.0) -> Demand:
        """What ``make`` would need, without making it."""
        return DEMANDS[self.family](**self.arguments(scale))


def _n(batch: int, scale: float) -> int:
    return max(1, round(batch * scale))


def all_cases() -> list[Case]:
    """Shapes of ZFNet and VGG16 at batches that fill a large chip."""
    found = []
    types = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    for name, dtype in types.items():
        for layout in (CONTIGUOUS, CHANNELS_LAST):
            what = f"{name}{', channels_last' if layout is CHANNELS_LAST else ''}"
            half = dtype != torch.float32
            both = {"layout": layout, "dtype": dtype}
            for kernel, batch, shape in ((3, 64, (96, 110, 110)), (2, 32, (64, 224, 224))):
                found.append(
                    Case(
                        f"relu + pool {kernel}x{kernel}/2, {what}",
                        pool,
                        lambda s, n=batch, shape=shape, k=kernel, both=both: {
                            "shape": (_n(n, s), *shape), "kernel": k, **both
                        },
                        0.7 if half and kernel == 3 else 0.85,
                        2.5,
                    )
                )  # fmt: skip
            found += [
                Case(
                    f"unpool 3x3/2 (sum) + relu, {what}",
                    unpool,
                    lambda s, both=both: {
                        "overlap": "sum", "shape": (_n(64, s), 96, 110, 110), **both
                    },
                    0.85,
                    3,
                ),
                Case(
                    f"local response norm, {what}",
                    lrn,
                    lambda s, both=both: {"shape": (_n(128, s), 96, 55, 55), **both},
                    0.7 if half else 0.85,
                    5,
                ),
                *(
                    Case(
                        f"largest of {size}x{size} maps, {what}",
                        maxima,
                        lambda s, shape=(n, c, size, size), both=both: {
                            "shape": (_n(shape[0], s), *shape[1:]), **both
                        },
                        0.85,
                    )
                    for n, c, size in ((64, 96, 110), (1024, 256, 13))
                ),
            ]  # fmt: skip
    for layout in (CONTIGUOUS, CHANNELS_LAST):
        what = ", channels_last" if layout is CHANNELS_LAST else ""
        found += [
            Case(
                f"unpool 3x3/2 (overwrite) + relu vs max_unpool2d{what}",
                unpool,
                lambda s, f=layout: {
                    "overlap": "overwrite", "layout": f, "shape": (_n(64, s), 96, 110, 110)
                },
                0.85,
                3,
            ),
            Case(
                f"occlude 32x32 everywhere{what}",
                occlude,
                lambda s, f=layout: {
                    "baseline": "mask arithmetic", "layout": f, "stride": 8 if s == 1 else 64
                },
                0.85,
            ),
            Case(
                f"72 rotations{what}",
                rotate,
                lambda s, f=layout: {
                    "layout": f, "count": 72 if s == 1 else 4, "batch": _n(8, s)
                },
                0.7,
                3,
                "write",
            ),
        ]  # fmt: skip
    gathers = {"gather windows 20x20x64": (4096, 224, 20, 18, 64),
               "gather windows 7x7x384": (8192, 13, 7, 5, 384)}  # fmt: skip
    for name, numbers in gathers.items():
        named = dict(zip(("count", "size", "window", "patch", "channels"), numbers, strict=True))
        found.append(
            Case(
                name,
                gather,
                lambda s, named=named: {**named, "count": _n(named["count"], s)},
                0.75,
            )
        )
    return [
        *found,
        Case("pool windows to 5x5x96", pool_windows, lambda s: {"count": _n(8192, s)}, 0.75),
        Case("unpool windows to 20x20x256", unpool_windows, lambda s: {"count": _n(1024, s)}, 0.75),
    ]


# --- timing ---------------------------------------------------------------------------------------


def seconds(
    runs: Sequence[Callable[[], object]],
    device: str,
    rounds: int,
    between: Callable[[int], object] = lambda at: None,
) -> float:
    """Median of one call, the runs taking turns; ``between`` is called with the number of the next
    one, outside what is timed."""
    for run in runs:
        run()
    turns = [i % len(runs) for i in range(rounds)]
    if device == "cpu":
        times = []
        for at in turns:
            between(at)
            begin = time.perf_counter()
            runs[at]()
            times.append(time.perf_counter() - begin)
        return statistics.median(times)
    # All is queued before the first call begins: no time is lost between a mark and its call.
    torch.cuda._sleep(40_000_000)
    marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in turns]
    for at, (begin, end) in zip(turns, marks, strict=True):
        between(at)
        begin.record()
        runs[at]()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in marks) / 1e3


def seconds_of_ours(works: Sequence[Work], device: str, rounds: int) -> float:
    """:func:`seconds` of ours, every call into poisoned memory, the last ones' results checked."""
    found: dict[int, object] = {}

    def run(at: int) -> None:
        found[at] = works[at].ours()

    def spoil(at: int) -> None:
        # What the last call returned is given back, and the next one is given it: an allocator
        # prefers a block of the very size.
        poison(found.pop(at))

    median = seconds([partial(run, at) for at in range(len(works))], device, rounds, spoil)
    for at, result in found.items():
        works[at].agree(result)
    return median


def poison(found: object) -> None:
    """Fill results with what no op gives: NaN, or a number that is no switch and no place."""
    for tensor in tree_leaves(found):
        wrong = torch.nan if tensor.is_floating_point() else torch.iinfo(tensor.dtype).max - 1
        tensor.fill_(wrong)


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """New tensors are filled by torch itself, at the price of a pass over them."""
    before = torch.are_deterministic_algorithms_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # fill_uninitialized_memory, on by default, belongs to this mode.
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)


def check_from_poison(work: Work) -> None:
    """Raise an AssertionError unless every element of ours is written, and as torch has it."""
    with poisoned_memory():
        if isinstance(out := work.ours(), torch.Tensor):
            poison(out)  # of ops that write where they are told
            del out
        found = work.ours()
    work.agree(found)


def copy_rate(device: str, size: int) -> float:
    """Bytes a second, read and written, of a plain copy."""
    pairs = []
    for _ in range(max(1, ROTATED // size)):
        source = torch.randn(size // 8, device=device)
        pairs.append((source, torch.empty_like(source)))
    runs = [lambda a=a, b=b: b.copy_(a) for a, b in pairs]
    return size / seconds(runs, device, 30)


def write_rate(device: str, size: int) -> float:
    """Bytes a second of filling memory."""
    blocks = [torch.empty(size // 4, device=device) for _ in range(max(1, ROTATED // size))]
    return size / seconds([lambda b=b: b.fill_(0.5) for b in blocks], device, 30)


def gemm_rate(device: str, dtype: torch.dtype, side: int, tf32: bool = False) -> float:
    """Multiply-adds a second of a large matrix product."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        return side**3 / seconds([lambda: a @ b], device, 10)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def measure(
    case: Case, device: str, scale: float, rounds: int, compiled: bool = False
) -> dict[str, Any]:
    """One row.

    Args:
        compiled: against torch.compile of the reference, in place of torch's own way.

    Raises:
        AssertionError: a result differs from torch's.
    """
    torch.manual_seed(0)
    with torch.device(device):
        first = case.make(scale)
        copies = max(1, min(8, ROTATED // first.bytes)) if scale == 1 else 1
        works = [first, *(case.make(scale) for _ in range(copies - 1))]
        check_from_poison(first)
        ours = seconds_of_ours(works, device, rounds)
        rivals = [torch.compile(work.reference) if compiled else work.torch for work in works]
        theirs = seconds(rivals, device, rounds)
    floor = _floor(case, first.demand, device)
    share = floor / ours
    return {
        "name": case.name,
        "bytes": first.bytes,
        "instructions": first.demand.instructions,
        "ours_s": ours,
        "torch_s": theirs,
        "limit": case.limit,
        "limit_s": floor,
        "share": share,
        "share_expected": case.share,
        "ratio": theirs / ours,
        "ratio_expected": expected_against_compile(share) if compiled else case.ratio,
    }


def _floor(case: Case, demand: Demand, device: str) -> float:
    """Seconds that the memory alone takes for this case."""
    if case.limit == "write":
        return demand.written / write_rate(device, max(2**20, demand.written))
    return demand.bytes / copy_rate(device, max(2**20, demand.bytes))


def expected_against_compile(share: float) -> float:
    """No case slower, and 1.2 times wherever it stays below 70 % of the bandwidth."""
    return 1.0 if share >= 0.7 else 1.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, help="JSON")
    parser.add_argument("--only", help="cases whose name contains this")
    parser.add_argument(
        "--compiled",
        action="store_true",
        help="against torch.compile of the reference; without occlude and the windows, whose "
        "reference is a loop over lists",
    )
    parser.add_argument("--seconds", type=float, help="begin no case after these")
    parser.add_argument("--floors", action="store_true", help="print the model's table and stop")
    parser.add_argument("--run", nargs="+", metavar="CASE", help="run these cases and stop")
    options = parser.parse_args()
    if options.floors:
        print("\n".join(floors_table(all_cases())))
        return
    dry = options.device == "cpu"
    if options.run:
        run_twice(options.run, options.device, 1 / 64 if dry else 1.0)
        return
    begin = time.perf_counter()
    scale, rounds = (1 / 64, 2) if dry else (1.0, 50)
    torch.backends.cudnn.allow_tf32 = False
    found: dict[str, Any] = {
        "copy_bytes_per_s": copy_rate(options.device, 2**22 if dry else 2**30),
        "write_bytes_per_s": write_rate(options.device, 2**22 if dry else 2**30),
        "gemm_macs_per_s": {
            "float32": gemm_rate(options.device, torch.float32, 256 if dry else 8192),
            "tf32": None if dry else gemm_rate(options.device, torch.float32, 8192, tf32=True),
            "bfloat16": gemm_rate(options.device, torch.bfloat16, 256 if dry else 8192),
        },
        "compiled": options.compiled,
        "rows": [],
        "left_out": [],
        "failed": [],
    }
    for case in all_cases():
        if options.only and options.only not in case.name:
            continue
        if options.compiled and case.family in LOOPS:
            continue
        if options.seconds and time.perf_counter() - begin > options.seconds:
            found["left_out"].append(f"{case.name}: no time was left")
            continue
        try:
            found["rows"].append(measure(case, options.device, scale, rounds, options.compiled))
        except NotImplementedError as error:  # torch has no such thing on a CPU
            found["left_out"].append(f"{case.name}: {error}")
        except (AssertionError, RuntimeError) as error:
            found["failed"].append(f"{case.name}: {str(error).strip().splitlines()[0]}")
        if options.out:  # after every case: what was measured stays
            options.out.write_text(json.dumps(found, indent=1) + "\n")
    print("\n".join(table("rivals" if options.compiled else "kernels", found)))
    if found["failed"]:
        sys.exit(1)


def run_twice(names: Sequence[str], device: str, scale: float) -> None:
    """The cases of these names, ours only."""
    with torch.device(device):
        for case in all_cases():
            if case.name in names:
                work = case.make(scale)
                work.ours()
                work.ours()


def floors_table(cases: Sequence[Case]) -> list[str]:
    """Microseconds that no kernel of these cases can go below on the named chips; a star where
    instructions and not bytes decide."""
    lines = [
        f"| kernel | MB | {' | '.join(chip.name for chip in CHIPS)} |",
        f"|---|---:|{'---:|' * len(CHIPS)}",
    ]
    for case in cases:
        if "channels_last" in case.name:  # needs what the contiguous one needs
            continue
        need = case.demand()
        cells = [
            f"{1e6 * chip.floor(need):.0f}{'' if chip.bound_by(need) == 'bytes' else '*'}"
            for chip in CHIPS
        ]
        lines.append(f"| {case.name} | {need.bytes / 1e6:.0f} | {' | '.join(cells)} |")
    return lines


def table(name: str, found: dict[str, Any]) -> list[str]:
    rates = ", ".join(
        f"{name} {2e-12 * rate:.1f} TFLOP/s"
        for name, rate in found["gemm_macs_per_s"].items()
        if rate
    )
    lines = [
        f"## {name}" + (", against torch.compile" if found.get("compiled") else ""),
        "",
        f"Copy {found['copy_bytes_per_s'] / 1e9:.0f} GB/s read and written, filling "
        f"{found['write_bytes_per_s'] / 1e9:.0f} GB/s; products: {rates}.",
        "",
        "| kernel | MB | zfcuda, µs | copy (or write), µs | share (expected) "
        "| torch / zfcuda (expected) |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in found["rows"]:
        least = f" ({row['ratio_expected']:g}×)" if row["ratio_expected"] else ""
        share = f" ({row['share_expected']:.0%})"
        lines.append(
            f"| {row['name']} | {row['bytes'] / 1e6:.0f} | {1e6 * row['ours_s']:.0f} | "
            f"{1e6 * row['limit_s']:.0f} | {row['share']:.0%}{share} | {row['ratio']:.1f}×{least} |"
        )
    notes = [("wrong", found["failed"]), ("left out", found["left_out"])]
    return [*lines, "", *(f"- **{what}**: {line}" for what, which in notes for line in which)]


if __name__ == "__main__":
    main()
