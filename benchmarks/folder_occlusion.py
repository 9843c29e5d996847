"""Occlusion of a folder of images, against the single-image call in a loop.

    python benchmarks/folder_occlusion.py            all cases
    python benchmarks/folder_occlusion.py --quick    does it run? (the numbers mean nothing)

Both write a result an image, with the target's logits only. The loop is what `zfcuda occlude
--image A B C ...` does without its pictures: trace, plan, base pass and positions of each image by
itself. Correctness comes first: both must give the same logits. The times of a round are taken one
after the other; the ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from measuring import Contestant, machine, median_ratio
from torch import Tensor, nn

import zfcuda
from zfcuda.models import zfnet_small

THREADS = 2
# network, pixels, images, occluder, stride
CASES = (
    ("zfnet_small", 64, 48, 16, 16),
    ("zfnet_small", 64, 24, 16, 4),
    ("squeezenet1_1", 224, 6, 50, 25),
    ("squeezenet1_1", 224, 4, 50, 8),
)


def build(name: str) -> nn.Module:
    if name == "zfnet_small":
        torch.manual_seed(0)
        return zfnet_small(10).eval()
    return zfcuda.models.load(name)


class Folder:
    """One case: the same images by either way, each time into an empty folder."""

    def __init__(self, model: nn.Module, x: Tensor, size: int, stride: int, where: Path) -> None:
        self.model, self.x, self.where = model, x, where
        self.settings = {"size": size, "stride": stride, "classes": ()}
        self._numbers = itertools.count()

    def over(self) -> Path:
        folder = self.where / str(next(self._numbers))
        zfcuda.occlusion_over(self.model, self.x, folder, **self.settings)
        return folder

    def loop(self) -> Path:
        folder = self.where / str(next(self._numbers))
        for number in range(len(self.x)):
            result = zfcuda.occlusion(self.model, self.x[number : number + 1], **self.settings)
            result.save(folder / str(number))
        return folder

    def check(self) -> None:
        """Both must say the same."""
        over, loop = self.over(), self.loop()
        load = zfcuda.OcclusionResult.load
        for number in range(len(self.x)):
            path = over / "images" / "0000" / f"{number:07d}-image-{number}"
            first, second = load(path).logits, load(loop / str(number)).logits
            torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)


def measure(case: tuple[str, int, int, int, int], rounds: int, quick: bool) -> str:
    """A row of the table."""
    name, side, count, size, stride = case
    count = 2 if quick else count
    x = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))
    with tempfile.TemporaryDirectory() as where:
        folder = Folder(build(name), x, size, stride, Path(where))
        folder.check()
        ways = {
            "ours": Contestant("occlusion_over", folder.over, count),
            "loop": Contestant("loop", folder.loop, count),
        }
        times = [{key: way.seconds() for key, way in ways.items()} for _ in range(rounds)]
    positions = zfcuda.plan(build(name), x[:1], size, stride).positions
    ours, loop = (statistics.median(one[key] for one in times) for key in ("ours", "loop"))
    return (
        f"| {name}, {side} px | {count} x {positions} | {count / ours:.2f} | {count / loop:.2f} | "
        f"{median_ratio(times, 'loop'):.2f} |"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Occlusion of a folder against a loop.")
    parser.add_argument("--quick", action="store_true", help="two images, one round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    torch.set_num_threads(THREADS)
    print(machine()["machine"], flush=True)
    print("| network | images x positions | images/s | in a loop | times faster |")
    print("|---|---|---|---|---|", flush=True)
    for case in CASES:
        print(measure(case, 1 if options.quick else options.rounds, options.quick), flush=True)


if __name__ == "__main__":
    main()
