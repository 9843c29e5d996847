"""Occlusion against Captum, MONAI and the best dense batch, network by network.

    python benchmarks/occlusion.py                     every row, the real settings: 1 to 2 hours
    python benchmarks/occlusion.py --nets zfnet vgg16  some networks
    python benchmarks/occlusion.py --quick             does it run? (the numbers mean nothing)
    python benchmarks/occlusion.py --write-table       results/occlusion.jsonl as Markdown

Every network is measured in a process of its own and every row appended to the JSON lines as it
comes, so that a run that is killed loses little. Correctness comes first. Then every peer is swept
over its settings, and its two best take part in rounds in which peers and ours run in turn, so that
a machine that slows down does so for all. The ratios are medians of the rounds' ratios.

Per position means: Captum and the dense batches run grids of exactly as many positions as their
batch holds (at least 16), since a position costs them the same wherever it is and however large;
ours runs the row's own occluders, a random sample of them where the grid has thousands. What is
done once an image (ours: the base pass and the plan; Captum: the unperturbed pass) is timed apart
and spread over the whole grid.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import re
import signal
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measuring import (
    Contestant,
    added_memory,
    append,
    finalists,
    machine,
    median_ratio,
    read,
)
from networks import build, image_size
from torch import Tensor, nn

import zfcuda
from zfcuda.inference.interception import fast_forward

RESULTS = Path(__file__).parent / "results"
THREADS = 2
TARGET = 1  # the class that attributions are about


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    net: str
    size: int
    stride: int

    @property
    def key(self) -> str:
        return f"{self.net} {self.size}/{self.stride}"


_OTHERS = (
    "mobilenet_v2 mobilenet_v3_large densenet121 googlenet inception_v3 efficientnet_b0 shufflenet "
    "mnasnet regnet_y_400mf resnext50 convnext_tiny"
)
ROWS = [
    Row("zfnet", 50, 8),
    Row("zfnet", 32, 16),
    Row("zfnet", 16, 4),
    Row("zfnet_lrn", 50, 8),
    Row("zfnet_lrn", 32, 16),
    Row("zfnet_lrn", 16, 4),
    Row("vgg16", 16, 4),
    Row("vgg16", 32, 8),
    Row("alexnet", 16, 4),
    Row("squeezenet1_1", 16, 4),
    Row("resnet18", 16, 4),
    Row("resnet50", 16, 4),
    *(Row(net, 32, 16) for net in _OTHERS.split()),
]


@dataclass(frozen=True)
class Settings:
    """How thoroughly to measure."""

    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128)
    positions: int = 512  # of ours, at most
    rounds: int = 5

    @classmethod
    def quick(cls) -> Settings:
        return cls(batches=(8, 16), positions=32, rounds=1)


# --- who is compared ------------------------------------------------------------------------------


def windows_for(count: int, side: int) -> tuple[int, int]:
    """(height, width) of windows that tile an image into exactly ``count`` (a power of 2)."""
    rows = 2 ** (count.bit_length() // 2)
    return math.ceil(side / rows), math.ceil(side / (count // rows))


def tiles(count: int, side: int) -> Tensor:
    """The boxes int64 [count,4] of :func:`windows_for`."""
    height, width = windows_for(count, side)
    return torch.tensor(
        [
            (y, x, min(y + height, side), min(x + width, side))
            for y in range(0, side, height)
            for x in range(0, side, width)
        ]
    )


Peer = Callable[[nn.Module, Tensor, int], Contestant]  # with a batch size


def captum(model: nn.Module, x: Tensor, batch: int) -> Contestant:
    """Captum's own Occlusion, ``batch`` perturbations an evaluation."""
    from captum.attr import Occlusion

    count = max(batch, 16)
    window = (x.shape[1], *windows_for(count, x.shape[-1]))

    def run() -> Tensor:
        return Occlusion(model).attribute(
            x, window, strides=window, target=TARGET, perturbations_per_eval=batch
        )

    return Contestant(f"{batch} a pass", run, count)


