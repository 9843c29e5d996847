"""`zfcuda evolve`: how features come to be during training.

Follows some maps of each layer through the checkpoints of a training (figure 4): at each, the
strongest activation over a data set, projected back to the image. By default the checkpoints of
zfnet_small that come with zfcuda.

examples:
  zfcuda evolve
  zfcuda evolve --checkpoints zfcuda-train --layer relu2 --layer relu5 --maps 8
  zfcuda evolve --model torchvision:resnet18 --checkpoints e1.pt e5.pt e20.pt --data photos \\
      --layer layer1 --layer layer3
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import zfcuda
from zfcuda.cli import arguments, inputs
from zfcuda.cli.command import Finding, one_result
from zfcuda.storage.files import short_spec
from zfcuda.storage.terminal import skipped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from zfcuda.cli.network import Network

_MODEL = "zfnet_small"
PAPERS = (1, 2, 5, 10, 20, 30, 40, 64)  # epochs


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoints",
        nargs="+",
        metavar="DIR|FILE",
        help="folder of a `zfcuda train`, of which the paper's epochs are taken, or weights files "
        "in the order of training (default: those that come with zfcuda); what `zfcuda train` "
        "wrote says what network it is",
    )
    arguments.data(parser)
    names = (*arguments.MODEL, *arguments.LAYERS, "maps", *arguments.OUTPUT)
    arguments.add(parser, *names, layer="layers (default: relu1 to relu5 of a ZF network)")
    parser.set_defaults(model=_MODEL, maps=6, load=_network)


def run(options: argparse.Namespace) -> None:
    one_result(options, "evolution", _look)


def _look(network: Network, options: argparse.Namespace) -> Finding:
    from zfcuda.cli.network import shown, silent_layers

    layers = arguments.mapped_layers(options, network)
    checkpoints, model = _checkpoints(options, network)
    images, what = inputs.images_of(options, network)
    settings = {"model": model, "maps": options.maps, "progress": not options.quiet}
    result = zfcuda.evolution(checkpoints, images, layers, **settings)
    skipped(images.skipped)
    figure = zfcuda.figures.feature_evolution(
        result,
        shown(result.projections, network.preprocessing.signal_to_display),
        shown(result.patches, network.display),
        title=f"{_name(options, network)}: features during training",
    )
    text = (
        f"Some maps of each layer at the checkpoints {', '.join(checkpoints)}: the strongest "
        f"activation over {what}, projected. Jumps come from another image "
        "becoming the strongest, where there is a dot."
        + silent_layers((result.values[name].T, result.images[name].T) for name in result.layers)
    )
    title, settings = "Features during training", {"layer": layers, "checkpoints": [*checkpoints]}
    return Finding(title, text, result, figure, "paper figure 4", settings=settings)


def _name(options: argparse.Namespace, network: Network) -> str:
    """Of the training: its folder's, or the model's."""
    if options.checkpoints and (first := Path(options.checkpoints[0])).is_dir():
        return first.resolve().name
    return short_spec(network.spec)


def _network(options: argparse.Namespace) -> Network:
    """The network of the options; where they name none, the one that the last checkpoint says it
    is, with as many classes as that has."""
    from zfcuda.cli.network import Network
    from zfcuda.models.specs import MODELS
    from zfcuda.models.weights import Metadata

    if options.checkpoints and not options.weights and options.model == _MODEL:
        last = [*_named(options.checkpoints).values()][-1]
        if Metadata.read(last).model in MODELS:
            return Network.load(str(last), options.device, options.classes)
    return Network.of(options)


def _named(checkpoints: Sequence[str]) -> dict[str, Path]:
    """The weights files that --checkpoints means, in the order of training, by epoch or by their
    names without suffixes; by numbers where two are the same."""
    paths = [Path(path) for path in checkpoints]
    if len(paths) == 1 and paths[0].is_dir():
        return _of_folder(paths[0])
    names = [path.stem for path in paths]
    if len({*names}) < len(names):
        names = [str(number) for number in range(1, len(names) + 1)]
    return dict(zip(names, paths, strict=True))


def _checkpoints(
    options: argparse.Namespace, network: Network
) -> tuple[dict[str, Path], nn.Module]:
    """Files by epoch, and the model that they belong to."""
    from zfcuda.models import from_files

    if options.checkpoints is not None:
        return _named(options.checkpoints), network.model
    if network.spec != _MODEL:
        raise ValueError(f"evolve needs --checkpoints for {network.spec}")
    found = from_files.epochs()
    if not found:
        raise ValueError(
            "no checkpoints come with this zfcuda; name some with --checkpoints, as the folder of "
            "a `zfcuda train`"
        )
    return {str(epoch): path for epoch, path in found.items()}, from_files.convolutions()


def _of_folder(folder: Path) -> dict[str, Path]:
    """The paper's epochs, as far as the training went, and its last."""
    from zfcuda.training.checkpoints import Checkpoints

    found = {
        int(number): path
        for path in sorted(folder.glob("epoch-*.safetensors"))
        if (number := path.stem.removeprefix("epoch-")).isdecimal()
    }
    if not found:
        raise ValueError(
            f"'{folder}' holds no epoch-NNNN.safetensors, as `zfcuda train` writes them"
        )
    taken = {epoch: p for epoch, p in found.items() if epoch in PAPERS or epoch == max(found)}
    for epoch, path in taken.items():
        if path.with_suffix(".json").is_file():
            Checkpoints(folder).require_intact(epoch)
    return {str(epoch): path for epoch, path in taken.items()}
