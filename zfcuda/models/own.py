"""The networks of this package: which there are, and what their weights expect of images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path

import torch
from torch import nn

from zfcuda.data.preprocessing import Preprocessing
from zfcuda.models import from_files
from zfcuda.models.from_files import Build, State
from zfcuda.models.specs import MODELS, Spec
from zfcuda.models.squeezenet import squeezenet1_1
from zfcuda.models.weights import Metadata, imagenet_squeezenet, load_checked, read_state
from zfcuda.models.zeiler_fergus import zfnet, zfnet_small


@dataclass(frozen=True)
class _Own:
    """A model of this package: what makes it, with num_classes, what its own weights expect, and
    what those in files are taken to expect."""

    build: Build
    preprocessing: Preprocessing
    of_files: Preprocessing


_CAFFE = Preprocessing(
    size=227,
    resize=None,
    mean=(104.0, 117.0, 123.0),
    std=(1.0, 1.0, 1.0),
    scale=255.0,
    channels="bgr",
    # Of Pillow's filters the one that leaves the tabby farthest behind on scikit-image's chelsea.
    interpolation="bicubic",
)
# The paper subtracts the mean image of the training set; ImageNet's mean colour stands in for it.
_ZF = Preprocessing(
    size=224, resize=256, mean=(123.68, 116.779, 103.939), std=(1.0, 1.0, 1.0), scale=255.0
)
# Inputs up to 16: see `zfnet_small`.
_SMALL = Preprocessing(size=64, resize=None, mean=(0.5,) * 3, std=(1 / 32,) * 3)

_OWN = {
    "squeezenet1_1": _Own(squeezenet1_1, _CAFFE, Preprocessing()),
    "zfnet_small": _Own(zfnet_small, _SMALL, _SMALL),
    "zfnet": _Own(zfnet, _ZF, _ZF),
}


def load(spec: Spec) -> nn.Module:
    """The model with the weights that `spec` means: in a file, shipped, of ImageNet, or random."""
    if (file := _file(spec)) is not None:
        return from_files.load(file, partial(_builder, spec))
    model = _builder(spec)()
    if _has_imagenets(spec):
        load_checked(model, imagenet_squeezenet(), "the weights of the package ndf")
    return model


def preprocessing(spec: Spec) -> Preprocessing:
    """What the weights expect: as their file says, or else as such weights usually do."""
    file = _file(spec)
    if file is None:
        return _OWN[spec.model].preprocessing
    said = Metadata.read(file).preprocessing
    return said or _OWN[spec.model or _inferred(spec, read_state(file))].of_files


def class_names(spec: Spec, model: nn.Module | None) -> tuple[str, ...] | None:
    """The names that belong to the weights; None for random ones."""
    if (file := _file(spec)) is not None:
        return from_files.class_names(file, partial(_builder, spec))
    return from_files.imagenet_names() if _has_imagenets(spec) else None


def is_untrained(spec: Spec) -> bool:
    """Whether weights are asked for that nobody has trained."""
    return spec.weights == "default" and not _has_imagenets(spec) and _file(spec) is None


def _has_imagenets(spec: Spec) -> bool:
    return spec.file is None and spec.model == "squeezenet1_1" and spec.weights == "default"


def _file(spec: Spec) -> Path | None:
    """The spec's weights file, or the one that ships with the package."""
    if spec.file is not None or spec.weights != "default":
        return spec.file
    shipped = Path(str(resources.files("zfcuda.models"))) / f"{spec.model}.safetensors"
    return shipped if shipped.is_file() else None


def _builder(spec: Spec, state: State | None = None) -> Build:
    """What makes the spec's model; where it names none, the one that `state` tells."""
    model = spec.model or _inferred(spec, state or {})
    build = _OWN[model].build
    return build if model == "squeezenet1_1" else partial(build, lrn=spec.lrn)


def _inferred(spec: Spec, state: State) -> str:
    """Which of our models has most of these tensors: names and shapes."""
    found = {name: _shared(own.build, state) for name, own in _OWN.items()}
    best = max(found, key=found.get)
    if found[best] * 2 > len(state):
        return best
    shown = ", ".join(list(state)[:3]) + (", ..." if len(state) > 3 else "")
    raise ValueError(
        f"weights file '{spec.file}' holds no {' or '.join(MODELS)} (but {shown or 'nothing'}): "
        f"name the model, as in 'torchvision:NAME:{spec.file}'"
    )


def _shared(build: Build, state: State) -> int:
    with torch.device("meta"):  # names and shapes only
        expected = build().state_dict()
    return sum(n in state and state[n].shape == tensor.shape for n, tensor in expected.items())