def captums_way(model: nn.Module, x: Tensor, batch: int) -> Contestant:
    """What :func:`captum` does (its FeatureAblation, under Occlusion), in plain torch: for machines
    without it. A mask for every window, products with it, differences of one class laid back."""
    count = max(batch, 16)
    side = x.shape[-1]
    boxes = tiles(count, side).tolist()

    def mask_of(y0: int, x0: int, y1: int, x1: int) -> Tensor:
        window = x.new_ones(x.shape[1], y1 - y0, x1 - x0)
        return F.pad(window, (x0, side - x1, y0, side - y1))

    @torch.no_grad()
    def run() -> Tensor:
        base = model(x)[:, TARGET]
        total, weight = torch.zeros_like(x, dtype=base.dtype), torch.zeros_like(x)
        for begin in range(0, count, batch):
            masks = torch.stack([mask_of(*box) for box in boxes[begin : begin + batch]])
            found = model(x * (1 - masks) + 0.0 * masks)[:, TARGET]
            total += ((base - found)[:, None, None, None] * masks).sum(0)
            weight += masks.sum(0)
        return total / weight

    return Contestant(f"{batch} a pass, in plain torch", run, count)


def monai(model: nn.Module, x: Tensor, size: int, batch: int) -> Contestant:
    """MONAI's OcclusionSensitivity without overlap."""
    from monai.visualize import OcclusionSensitivity

    warnings.filterwarnings("ignore", "Using a non-tuple sequence for multidimensional indexing")
    tool = OcclusionSensitivity(
        model, size, n_batch=batch, verbose=False, mode=0.0, overlap=0.0, activate=False
    )
    return Contestant(f"n_batch {batch}", lambda: tool(x), math.ceil(x.shape[-1] / size) ** 2)


def dense(own: nn.Module, peers: nn.Module, x: Tensor, batches: Sequence[int]) -> list[Contestant]:
    """One full pass a position, a batch at a time: {torch's modules, our engine} × layouts."""

    def contestant(model: nn.Module, engine: str, last: bool, batch: int) -> Contestant:
        layout = torch.channels_last if last else torch.contiguous_format
        count = max(batch, 16)
        boxes = tiles(count, x.shape[-1]).to(x.device)
        copies = with_slices if engine == "torch" else zfcuda.ops.occlude

        @torch.no_grad()
        def run() -> Tensor:
            calls = nullcontext() if engine == "torch" else fast_forward()
            parts = boxes.split(batch)
            with calls:
                logits = [
                    model(copies(x, part, 0.0)[0].contiguous(memory_format=layout))
                    for part in parts
                ]
            return torch.cat(logits)

        name = "channels_last" if last else "contiguous"
        return Contestant(f"{engine}, {name}, batch {batch}", run, count)

    contestants = []
    for last in (False, True):
        for engine, model in (("torch", peers), ("zfcuda", own)):
            # Weights in the layout too: otherwise every call reorders them.
            laid = copy.deepcopy(model).to(memory_format=torch.channels_last) if last else model
            contestants += [contestant(laid, engine, last, batch) for batch in batches]
    return contestants


def with_slices(x: Tensor, boxes: Tensor, fill: float) -> Tensor:
    """``zfcuda.ops.occlude`` the way one writes it in torch."""
    copies = x.repeat(len(boxes), 1, 1, 1)
    for image, (y0, x0, y1, x1) in zip(copies, boxes.tolist(), strict=True):
        image[:, y0:y1, x0:x1] = fill
    return copies[None]


def grid(row: Row, side: int) -> Tensor:
    """Every occluder of the row, int64 [P,4]."""
    starts = range(0, math.ceil((side - row.size) / row.stride) * row.stride + 1, row.stride)
    ends = [min(start + row.size, side) for start in starts]
    axis = [*zip(starts, ends, strict=True)]
    return torch.tensor([(y0, x0, y1, x1) for y0, y1 in axis for x0, x1 in axis])


