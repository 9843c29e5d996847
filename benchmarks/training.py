"""A training step of the ZF networks, against the same network on torch's own ops.

    python benchmarks/training.py                 both networks, the real settings
    python benchmarks/training.py --quick         does it run? (the numbers mean nothing)
    python benchmarks/training.py --write-table   results/training.jsonl as Markdown

A step is forward, cross-entropy, backward and SGD with momentum; pictures are not made in it. torch
runs in either memory format and the faster one counts. Ours is the network as `zfcuda train` runs
it: pools that rectify in their own pass and keep one byte of switch an output, where torch keeps
the ReLU's output, eight bytes of index an output and the pool's input. Correctness comes first:
with dropout off, all must give the same loss and the same gradients.

What is kept between forward and backward is counted by autograd's own hooks, every storage once,
parameters and pictures left out; the peak is that of the process's resident memory.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import Contestant, added_memory, append, machine, median_ratio, read
from torch import Tensor, nn

from zfcuda.models import zfnet, zfnet_small

RESULTS = Path(__file__).parent / "results"
THREADS = 2
NETS: dict[str, tuple[int, int, int]] = {  # pixels, classes, batch
    "zfnet_small": (64, 10, 128),
    "zfnet": (224, 1000, 16),
}


def build(net: str, kind: str) -> nn.Module:
    """The network with the same weights whatever the `kind`: "ours" or a memory format."""
    torch.manual_seed(0)
    ours = kind == "ours"
    builder = zfnet if net == "zfnet" else zfnet_small
    model = builder(NETS[net][1], ops="zfcuda" if ours else "torch", fused=ours)
    contiguous = kind == "contiguous"
    return model.to(memory_format=torch.contiguous_format if contiguous else torch.channels_last)


class Step:
    """One network with its batch, ready to be stepped."""

    def __init__(self, net: str, kind: str) -> None:
        pixels, classes, batch = NETS[net]
        self.model = build(net, kind)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 1e-4, 0.9)
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(batch, 3, pixels, pixels, generator=generator)
        self.y = torch.randint(classes, (batch,), generator=generator)
        contiguous = kind == "contiguous"
        self.x = x if contiguous else x.to(memory_format=torch.channels_last)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()

    def loss(self) -> Tensor:
        return nn.functional.cross_entropy(self.model(self.x), self.y)

    def gradients(self) -> Tensor:
        """The loss and all gradients in one vector, float64, dropout off."""
        self.model.eval().double()
        before, self.x = self.x, self.x.double()
        loss = self.loss()
        found = torch.autograd.grad(loss, list(self.model.parameters()))
        self.model.train().float()
        self.x = before
        return torch.cat([loss.view(1).detach(), *(g.reshape(-1) for g in found)])

    def kept(self) -> int:
        """Bytes held between forward and backward."""
        given = [*self.model.parameters(), self.x, self.y]
        own = {t.untyped_storage().data_ptr() for t in given}
        held: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                held[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = self.loss()
        del loss
        return sum(held.values())


def check(steps: dict[str, Step]) -> float:
    """Raise unless all give the same loss and gradients; how far apart ours is from torch's."""
    truth = steps["contiguous"].gradients()
    for kind in ("ours", "channels_last"):
        distance = float((steps[kind].gradients() - truth).norm() / truth.norm())
        if not distance <= 1e-9:
            raise AssertionError(f"{kind}: loss and gradients are {distance:.1e} away from torch's")
        if kind == "ours":
            found = distance
    return found


def measure(net: str, quick: bool) -> dict[str, Any]:
    """A line of the results."""
    torch.set_num_threads(THREADS)
    steps = {kind: Step(net, kind) for kind in ("ours", "contiguous", "channels_last")}
    distance = check(steps)
    repeats, count = (1, 1) if quick else (7, 5)
    contestants = {
        kind: Contestant(kind, partial(_several, step, count), count)
        for kind, step in steps.items()
    }
    for contestant in contestants.values():
        contestant.seconds()  # warm-up
    rounds = [
        {kind: each.seconds() / each.count for kind, each in contestants.items()}
        for _ in range(repeats)
    ]
    for times in rounds:
        times["torch"] = min(times["contiguous"], times["channels_last"])
    pixels, _, batch = NETS[net]
    return {
        "key": net,
        **machine(),
        "batch": batch,
        "pixels": pixels,
        "distance": distance,
        "rounds": rounds,
        "kept": {kind: step.kept() for kind, step in steps.items()},
        "peak": {kind: added_memory(step) for kind, step in steps.items()},
    }


def _several(step: Callable[[], None], count: int) -> None:
    for _ in range(count):
        step()


def markdown(lines: Sequence[dict[str, Any]]) -> list[str]:
    """The table of the latest line of every network."""
    latest = {line["key"]: line for line in lines}
    rows = [latest[net] for net in NETS if net in latest]
    return [
        "# Training",
        "",
        *(f"{text}  " for text in dict.fromkeys(line["machine"] for line in rows)),
        "",
        "Milliseconds a step (median of the rounds); the ratio is the median of the rounds' ratios "
        "to the faster of torch's two memory formats. Kept is what lies between forward and "
        "backward, in MB: ours against torch's faster format. `benchmarks/training.py` tells how "
        "all of it is measured.",
        "",
        "| network | batch | torch, contiguous | torch, channels_last | zfcuda | ratio "
        "| images/s | kept, torch | kept, zfcuda | peak, torch | peak, zfcuda |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        *map(_markdown_row, rows),
    ]


def _markdown_row(line: dict[str, Any]) -> str:
    rounds = line["rounds"]
    medians = {kind: statistics.median(times[kind] for times in rounds) for kind in rounds[0]}
    times = " | ".join(
        f"{1e3 * medians[kind]:.0f}" for kind in ("contiguous", "channels_last", "ours")
    )
    faster = min(("contiguous", "channels_last"), key=medians.__getitem__)
    memory = " | ".join(
        f"{line[what][kind] / 1e6:.0f}" for what in ("kept", "peak") for kind in (faster, "ours")
    )
    return (
        f"| {line['key']}, {line['pixels']} px | {line['batch']} | {times} | "
        f"{median_ratio(rounds, 'torch'):.2f}× | {line['batch'] / medians['ours']:.0f} | "
        f"{memory} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", nargs="+", choices=NETS, default=[*NETS], metavar="NET")
    parser.add_argument("--quick", action="store_true", help="one round of one step")
    parser.add_argument("--results", type=Path, default=RESULTS / "training.jsonl")
    parser.add_argument("--write-table", action="store_true", help="measure nothing")
    options = parser.parse_args()
    if options.write_table:
        table = "\n".join(markdown(read(options.results))) + "\n"
        options.results.with_suffix(".md").write_text(table)
        print(table, end="")
        return
    for net in options.nets:
        line = measure(net, options.quick)
        append(options.results, line)
        print(_markdown_row(line), flush=True)


if __name__ == "__main__":
    main()
