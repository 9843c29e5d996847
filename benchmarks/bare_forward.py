"""Images a second of a network alone, on the first images of a data set, which are at hand.

    python benchmarks/bare_forward.py --seconds 5 --data FOLDER [--part all]

What a pass over the data set is measured against: two lines, the rate with images in contiguous
memory and in channels_last. Threads are those of OMP_NUM_THREADS.
"""

from __future__ import annotations

import argparse
import time

import torch

from zfcuda.cli import arguments, inputs
from zfcuda.cli.network import Network
from zfcuda.inference.checks import evaluating


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add(parser, *arguments.MODEL)
    arguments.data(parser)
    parser.add_argument("--device", default="cpu")
    parser.set_defaults(model="zfnet_small")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    network = Network.of(options)
    source, _ = inputs.images_of(options, network)
    images = source.block(range(min(options.batch, source.total))).images.to(network.device)
    for layout in (torch.contiguous_format, torch.channels_last):
        print(_rate(network.model, images.contiguous(memory_format=layout), options.seconds))


@torch.inference_mode()
def _rate(model: torch.nn.Module, images: torch.Tensor, seconds: float) -> float:
    with evaluating(model):
        model(images)
        done, began = 0, time.perf_counter()
        while (spent := time.perf_counter() - began) < seconds:
            model(images)
            if images.is_cuda:
                torch.cuda.synchronize()
            done += len(images)
    return done / spent


if __name__ == "__main__":
    main()
