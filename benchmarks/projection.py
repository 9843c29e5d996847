"""Projections of 64 units a layer of ZFNet, against Captum's NeuronDeconvolution.

    python benchmarks/projection.py                 every layer, the real settings
    python benchmarks/projection.py --quick         does it run? (the numbers mean nothing)
    python benchmarks/projection.py --write-table   results/projection.jsonl as Markdown

Timed from the image to full-size pictures, forward pass included, on the same units: the strongest
one of each of 64 maps. Captum is looped over the units or given the image many times over with one
unit each, whichever is faster. Correctness comes first, by Captum's rules (seed 1, gradient of the
contrast normalisation): there both must draw the same pictures.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import (
    Contestant,
    append,
    finalists,
    machine,
    median_ratio,
    read,
)
from networks import build
from torch import Tensor, nn

import zfcuda
from zfcuda.inference.layers import outputs_by_call

RESULTS = Path(__file__).parent / "results"
THREADS = 2
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5")

Unit = tuple[int, int, int]  # channel, row, column


def strongest_units(model: nn.Module, x: Tensor, layer: str, count: int) -> list[Unit]:
    """The strongest unit of each of the first ``count`` maps of a layer."""
    maps = outputs_by_call(model, x, [layer], lambda _, output: output.clone())[layer]
    width = maps.shape[-1]
    places = maps[0, :count].flatten(1).argmax(1).tolist()
    return [(channel, place // width, place % width) for channel, place in enumerate(places)]


def captum_looped(model: nn.Module, x: Tensor, layer: str, units: Sequence[Unit]) -> Tensor:
    """One call a unit."""
    from captum.attr import NeuronDeconvolution

    tool = NeuronDeconvolution(model, model.get_submodule(layer))
    return torch.cat([tool.attribute(x, unit) for unit in units])


def captum_batched(
    model: nn.Module, x: Tensor, layer: str, units: Sequence[Unit], batch: int
) -> Tensor:
    """The image repeated, one unit for each copy."""
    from captum.attr import NeuronDeconvolution

    tool = NeuronDeconvolution(model, model.get_submodule(layer))
    pictures = []
    for start in range(0, len(units), batch):
        part = torch.tensor(units[start : start + batch])
        at = (torch.arange(len(part)), *part.unbind(1))
        copies = x.repeat(len(part), 1, 1, 1)
        pictures.append(tool.attribute(copies, lambda out, at=at: out[at]))
    return torch.cat(pictures)


def ours(model: nn.Module, x: Tensor, layer: str, units: Sequence[Unit], **rules: Any) -> Tensor:
    """Full-size pictures [units,3,224,224]."""
    projected = zfcuda.project(model, x, layer, units=list(units), **rules)
    return projected.full().reshape(len(units), *x.shape[1:])


def check(own: nn.Module, peers: nn.Module, x: Tensor, layer: str, units: Sequence[Unit]) -> float:
    """Raise unless both draw the same pictures of a few units, by Captum's rules in float64."""
    own, peers, x = own.double(), peers.double(), x.double()
    some = units[:4]
    theirs = captum_looped(peers, x, layer, some)
    mine = ours(own, x, layer, some, seed=1.0, norm="gradient")
    own.float(), peers.float()
    distance = float((mine - theirs).norm() / theirs.norm())
    if not distance <= 1e-9:
        raise AssertionError(f"{layer}: our pictures are {distance:.1e} away from Captum's")
    return distance


def measure(net: str, layers: Sequence[str], quick: bool) -> Iterator[dict[str, Any]]:
    """A line of the results for each layer."""
    torch.set_num_threads(THREADS)
    warnings.filterwarnings("ignore", "Setting backward hooks|Input Tensor 0 did not already")
    torch.manual_seed(0)
    x = torch.randn(1, 3, 224, 224)
    own, peers = build(net, x)
    count = 8 if quick else 64
    for layer in layers:
        units = strongest_units(peers, x, layer, count)
        distance = check(own, peers, x, layer, units)
        mine = Contestant("", lambda layer=layer, units=units: ours(own, x, layer, units), count)
        mine.seconds()  # warm-up
        theirs = finalists(_captums(peers, x, layer, units))
        rounds, winners = [], []
        for _ in range(1 if quick else 5):
            # Ours takes so little time that one run is no measurement.
            times = {"ours": min(mine.seconds() for _ in range(3)) / count}
            found = {peer.label: peer.seconds() / peer.count for peer in theirs}
            winners.append(min(found, key=found.__getitem__))
            rounds.append({**times, "captum": min(found.values())})
        yield {
            "key": f"{net} {layer}",
            **machine(),
            "units": count,
            "distance": distance,
            "label": statistics.mode(winners),
            "rounds": rounds,
        }


def _captums(model: nn.Module, x: Tensor, layer: str, units: Sequence[Unit]) -> list[Contestant]:
    """Captum in every way."""
    some = units[:16]  # looped, a unit costs the same however many follow
    looped = Contestant("looped", lambda: captum_looped(model, x, layer, some), len(some))
    return [
        looped,
        *(
            Contestant(
                f"batch {batch}",
                lambda batch=batch: captum_batched(model, x, layer, units, batch),
                len(units),
            )
            for batch in (4, 16, 64)
            if batch <= len(units)
        ),
    ]


def markdown(lines: Sequence[dict[str, Any]]) -> list[str]:
    """The table of the latest line of every row."""
    latest = {line["key"]: line for line in lines}
    rows = [latest[key] for key in sorted(latest)]
    return [
        "# Projection",
        "",
        *(f"{text}  " for text in dict.fromkeys(line["machine"] for line in rows)),
        "",
        "From an image to full-size pictures of 64 units of a layer, forward pass included, in "
        "milliseconds a unit (median of the rounds); the ratio is the median of the rounds' "
        "ratios. `benchmarks/projection.py` tells how all of it is measured.",
        "",
        "| net, layer | Captum | zfcuda | ratio | Captum's best way |",
        "|---|---:|---:|---:|---|",
        *map(_markdown_row, rows),
    ]


def _markdown_row(line: dict[str, Any]) -> str:
    rounds = line["rounds"]
    captum, own = (1e3 * statistics.median(t[name] for t in rounds) for name in ("captum", "ours"))
    return (
        f"| {line['key']} | {captum:.2f} | {own:.3f} | {median_ratio(rounds, 'captum'):.1f}× | "
        f"{line['label']} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", nargs="+", choices=["zfnet", "zfnet_lrn"], metavar="NET")
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=[*LAYERS], metavar="LAYER")
    parser.add_argument("--quick", action="store_true", help="one round, few units")
    parser.add_argument("--results", type=Path, default=RESULTS / "projection.jsonl")
    parser.add_argument("--write-table", action="store_true", help="measure nothing")
    options = parser.parse_args()
    if options.write_table:
        table = "\n".join(markdown(read(options.results))) + "\n"
        options.results.with_suffix(".md").write_text(table)
        print(table, end="")
        return
    for net in options.nets or ["zfnet", "zfnet_lrn"]:
        for line in measure(net, options.layers, options.quick):
            append(options.results, line)
            print(_markdown_row(line), flush=True)


if __name__ == "__main__":
    main()
