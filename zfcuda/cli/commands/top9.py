"""`zfcuda top9`: the strongest activations of each map over a data set, projected.

Finds, over a data set, the nine images that excite each map of a layer most (figure 2), projects
each of these activations back to the image, and shows it beside the image there.

examples:
  zfcuda top9
  zfcuda top9 --data imagenet/val --workers 8 --maps all --store imagenet-top9
  torchrun --nproc-per-node 4 -m zfcuda top9 --data imagenet/val --store imagenet-top9
  zfcuda top9 --layer relu2 --layer relu5 --maps 3,17,40
  zfcuda top9 --model squeezenet1_1 --data photos --layer features.4 --layer features.12 --maps 12
  zfcuda top9 --model torchvision:vgg16 --data imagenet/val --workers 8 --layer features.29
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

import zfcuda
from zfcuda.cli import arguments, inputs
from zfcuda.cli.command import Finding, one_result
from zfcuda.cli.terminal import resumable
from zfcuda.storage.files import short_spec
from zfcuda.storage.terminal import say, skipped

if TYPE_CHECKING:
    from zfcuda.cli.network import Network
    from zfcuda.results.stored import StoredActivations


_LONG = 5.0  # seconds; the rates of shorter passes say nothing


def store_activations(options: argparse.Namespace) -> None:
    """Do it, and say at rank 0 what is there and how fast it was."""
    from zfcuda.cli.network import Network
    from zfcuda.report.writing import Provenance
    from zfcuda.storage.ranks import current_shard

    network = Network.of(options)
    layers = arguments.mapped_layers(options, network)
    provenance = Provenance.of(options, network.facts(), layer=layers)
    options.workers = arguments.workers(options.workers, network.device)
    images, what = inputs.images_of(options, network)
    expects = dataclasses.asdict(network.preprocessing)  # for the page
    about = (network.model, images, layers, options.k, options.maps)
    how = {name: getattr(options, name) for name in ("batch", "workers", "every")}
    how["about"] = {"provenance": provenance.facts(), "images": what, "preprocessing": expects}
    how["progress"] = not options.quiet
    with resumable(), arguments.cores_shared_with(options.workers, network.device):
        stored = zfcuda.record_activations(options.store, *about, **how)
    if current_shard().first:
        _tell_stored(stored)


def _tell_stored(stored: StoredActivations) -> None:
    skipped([one["problem"] for one in stored.skipped], " (all are in manifest.json)")
    rates = stored.manifest["rates"]
    if rates and rates["seconds"] >= _LONG:
        own, bare = rates["images_per_second"], rates["forward_images_per_second"]
        say(f"{own:,.0f} images/s, processes: {rates['processes']}; the network alone, in one "
            f"process, {bare:,.0f} images/s")  # fmt: skip
    for about in stored.manifest["layers"]:
        say(f"{about['name']}: {about['maps']} maps, {about['projected']} projected, "
            f"{about['bytes_per_map'] / 1e6:.2f} MB each")  # fmt: skip
    say(stored.index, stored.folder / "manifest.json")


def add_options(parser: argparse.ArgumentParser) -> None:
    workers = "none; with --store a quarter of the cores, on a GPU all but one"
    arguments.data(parser, workers=workers)
    names = (*arguments.MODEL, *arguments.LAYERS, "maps", *arguments.OUTPUT)
    arguments.add(parser, *names, layer="layers (default: relu1 to relu5 of a ZF network)")
    parser.set_defaults(model="zfnet_small", maps=9)
    arguments.number(parser, "-k", 9, "activations of each map", metavar="K")
    parser.add_argument(
        "--store",
        metavar="DIR",
        help="instead of a figure, a folder with a file for each layer, a table (index.csv) and a "
        "manifest, for `zfcuda gallery`; a run that was interrupted goes on where it was; under "
        "torchrun, by several processes",
    )
    arguments.number(parser, "--batch", 64, "with --store, images at a time")
    words = "with --store, write down what is done after so many images, and each minute"
    arguments.number(parser, "--every", 10_000, words)


def run(options: argparse.Namespace) -> None:
    from zfcuda.cli.network import pick_device
    from zfcuda.storage.ranks import from_environment

    with from_environment(pick_device(options.device)) as shard:
        if shard.world > 1 and options.store is None:
            raise ValueError("several processes need --store DIR, a folder that all of them see")
        if options.store is not None:
            store_activations(options)
        else:
            one_result(options, f"top{options.k}", _look)


def _look(network: Network, options: argparse.Namespace) -> Finding:
    from zfcuda.cli.network import shown, silent_layers

    layers = arguments.mapped_layers(options, network)
    images, what = inputs.images_of(options, network)
    about = (network.model, images, layers, options.k, options.maps)
    result = zfcuda.top_activations(*about, progress=not options.quiet)
    skipped(images.skipped)
    figure = zfcuda.figures.top_activations(
        result,
        shown(result.projections, network.preprocessing.signal_to_display),
        shown(result.patches, network.display),
        title=f"{short_spec(network.spec)}: strongest activations",
    )
    text = (
        f"The {result.k} strongest activations of some maps of each layer over {what}, at "
        "most one of each image: projected to the image (left, grey where there is no "
        "signal), and the image there (right). The activations found in the pass and those that "
        f"were projected differ by at most {max(result.difference.values()):.1g} of the largest."
        + silent_layers(
            (result.values[layer][own], result.images[layer][own])
            for layer, own in result.channels.items()
        )
    )
    title, settings = "Strongest activations", {"layer": layers}
    return Finding(title, text, result, figure, "paper figure 2", settings=settings)