def sample(row: Row, side: int, count: int) -> Tensor:
    """``count`` occluders of the row drawn at random, in the grid's order; all if there are
    fewer."""
    boxes = grid(row, side)
    if len(boxes) <= count:
        return boxes
    return boxes[sorted(random.Random(0).sample(range(len(boxes)), count))]


def ours(model: nn.Module, x: Tensor, row: Row, boxes: Tensor) -> Contestant:
    """``zfcuda.occlusion`` as anybody calls it."""

    def run() -> zfcuda.OcclusionResult:
        return zfcuda.occlusion(
            model, x, target=TARGET, size=row.size, stride=row.stride, positions=boxes
        )

    return Contestant(f"{len(boxes)} positions", run, len(boxes))


# --- correctness ----------------------------------------------------------------------------------


def check(
    own: nn.Module, peers: nn.Module, x: Tensor, row: Row, peer: Peer = captum
) -> dict[str, float]:
    """Raise unless ours gives the numbers of a plain loop and of Captum.

    A few positions against float64: ours may be off by four times what torch itself is off by, in
    the same precision, in one memory format or the other (DESIGN.md, *Exactness*). Captum's map of
    a coarse grid against ours.
    """
    boxes = sample(row, x.shape[-1], 6)
    mine = zfcuda.occlusion(own, x, target=TARGET, positions=boxes).logits[0].double()
    with torch.no_grad():
        images = with_slices(x, boxes, 0.0)[0]
        floats = [peers(images), peers(images.contiguous(memory_format=torch.channels_last))]
        truth = copy.deepcopy(peers).double()(images.double()).cpu()
    scale = float(truth.norm())
    torchs = max(float((each.cpu().double() - truth).norm()) for each in floats) / scale
    error = float((mine - truth).norm()) / scale
    if not error <= 4 * torchs:
        raise AssertionError(f"{row.key}: ours is off by {error:.1e}, torch by {torchs:.1e}")

    window = windows_for(16, x.shape[-1])
    theirs = peer(peers, x, 16).run()[:, :1].cpu().double()
    own_map = zfcuda.occlusion(own, x, target=TARGET, size=window, stride=window).to_attribution()
    # A difference of two logits: its rounding is the logits', not its own.
    distance = float((theirs - own_map).abs().max() / truth.abs().max())
    if not distance <= max(1e-4, 4 * torchs):
        raise AssertionError(f"{row.key}: our map is {distance:.1e} away from Captum's")
    return {"error": error, "torch_error": torchs, "captum_distance": distance}


# --- timing ---------------------------------------------------------------------------------------


def measure(net: str, rows: Sequence[Row], settings: Settings) -> Iterator[dict[str, Any]]:
    """A line of the results for each row of one network."""
    torch.set_num_threads(THREADS)
    x, own, peers = prepared(net)
    checks = [check(own, peers, x, row) for row in rows]
    peer_groups = {
        "captum": finalists([captum(peers, x, batch) for batch in settings.batches]),
        "dense": finalists(dense(own, peers, x, settings.batches)),
    }
    for row, checked in zip(rows, checks, strict=True):
        groups = {**peer_groups, "monai": finalists(_monais(peers, x, row), 1)}
        plan = zfcuda.plan(own, x, size=row.size, stride=row.stride)
        rounds, labels = contest(own, peers, x, row, settings, groups)
        yield {
            **asdict(row),
            "key": row.key,
            **machine(),
            **checked,
            "positions": len(grid(row, x.shape[-1])),
            "sample": len(sample(row, x.shape[-1], settings.positions)),
            "ceiling": plan.ceiling,
            "predicted": plan.predicted_speedup,
            "dense_from": plan.dense_from,
            "batches": settings.batches,
            "labels": labels,
            "rounds": rounds,
            "memory": {
                "captum": _memory_of(row, "captum", _number_in(labels["captum"])),
                "ours": _memory_of(row, "ours", settings.positions),
            },
        }


