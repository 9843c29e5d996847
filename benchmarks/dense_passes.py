"""Whole passes of a network: experiments that make them, against the network alone on ready images.

    python benchmarks/dense_passes.py                    four networks, every experiment
    python benchmarks/dense_passes.py squeezenet1_1      one of them
    python benchmarks/dense_passes.py --quick            does it run? (the numbers mean nothing)
    python benchmarks/dense_passes.py --write-table      results/dense_passes.jsonl as Markdown

The network alone is a loop of ``model(batch)`` under ``torch.inference_mode()`` over 72 moved
images that are made before the clock starts, in contiguous memory and in channels_last, at every
batch size of ``BATCHES``: the two fastest of one run each then take turns with the experiments. An
experiment makes its images itself; the unchanged one, which it passes too, counts as one of them.
Threads are torch's own number of them.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from measuring import Contestant, append, finalists, machine, read
from networks import build, image_size
from torch import Tensor, nn

import zfcuda

RESULTS = Path(__file__).parent / "results" / "dense_passes.jsonl"
NETWORKS = ("squeezenet1_1", "zfnet", "resnet18", "own_vgg16")
BATCHES = (1, 2, 4, 8, 16, 32, 72)
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
TURNS, SIDE = 72, 9  # images, and positions of the occluder a row


def alone(model: nn.Module, images: Tensor) -> Iterator[Contestant]:
    """The network on ready images [n,C,H,W], in every batch size and memory format."""

    def looped(images: Tensor, batch: int) -> Callable[[], None]:
        @torch.inference_mode()
        def run() -> None:
            for some in images.split(batch):
                model(some)

        return run

    for name, layout in LAYOUTS.items():
        ready = images.contiguous(memory_format=layout)
        for batch in dict.fromkeys(min(batch, len(images)) for batch in BATCHES):
            yield Contestant(f"batch {batch}, {name}", looped(ready, batch), len(images))


def experiments(model: nn.Module, x: Tensor, images: Tensor) -> Iterator[Contestant]:
    """What is timed, on one image ``x`` or on ready ``images``; as many as they make count."""
    count, side = len(images), x.shape[2]
    angles = torch.arange(count) * 5.0
    shifts, factors = torch.arange(-60, 61, 5) * side / 224, torch.linspace(1, 1.8, 17)
    if count < TURNS:
        shifts, factors = shifts[:count], factors[:count]
    values = {"vertical translation": shifts, "horizontal translation": shifts}
    values |= {"scale": factors, "rotation": angles}
    corners = torch.linspace(0, side - 32, SIDE).long().tolist()
    boxes = torch.tensor([(y, x, y + 32, x + 32) for y in corners for x in corners])[:count]

    def study() -> None:
        zfcuda.invariance_study(model, x, [], transformations=values)

    def occlusion() -> None:
        zfcuda.occlusion(model, x, positions=boxes, method="dense")

    passed = sum(map(len, values.values())) + 1
    yield Contestant("rotation", lambda: zfcuda.rotation(model, x, angles), count + 1)
    yield Contestant("translation", lambda: zfcuda.translation(model, x, shifts), len(shifts) + 1)
    yield Contestant("scaling", lambda: zfcuda.scaling(model, x, factors), len(factors) + 1)
    yield Contestant("invariance_study", study, passed)
    yield Contestant("predict", lambda: zfcuda.predict(model, images), count)
    yield Contestant("occlusion, dense", occlusion, len(boxes) + 1)


def contest(name: str, count: int, rounds: int) -> dict[str, Any]:
    """One network: seconds an image of every experiment, and of the network alone, by round."""
    size = image_size(name)
    torch.manual_seed(0)
    own, peer = build(name, torch.randn(2, 3, size, size))
    x = torch.randn(1, 3, size, size)
    matrices = torch.stack([torch.eye(2, 3, dtype=torch.float64)] * count)
    matrices[:, 0, 2] = torch.linspace(-20, 20, count, dtype=torch.float64)
    images = zfcuda.ops.warp_affine(x, matrices)[0].contiguous()
    ours = [*experiments(own, x, images)]
    for each in ours:
        each.run()
    best = finalists([*alone(peer, images)])
    times: dict[str, list[float]] = {each.label: [] for each in (*best, *ours)}
    for _ in range(rounds):
        for each in (*best, *ours):
            times[each.label].append(each.seconds() / each.count)
    labels = [each.label for each in best]
    floor = [min(times[label][turn] for label in labels) for turn in range(rounds)]
    fastest = min(labels, key=lambda label: statistics.median(times[label]))
    rows = {
        each.label: {
            "count": each.count,
            "seconds": statistics.median(times[each.label]),
            "ratio": statistics.median(
                spent / alone for spent, alone in zip(times[each.label], floor, strict=True)
            ),
        }
        for each in ours
    }
    return {"net": name, "alone": statistics.median(floor), "batch": fastest, "rows": rows}


def table(lines: list[dict[str, Any]]) -> str:
    found = {line["net"]: line for line in lines if "net" in line}
    head = next(line["machine"] for line in lines if "machine" in line)
    rows = [
        f"| {net} | {name} | {row['count']} | {1e3 * row['seconds']:.2f} | "
        f"{1e3 * line['alone']:.2f} | {row['ratio']:.2f}× | {line['batch']} |"
        for net, line in found.items()
        for name, row in line["rows"].items()
    ]
    return "\n".join(
        [
            f"# Whole passes\n\n{head}\n",
            "Milliseconds an image (medians of the rounds) of experiments that pass changed images "
            "through the whole network, of the network alone on ready images in its best batch "
            "and memory format, and the median of the rounds' ratios. `benchmarks/dense_passes.py` "
            "tells how all of it is measured.\n",
            "| net | experiment | images | zfcuda | network alone | ratio | alone in |",
            "|---|---|---:|---:|---:|---:|---|",
            *rows,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NETWORK")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=TURNS, help="fewer, for slow networks")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write-table", action="store_true")
    options = parser.parse_args()
    if options.quick:
        print(table([machine(), contest("zfnet_small", 3, 1)]))
        return
    for name in () if options.write_table else options.networks:
        append(RESULTS, machine() | contest(name, options.images, options.rounds))
    text = table(read(RESULTS))
    RESULTS.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
