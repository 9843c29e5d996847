"""`zfcuda top9`: what excites the maps of each layer most."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from zfcuda.commands import _data, _images, _maps, _options, _store
from zfcuda.commands._grids import grid_title, shown_pictures, shown_signals, silent_layers

if TYPE_CHECKING:
    from zfcuda._network import Network
    from zfcuda.report.writing import Provenance

HELP = "the strongest activations of each map over a data set, projected"
DESCRIPTION = (
    "Finds, over a data set, the nine images that excite each map of a layer most (figure 2), "
    "projects each of these activations back to the image, and shows it beside the image there."
)
EXAMPLES = """examples:
  zfcuda top9
  zfcuda top9 --data imagenet/val --workers 8 --maps all --store imagenet-top9
  torchrun --nproc-per-node 4 -m zfcuda top9 --data imagenet/val --store imagenet-top9
  zfcuda top9 --layer relu2 --layer relu5 --maps 3,17,40
  zfcuda top9 --model squeezenet1_1 --data photos --layer features.4 --layer features.12 --maps 12
  zfcuda top9 --model torchvision:vgg16 --data imagenet/val --workers 8 --layer features.29"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which images, layers and maps."""
    _options.model(parser, "zfnet_small")
    _data.source_options(parser, "none; with --store a quarter of the cores, on a GPU all but one")
    _options.layers(parser, "layers (default: relu1 to relu5 of a ZF network)")
    _maps.maps(parser, 9)
    parser.add_argument(
        "-k", type=int, default=9, metavar="K", help="activations of each map (default: 9)"
    )
    _store.store_options(parser)
    _options.output(parser)


def run(options: argparse.Namespace) -> None:
    """One figure, a part for each layer; with --store, a folder of results."""
    from zfcuda._network import pick_device
    from zfcuda.storage.ranks import from_environment

    with from_environment(pick_device(options.device)) as shard:
        if shard.world > 1 and options.store is None:
            raise ValueError("several processes need --store DIR, a folder that all of them see")
        _run(options)


def _run(options: argparse.Namespace) -> None:
    from zfcuda._network import Network
    from zfcuda.report.writing import Provenance

    network = Network.of(options)
    if options.list_layers:
        _images.list_layers(network)
        return
    layers = _maps.mapped_layers(options, network)
    provenance = Provenance.of(options, network.facts(), layer=layers)
    if options.store is not None:
        _store.store_activations(options, network, layers, provenance)
    else:
        _draw(options, network, layers, provenance)


def _draw(
    options: argparse.Namespace, network: Network, layers: list[str], provenance: Provenance
) -> None:
    import zfcuda
    from zfcuda import figures
    from zfcuda.report.writing import announce, place, writable_folder, write

    folder = writable_folder(options.out)
    images = _data.images_of(options, network)
    result = zfcuda.top_activations(
        network.model,
        images.source,
        layers,
        options.k,
        options.maps,
        progress=not options.quiet,
    )
    images.report()
    figure = figures.top_activations(
        result,
        shown_signals(network, result.projections),
        shown_pictures(network, result.patches),
        title=f"{grid_title(network.spec)}: strongest activations",
    )
    text = (
        f"The {result.k} strongest activations of some maps of each layer over {images.text}, at "
        "most one of each image: projected to the image (left, grey where there is no "
        "signal), and the image there (right). The activations found in the pass and those that "
        f"were projected differ by at most {max(result.difference.values()):.1g} of the largest."
        + silent_layers(
            [
                (result.values[layer][own], result.images[layer][own])
                for layer, own in result.channels.items()
            ]
        )
    )
    stem = place(folder / f"top{options.k}", provenance)
    announce(
        write("Strongest activations", text, result, figure, stem, provenance, "paper figure 2")
    )
