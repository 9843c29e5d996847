"""Two checkouts against each other, on the same machine, in turns.

    python benchmarks/compare.py ../before              every row, 7 rounds
    python benchmarks/compare.py ../before --rows "occlusion|import" --rounds 15

A round runs every row in a process of the one checkout, then of the other, with the compiled
library that lies in each. A row's ratio is the median over the rounds of the other's time by this
one's: above 1 this checkout is faster. Of experiments the peak of the memory that a call adds is
compared, too. Inputs are the same, random numbers included; what is right is for the tests.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "compare.md"
THREADS = 2
OCCLUSIONS = (
    ("zfnet", 50, 8), ("zfnet", 32, 16), ("zfnet", 16, 4), ("own_vgg16", 32, 8),
    ("squeezenet1_1", 32, 16), ("resnet18", 32, 16),
)  # fmt: skip
SAMPLE = {"own_vgg16": 64}  # positions of a row that are timed; else POSITIONS
POSITIONS = 512
IMPORT = "import zfcuda, without torch"
PROJECTED = ("conv1", "conv2", "conv3", "conv4", "conv5")
UNITS = 64


Run = Callable[[], object]


def rows() -> Iterator[tuple[str, Callable[[], Run], int]]:
    """By name, what prepares a row and gives what is timed, and how often."""
    from cases import CASES

    for case in CASES:
        yield f"op: {case.name}", lambda case=case: case.make().ours, 30
    for net, size, stride in OCCLUSIONS:
        yield f"occlusion: {net} {size}/{stride}", partial(occlusion, net, size, stride), 3
    for layer in PROJECTED:
        yield f"projection: zfnet {layer}", partial(projection, layer), 5
    yield "data set: top9 of zfnet_small, 120 garments", data_set, 3


def occlusion(net: str, size: int, stride: int) -> Run:
    import torch
    from networks import build
    from occlusion import Row, sample

    import zfcuda

    torch.manual_seed(0)
    x = torch.randn(1, 3, 224, 224)
    model, _ = build(net, x)
    boxes = sample(Row(net, size, stride), 224, SAMPLE.get(net, POSITIONS))
    return lambda: zfcuda.occlusion(model, x, target=1, positions=boxes)


def projection(layer: str) -> Run:
    import torch
    from networks import build
    from projection import ours, strongest_units

    torch.manual_seed(0)
    x = torch.randn(1, 3, 224, 224)
    model, peers = build("zfnet", x)
    units = strongest_units(peers, x, layer, UNITS)
    return lambda: ours(model, x, layer, units)


def data_set() -> Run:
    import zfcuda

    model = zfcuda.models.load("zfnet_small")
    data = zfcuda.data if hasattr(zfcuda.data, "garments") else zfcuda.datasets
    pictures = data.garments(zfcuda.models.preprocessing("zfnet_small")).pictures
    layers = ["relu2", "relu3", "relu5"]

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            zfcuda.record_activations(folder, model, pictures, layers, maps=8, progress=False)

    return run


def worker(wanted: re.Pattern[str]) -> None:
    """Time the rows in this process; a row's line as soon as it is known."""
    import torch
    from measuring import added_memory

    torch.set_num_threads(THREADS)
    for name, prepare, repeats in rows():
        if not wanted.search(name):
            continue
        run = prepare()
        run()
        found = {"row": name, "seconds": statistics.median(_seconds(run) for _ in range(repeats))}
        if not name.startswith("op:"):
            found["memory"] = added_memory(run)
        print(json.dumps(found), flush=True)


def _seconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def import_seconds(environment: dict[str, str]) -> float:
    code = "import time; a = time.perf_counter(); import zfcuda; print(time.perf_counter() - a)"
    command = [sys.executable, "-c", code]
    done = [subprocess.check_output(command, env=environment, text=True) for _ in range(9)]
    return statistics.median(map(float, done))


def round_of(checkout: Path, pattern: str) -> dict[str, dict[str, float]]:
    """A round of one checkout, by row."""
    paths = [str(checkout), str(checkout / "benchmarks")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-P", str(HERE / "compare.py"), "--worker", "--rows", pattern]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    if re.search(pattern, IMPORT):
        found.insert(0, {"row": IMPORT, "seconds": import_seconds(environment)})
    return {line["row"]: line for line in found}


def markdown(rounds: list[dict[str, dict[str, dict[str, float]]]]) -> list[str]:
    lines = [
        f"Medians of {len(rounds)} rounds, {THREADS} threads; a ratio above 1: this checkout is "
        "faster, or takes less memory.",
        "",
        "| row | before, ms | after, ms | ratio | before, MB | after, MB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in rounds[0]["after"]:
        seconds = {
            who: statistics.median(one[who][name]["seconds"] for one in rounds)
            for who in ("before", "after")
        }
        ratio = statistics.median(
            one["before"][name]["seconds"] / one["after"][name]["seconds"] for one in rounds
        )
        memory = [
            f"{statistics.median(used) / 1e6:.0f}" if all(used) else "–"
            for who in ("before", "after")
            if (used := [one[who][name].get("memory", 0) for one in rounds])
        ]
        lines.append(
            f"| {name} | {1e3 * seconds['before']:.2f} | {1e3 * seconds['after']:.2f} | "
            f"{ratio:.2f} | {' | '.join(memory)} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path, nargs="?", help="the other checkout, compiled")
    parser.add_argument("--rows", default="", metavar="REGEX", help="of these names only")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(re.compile(options.rows))
        return
    if options.before is None or not (options.before / "zfcuda").is_dir():
        parser.error(f"'{options.before}' is no checkout of zfcuda")
    sides = {"before": options.before.resolve(), "after": HERE.parent}
    rounds = []
    for number in range(options.rounds):
        order = list(sides) if number % 2 == 0 else list(sides)[::-1]
        rounds.append({who: round_of(sides[who], options.rows) for who in order})
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    table = "\n".join(markdown(rounds)) + "\n"
    options.results.write_text("# Before and after\n\n" + table)
    print(table, end="")


if __name__ == "__main__":
    main()