def contest(
    own: nn.Module,
    peers: nn.Module,
    x: Tensor,
    row: Row,
    settings: Settings,
    groups: dict[str, list[Contestant]],
) -> tuple[list[dict[str, float]], dict[str, str]]:
    """Everybody in turn: seconds a position in every round, and the settings that won most."""
    side = x.shape[-1]
    positions, boxes = len(grid(row, side)), sample(row, side, settings.positions)
    whole, one = ours(own, x, row, boxes), ours(own, x, row, boxes[:1])
    unperturbed = Contestant("", lambda: _logits(peers, x), 1)
    for contestant in (whole, one, unperturbed):
        contestant.seconds()  # warm-up
    rounds: list[dict[str, float]] = []
    winners: dict[str, list[str]] = {name: [] for name, group in groups.items() if group}
    for _ in range(settings.rounds):
        seconds, single = whole.seconds(), unperturbed.seconds()
        times = {"ours": seconds / positions}
        if len(boxes) < positions:
            # What is done once an image is spread over the whole grid, not over the sample.
            first = min(seconds, one.seconds(), one.seconds())
            each = (seconds - first) / max(1, len(boxes) - 1)
            times["ours"] = each + (first - each) / positions
        for name in winners:
            if name == "monai" and rounds:  # shown, but nothing hangs on it: once is enough
                continue
            once = single if name == "captum" else 0.0
            found = {
                peer.label: (peer.seconds() - once) / peer.count + once / positions
                for peer in groups[name]
            }
            winners[name].append(min(found, key=found.__getitem__))
            times[name] = min(found.values())
        rounds.append(times)
    return rounds, {name: statistics.mode(labels) for name, labels in winners.items()}


def _monais(model: nn.Module, x: Tensor, row: Row) -> list[Contestant]:
    try:
        return [monai(model, x, row.size, batch) for batch in (16, 32)]
    except ImportError:  # shown where it is installed
        return []


def prepared(net: str) -> tuple[Tensor, nn.Module, nn.Module]:
    """An image, and the network for us and for everybody else."""
    side = image_size(net)
    torch.manual_seed(0)
    images = torch.randn(2, 3, side, side)
    own, peers = build(net, images)
    return images[:1].clone(), own, peers


@torch.no_grad()
def _logits(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)


def memory(row: Row, who: str, count: int) -> int:
    """Bytes that a run adds to a process: Captum's with ``count`` perturbations a pass, ours over
    ``count`` positions."""
    torch.set_num_threads(THREADS)
    x, own, peers = prepared(row.net)
    if who == "captum":
        return added_memory(captum(peers, x, count).run)
    return added_memory(ours(own, x, row, sample(row, x.shape[-1], count)).run)


