"""A network with the weights in a file, with as many classes as these are for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import resources
from itertools import takewhile
from pathlib import Path

import torch
from torch import Tensor, nn

from zfcuda.models.weights import Metadata, load_checked, read_state
from zfcuda.models.zeiler_fergus import zfnet_small

_PACKAGE = Path(__file__).parents[1]
IMAGENET_CLASSES = 1000


def imagenet_names() -> tuple[str, ...]:
    """ImageNet's classes in label order, as torchvision calls them."""
    names = resources.files("zfcuda.models").joinpath("imagenet_classes.txt")
    return tuple(names.read_text(encoding="utf-8").splitlines())


def run_record(package: Path = _PACKAGE) -> Path:
    """The common name of the two files of the training's result, for `TrainingResult.load`."""
    return _folder(package) / "training"


def epochs(package: Path = _PACKAGE) -> dict[int, Path]:
    """Epoch numbers, ascending, and the files of their convolutions' weights.

    They fit `convolutions`, whose layers bear the names they have in the whole network::

        zfcuda.evolution(
            {f"epoch {epoch}": path for epoch, path in epochs().items()},
            images, ["conv2", "conv5"], model=convolutions(),
        )
    """
    return {
        int(path.stem[-4:]): path for path in sorted(_folder(package).glob("epoch-*.safetensors"))
    }


def convolutions() -> nn.Sequential:
    """`zfnet_small` up to pool5, with freshly drawn weights: what `epochs` holds weights for."""
    model = zfnet_small()
    kept = list(takewhile(lambda name: name != "flatten", dict(model.named_children())))
    return model[: len(kept)].eval()


def _folder(package: Path) -> Path:
    return package / "models" / "zfnet_small_run"


State = Mapping[str, Tensor]
Build = Callable[..., nn.Module]  # takes num_classes


def load(file: Path, builder_of: Callable[[State], Build]) -> nn.Module:
    """The network that `builder_of` has for the tensors in `file`, filled with them."""
    state = read_state(file)
    build = builder_of(state)
    model = build(num_classes=_num_classes(build, state))
    load_checked(model, state, f"weights file '{file}'")
    return model


def class_names(file: Path, builder_of: Callable[[State], Build]) -> tuple[str, ...] | None:
    """What `file` says itself, or ImageNet's names where the network has as many classes."""
    if said := Metadata.read(file).class_names:
        return said
    state = read_state(file)
    known = _num_classes(builder_of(state), state) == IMAGENET_CLASSES
    return imagenet_names() if known else None


def _num_classes(build: Build, state: State) -> int:
    """The outputs of the last layer in `state`, if nothing else about that layer differs."""
    try:
        with torch.device("meta"):  # names and shapes only
            model = build(num_classes=IMAGENET_CLASSES)
    except RuntimeError:  # a few of torchvision's models (RegNet) compute while they are built
        model = build(num_classes=IMAGENET_CLASSES)
    expected = model.state_dict()
    layer = list(expected)[-1].rpartition(".")[0]
    last = {name: tensor for name, tensor in expected.items() if name.rpartition(".")[0] == layer}
    found = {name: state[name] for name in last if name in state}
    # All of the layer has to be there: a bias alone would claim a layer that nobody stored.
    lengths = {tensor.shape[0] if tensor.ndim else 0 for tensor in found.values()}
    fits = all(found[name].shape[1:] == last[name].shape[1:] for name in found)
    if len(found) < len(last) or len(lengths) != 1 or not fits:
        return IMAGENET_CLASSES
    return max(*lengths, 1)
