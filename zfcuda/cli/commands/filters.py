"""`zfcuda filters`: first-layer filters of two networks: dead ones, aliasing.

Shows the filters of the first layer on one scale, without clipping, and what maps of the first two
layers respond to (figure 6); counts dead filters and measures how much of them aliases at the
layer's stride. --against puts a second network beside the first, --train two that are trained alike
for it: 7×7 at stride 2, and 11×11 at stride 4.

examples:
  zfcuda filters
  zfcuda filters --model squeezenet1_1 --data photos
  zfcuda filters --model torchvision:alexnet --against torchvision:vgg16 --data photos
  zfcuda filters --train --epochs 3 --out filters
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import zfcuda
from zfcuda.cli import arguments, inputs
from zfcuda.cli.command import Finding, one_result
from zfcuda.storage.files import short_spec
from zfcuda.storage.terminal import skipped

if TYPE_CHECKING:
    from torch import nn

    from zfcuda.cli.network import Network
    from zfcuda.results.filters import FilterComparison


def add_options(parser: argparse.ArgumentParser) -> None:
    arguments.add(parser, *arguments.MODEL)
    parser.add_argument("--against", metavar="SPEC", help="a second model, as --model")
    arguments.data(parser)
    words = "filters below this share of the largest (RMS) are dead"
    arguments.number(parser, "--threshold", 0.05, words, "SHARE")
    parser.add_argument(
        "--train", action="store_true", help="train zfnet_small and a coarser twin on --data first"
    )
    arguments.number(parser, "--epochs", 3, "of --train")
    arguments.add(parser, "maps", "seed", *arguments.OUTPUT)
    parser.set_defaults(model="zfnet_small", maps=48, load=_network)


def run(options: argparse.Namespace) -> None:
    one_result(options, "filters", _look)


def _network(options: argparse.Namespace) -> Network | None:
    from zfcuda.cli.network import Network

    return None if options.train else Network.of(options)


def _look(network: Network | None, options: argparse.Namespace) -> Finding:
    from zfcuda.cli.network import shown

    networks = _named(network, options) if network else _trained(options, Path(options.out))
    images = {name: inputs.images_of(options, own)[0] for name, own in networks.items()}
    models = {name: own.model for name, own in networks.items()}
    settings = {"maps": options.maps, "threshold": options.threshold}
    settings["progress"] = not options.quiet
    result = zfcuda.compare_filters(models, images, **settings)
    skipped(next(iter(images.values())).skipped)
    filters, projections = [], []
    for own, found, top in zip(networks.values(), result.filters, result.tops, strict=True):
        bgr = own.preprocessing.channels == "bgr"
        filters.append(found.filters.flip(1) if bgr else found.filters)
        projections.append(shown(top.projections, own.preprocessing.signal_to_display))
    title = "First layers" + (f" after {options.epochs} epochs" if options.train else "")
    figure = zfcuda.figures.first_layers(result, filters, projections, title)
    text = _findings(result)
    if options.train:
        text = (
            f"Both networks were trained alike on the training part for {options.epochs} epochs "
            f"(seed {options.seed}). {text}"
        )
    settings = {"networks": {name: own.weights_digest for name, own in networks.items()}}
    return Finding("First layers", text, result, figure, "paper figure 6", settings=settings)


def _named(network: Network, options: argparse.Namespace) -> dict[str, Network]:
    """The network and that of --against, by names that tell them apart."""
    from zfcuda.cli.network import Network

    both = [network]
    if options.against:
        both.append(Network.load(options.against, options.device))
    names = [short_spec(own.spec) for own in both]
    if len({*names}) < len(names):  # files of one name in two folders
        names = [own.spec for own in both]
    if len({*names}) < len(names):
        raise ValueError(f"--against {options.against}: it is the network of --model")
    return dict(zip(names, both, strict=True))


def _findings(result: FilterComparison) -> str:
    sentences = []
    for name, own in zip(result.names, result.filters, strict=True):
        height, width = own.filters.shape[2:]
        sentences.append(
            f"{name}: of {len(own.filters)} filters {height}×{width} at stride {own.stride[0]}, "
            f"{int(own.weak.sum())} are below {own.threshold:.0%} of the largest and "
            f"{int(own.silent.sum())} never active on {own.count:,} images; "
            f"{own.aliasing_of_all:.1%} of the filters' energy lies above the Nyquist frequency of "
            f"the stride (white noise: {own.aliasing_of_noise:.1%}), of the responses' variance "
            f"{float(own.response_aliasing.nanquantile(0.5)):.1%} (median)."
        )
    return " ".join(sentences)


# --- two that are trained alike -------------------------------------------------------------------


def _trained(options: argparse.Namespace, folder: Path) -> dict[str, Network]:
    import torch

    from zfcuda import models, training
    from zfcuda.cli.network import Network, pick_device
    from zfcuda.cli.terminal import resumable
    from zfcuda.data.examples import Part
    from zfcuda.data.folder import split

    if options.against or options.weights:
        raise ValueError("--train makes both networks; leave --against and --weights out")
    recipe = training.Recipe(epochs=options.epochs, seed=options.seed)
    device = pick_device(options.device)
    preprocessing = models.preprocessing("zfnet_small?weights=none")
    by_class = all(map(training.draws_by_class, (folder / "coarse", folder / "fine")))
    data = split(preprocessing, options.data, seed=options.seed, by_class=by_class)
    if options.limit is not None:
        if options.limit < 1:
            raise ValueError(f"--limit {options.limit}: expected at least 1")
        kept = torch.arange(min(options.limit, len(data.training)))
        data = replace(data, training=Part(data.training, kept))
    names = data.training.class_names
    networks = {}
    for name, stem in (("11×11, stride 4", "coarse"), ("7×7, stride 2", "fine")):
        model = _fresh(len(names), options.seed, stem == "coarse").to(device)
        training.check_budget(folder / stem, recipe)
        with resumable():
            training.train(model, data, folder / stem, recipe, stem, not options.quiet)
        networks[name] = Network(name, model.eval(), preprocessing, names, device)
    return networks


def _fresh(classes: int, seed: int, coarse: bool) -> nn.Module:
    """zfnet_small; or with AlexNet's first layer, 11×11 at stride 4, whose maps are as large as
    zfnet_small's after pool1: pool1 then keeps their size, and all behind it is the same."""
    from torch import nn

    import zfcuda.nn
    from zfcuda import models
    from zfcuda.storage.identity import seeded

    with seeded(seed):
        model = models.zfnet_small(classes)
        if coarse:
            fine = model.conv1
            model.conv1 = nn.Conv2d(3, fine.out_channels, 11, stride=4, padding=2)
            # So many more weights, so much smaller: responses begin as large as the finer ones'.
            share = fine.weight[0].numel() / model.conv1.weight[0].numel()
            nn.init.normal_(model.conv1.weight, std=float(fine.weight.detach().std()) * share**0.5)
            nn.init.zeros_(model.conv1.bias)
            model.pool1 = zfcuda.nn.MaxPool2d(3, stride=1, padding=1)
    return model