def _memory_of(row: Row, who: str, count: int) -> int:
    """:func:`memory` in a fresh process."""
    command = [sys.executable, __file__, "--memory-of", row.key, who, str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def _number_in(label: str) -> int:
    return int(re.search(r"\d+", label)[0])


# --- the command ----------------------------------------------------------------------------------


def markdown(lines: Sequence[dict[str, Any]]) -> list[str]:
    """The table of the latest line of every row."""
    latest = {line["key"]: line for line in lines}
    order = {row.key: i for i, row in enumerate(ROWS)}
    rows = sorted(latest.values(), key=lambda line: order.get(line["key"], len(order)))
    table = [
        "# Occlusion",
        "",
        *(f"{text}  " for text in dict.fromkeys(line["machine"] for line in rows)),
        "",
        "Milliseconds a position (median of the rounds); ratios are medians of the rounds' "
        "ratios. *Ceiling*: multiply-adds of dense passes over those "
        "inside the rectangles; *reached*: the ratio to dense over the ceiling. *Sample*: the "
        "positions ours was timed on, out of the grid's. `benchmarks/occlusion.py` tells how all "
        "of it is measured.",
        "",
        "| net, size/stride | Captum | MONAI | dense | zfcuda | vs Captum | vs dense | ceiling | "
        "reached | sample | memory: Captum, zfcuda, MB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    table += [_markdown_row(line) for line in rows]
    table += ["", "Best settings of the peers:", ""]
    for line in rows:
        best = "; ".join(f"{name} {label}" for name, label in line["labels"].items())
        tried = ", ".join(map(str, line["batches"]))
        table.append(
            f"- {line['key']}: {best}, of batches {tried}; ours dense from "
            f"{line['dense_from'] or 'nowhere'}"
        )
    return table


def _markdown_row(line: dict[str, Any]) -> str:
    rounds = line["rounds"]

    def milliseconds(name: str) -> str:
        found = [times[name] for times in rounds if name in times]
        return f"{1e3 * statistics.median(found):.2f}" if found else "–"

    ratios = {name: median_ratio(rounds, name) for name in ("captum", "dense")}
    used = line.get("memory", {})
    memories = ", ".join(f"{used[who] / 2**20:.0f}" for who in ("captum", "ours") if who in used)
    cells = [
        line["key"],
        *(milliseconds(name) for name in ("captum", "monai", "dense", "ours")),
        *(f"{ratio:.1f}×" for ratio in ratios.values()),
        f"{line['ceiling']:.1f}",
        f"{ratios['dense'] / line['ceiling']:.0%}",
        f"{line['sample']} of {line['positions']}",
        memories or "–",
    ]
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    nets = list(dict.fromkeys(row.net for row in ROWS))
    parser.add_argument("--nets", nargs="+", choices=nets, default=nets, metavar="NET")
    parser.add_argument("--rows", nargs="+", metavar="SIZE/STRIDE", help="such as 16/4 only")
    parser.add_argument("--quick", action="store_true", help="one round, few positions and batches")
    parser.add_argument("--positions", type=int, help="of ours, at most")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--batches", type=int, nargs="+", help="of the peers (default: 1 ... 128)")
    parser.add_argument("--results", type=Path, default=RESULTS / "occlusion.jsonl")
    parser.add_argument("--write-table", action="store_true", help="measure nothing")
    parser.add_argument("--here", action="store_true", help="measure in this very process")
    parser.add_argument("--memory-of", nargs=3, metavar=("ROW", "WHO", "COUNT"))
    options = parser.parse_args(arguments)

    if options.memory_of:
        key, who, count = options.memory_of
        print(memory(next(row for row in ROWS if row.key == key), who, int(count)))
        return
    if options.write_table:
        table = "\n".join(markdown(read(options.results))) + "\n"
        options.results.with_suffix(".md").write_text(table)
        print(table, end="")
        return
    # Killed, it takes the process that measures along: run() ends its child on any exception.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("killed"))
    settings = Settings.quick() if options.quick else Settings()
    given = {
        "positions": options.positions,
        "rounds": options.rounds,
        "batches": tuple(options.batches or ()),
    }
    settings = replace(settings, **{name: value for name, value in given.items() if value})
    for net in options.nets:
        if not options.here:
            # A process each: what one network leaves behind is not the next one's burden.
            command = [
                sys.executable,
                __file__,
                *(sys.argv[1:] if arguments is None else arguments),
            ]
            done = subprocess.run([*command, "--here", "--nets", net], check=False)
            if done.returncode:
                print(f"{net}: not finished, exit status {done.returncode}", file=sys.stderr)
            continue
        rows = [row for row in ROWS if row.net == net]
        if options.rows:
            rows = [row for row in rows if f"{row.size}/{row.stride}" in options.rows]
        for line in measure(net, rows, settings):
            append(options.results, line)
            print(_markdown_row(line), flush=True)


if __name__ == "__main__":
    main()
