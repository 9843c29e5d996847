"""From a spec to a model, what it expects of its input, and what its classes are called.

The specs are described in `zfcuda.models.specs`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from importlib import resources

import torch
from torch import Tensor, nn

from zfcuda.data import Preprocessing
from zfcuda.models import from_torchvision
from zfcuda.models.specs import MODELS, Spec, parse
from zfcuda.models.squeezenet import squeezenet1_1
from zfcuda.models.weights import imagenet_squeezenet, load_checked, read_state
from zfcuda.models.zeiler_fergus import zfnet

__all__ = ["class_names", "load", "preprocessing"]

_SEED = 0  # of random weights
_IMAGENET_CLASSES = 1000

# Tensors that together tell whose state dict a file holds.
_MARKERS = {
    "squeezenet1_1": {"features.3.squeeze.weight", "classifier.1.weight"},
    "zfnet": {"conv1.weight", "fc8.weight"},
}

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


def load(spec: str | os.PathLike[str]) -> nn.Module:
    """The model that `spec` names, on the CPU and in eval mode.

    Random weights are drawn from a fixed seed; torch's own random state is left as it was.

    Warns:
        UserWarning: the weights of `zfnet` are random (`zfnet?weights=none` does not warn).

    Raises:
        ValueError: an unknown spec (with close matches) or option, or a file that cannot be read
            or does not fit (naming the tensors, with both shapes).
        FileNotFoundError: the file does not exist.
        ModuleNotFoundError: ndf or torchvision is needed and not installed.
        RuntimeError: torchvision does not import, or its weights cannot be downloaded.
    """
    parsed = parse(spec)
    if parsed.model == "zfnet" and parsed.file is None and parsed.weights == "default":
        warnings.warn(
            f"zfnet has random weights (seed {_SEED}): it has not been trained yet", stacklevel=2
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return _load(parsed).eval()


def preprocessing(spec: str | os.PathLike[str]) -> Preprocessing:
    """What the model that `spec` names expects of its input; downloads nothing.

    `squeezenet1_1` itself has Caffe's weights (227 pixels, BGR, 0..255 minus a mean colour);
    a file of squeezenet1_1 is taken for torchvision's kind (224 pixels, RGB, mean and deviation).

    Raises: as `load`.
    """
    parsed = parse(spec)
    if parsed.torchvision:
        return from_torchvision.preprocessing_of(parsed)
    if parsed.file is None:
        return _CAFFE if parsed.model == "squeezenet1_1" else _ZF
    model = parsed.model or _infer(parsed, read_state(parsed.file))
    return Preprocessing() if model == "squeezenet1_1" else _ZF


def class_names(spec: str | os.PathLike[str]) -> tuple[str, ...] | None:
    """The names of the classes in label order, or None where they are not known.

    Known are those of torchvision's weights and ImageNet's, which `squeezenet1_1` has, and every
    file whose last layer has 1,000 outputs is taken to have. Random weights have no classes.

    Raises: as `load`.
    """
    parsed = parse(spec)
    if parsed.file is not None:
        state = read_state(parsed.file)
        imagenet = _num_classes(_builder(parsed, state), state) == _IMAGENET_CLASSES
    elif parsed.torchvision:
        return from_torchvision.categories(parsed)
    else:
        imagenet = parsed.model == "squeezenet1_1" and parsed.weights == "default"
    return _imagenet_names() if imagenet else None


def _imagenet_names() -> tuple[str, ...]:
    names = resources.files("zfcuda.models").joinpath("imagenet_classes.txt")
    return tuple(names.read_text(encoding="utf-8").splitlines())


def _load(spec: Spec) -> nn.Module:
    if spec.file is not None:
        state = read_state(spec.file)
        builder = _builder(spec, state)
        model = builder(num_classes=_num_classes(builder, state))
        load_checked(model, state, f"weights file '{spec.file}'")
        return model
    if spec.torchvision:
        return from_torchvision.load_pretrained(spec)
    model = _builder(spec)()
    if spec.model == "squeezenet1_1" and spec.weights == "default":
        load_checked(model, imagenet_squeezenet(), "the weights of the package ndf")
    return model


def _builder(spec: Spec, state: Mapping[str, Tensor] | None = None) -> Callable[..., nn.Module]:
    if spec.torchvision:
        return partial(from_torchvision.build, spec)
    model = spec.model or _infer(spec, state or {})
    return squeezenet1_1 if model == "squeezenet1_1" else partial(zfnet, lrn=spec.lrn)


def _infer(spec: Spec, state: Mapping[str, Tensor]) -> str:
    for model, markers in _MARKERS.items():
        if markers <= state.keys():
            return model
    shown = ", ".join(list(state)[:3]) + (", ..." if len(state) > 3 else "")
    raise ValueError(
        f"weights file '{spec.file}' holds no {' or '.join(MODELS)} (but {shown or 'nothing'}): "
        f"name the model, as in 'torchvision:NAME:{spec.file}'"
    )


def _num_classes(builder: Callable[..., nn.Module], state: Mapping[str, Tensor]) -> int:
    """The outputs of the last layer in `state`, if nothing else about that layer differs."""
    try:
        with torch.device("meta"):  # names and shapes only
            model = builder(num_classes=_IMAGENET_CLASSES)
    except RuntimeError:  # a few of torchvision's models (RegNet) compute while they are built
        model = builder(num_classes=_IMAGENET_CLASSES)
    name, expected = list(model.state_dict().items())[-1]
    found = state.get(name)
    if found is None or found.ndim != expected.ndim or found.shape[1:] != expected.shape[1:]:
        return _IMAGENET_CLASSES
    return max(found.shape[0], 1)
