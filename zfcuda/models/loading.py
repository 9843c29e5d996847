"""From a spec to a model, what it expects of its input, and what its classes are called.

The specs are described in `zfcuda.models.specs`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor, nn

from zfcuda.data import Preprocessing
from zfcuda.models import from_code, from_torchvision
from zfcuda.models.metadata import Metadata
from zfcuda.models.specs import MODELS, Spec, parse
from zfcuda.models.squeezenet import squeezenet1_1
from zfcuda.models.weights import imagenet_squeezenet, load_checked, read_state
from zfcuda.models.zeiler_fergus import zfnet, zfnet_small

__all__ = ["class_names", "load", "preprocessing"]

_SEED = 0  # of random weights
_IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class _Own:
    """A model of this package.

    Attributes:
        build: makes it, with num_classes.
        preprocessing: what its own weights expect.
        of_files: what weights in files are taken to expect.
    """

    build: Callable[..., nn.Module]
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


def load(spec: str | os.PathLike[str]) -> nn.Module:
    """The model that `spec` names, on the CPU and in eval mode.

    Random weights are drawn from a fixed seed; torch's own random state is left as it was. A spec
    `MODULE:FUNCTION` runs that module's code; no other spec runs anything.

    Warns:
        UserWarning: the weights of `zfnet` are random (`zfnet?weights=none` does not warn).

    Raises:
        ValueError: an unknown spec (with close matches) or option, or a file that cannot be read
            or does not fit (naming the tensors, with both shapes).
        FileNotFoundError: the file does not exist.
        ModuleNotFoundError: ndf, onnx or torchvision is needed and not installed.
        RuntimeError: torchvision does not import, or its weights cannot be downloaded.
        TypeError: the function of MODULE:FUNCTION returns no model.
    """
    parsed = parse(spec)
    if _is_untrained(parsed):
        warnings.warn(
            f"{parsed.model} has random weights (seed {_SEED}): it has not been trained yet",
            stacklevel=2,
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return _load(parsed).eval()


def preprocessing(spec: str | os.PathLike[str], model: nn.Module | None = None) -> Preprocessing:
    """What the model that `spec` names expects of its input; downloads nothing.

    `model`, if it is loaded already, tells the size of an ONNX network's images.

    `squeezenet1_1` itself has Caffe's weights (227 pixels, BGR, 0..255 minus a mean colour);
    a file of squeezenet1_1 is taken for torchvision's kind (224 pixels, RGB, mean and deviation),
    and so is every network of which nothing is known. What `zfcuda train` writes says it itself.
    The spec's own options have the last word; `size` alone means the largest centred square.

    Raises: as `load`.
    """
    parsed = parse(spec)
    usual, said = _usual_preprocessing(parsed), dict(parsed.preprocessing)
    if shape := getattr(model, "image_shape", None):
        said.setdefault("size", shape[1])
    if "size" in said:
        said.setdefault("resize", None)
    try:
        return replace(usual, **said)
    except ValueError as error:
        raise ValueError(f"in '{parsed.text}': {error}") from None


def _usual_preprocessing(spec: Spec) -> Preprocessing:
    if spec.kind == "torchvision":
        return from_torchvision.preprocessing_of(spec)
    if spec.kind == "code":
        return from_code.preprocessing(spec) or Preprocessing()
    if spec.kind == "onnx":
        return Preprocessing()
    file = _file(spec)
    if file is None:
        return _OWN[spec.model].preprocessing
    said = Metadata.read(file).preprocessing
    return said or _OWN[spec.model or _infer(spec, read_state(file))].of_files


def class_names(
    spec: str | os.PathLike[str], model: nn.Module | None = None
) -> tuple[str, ...] | None:
    """The names of the classes in label order, or None where they are not known.

    `model`, if it is loaded already, tells how many an ONNX network has.

    Known are those of torchvision's weights, of a MODULE:FUNCTION that has CLASS_NAMES, of files
    that say it, as `zfcuda train` writes them, and ImageNet's, which `squeezenet1_1` has, and every
    other file whose last layer has 1,000 outputs is taken to have. Random weights have no classes.

    Raises: as `load`.
    """
    parsed = parse(spec)
    if parsed.kind == "code":
        return from_code.class_names(parsed)
    if parsed.kind == "onnx":
        *_, last = (None, *(model.state_dict().values() if model else ()))
        imagenet = last is not None and len(last) == _IMAGENET_CLASSES
        return _imagenet_names() if imagenet else None
    file = _file(parsed)
    if file is not None:
        if said := Metadata.read(file).class_names:
            return said
        state = read_state(file)
        imagenet = _num_classes(_builder(parsed, state), state) == _IMAGENET_CLASSES
    elif parsed.kind == "torchvision":
        return from_torchvision.categories(parsed)
    else:
        imagenet = parsed.model == "squeezenet1_1" and parsed.weights == "default"
    return _imagenet_names() if imagenet else None


def _imagenet_names() -> tuple[str, ...]:
    names = resources.files("zfcuda.models").joinpath("imagenet_classes.txt")
    return tuple(names.read_text(encoding="utf-8").splitlines())


def _is_untrained(spec: Spec) -> bool:
    """Whether weights are asked for that nobody has trained."""
    wanted = spec.kind == "own" and spec.weights == "default" and spec.model != "squeezenet1_1"
    return wanted and _file(spec) is None


def _file(spec: Spec) -> Path | None:
    """The spec's weights file, or the one that ships with the package."""
    if spec.kind != "own" or spec.file is not None or spec.weights != "default":
        return spec.file
    shipped = Path(str(resources.files("zfcuda.models"))) / f"{spec.model}.safetensors"
    return shipped if shipped.is_file() else None


def _load(spec: Spec) -> nn.Module:
    if spec.kind == "onnx":
        return _from_onnx(spec)
    if spec.kind == "code":
        model = from_code.build(spec)
        if spec.file is not None:
            load_checked(model, read_state(spec.file), f"weights file '{spec.file}'")
        return model
    if (file := _file(spec)) is not None:
        state = read_state(file)
        builder = _builder(spec, state)
        model = builder(num_classes=_num_classes(builder, state))
        load_checked(model, state, f"weights file '{file}'")
        return model
    if spec.kind == "torchvision":
        return from_torchvision.load_pretrained(spec)
    model = _builder(spec)()
    if spec.model == "squeezenet1_1" and spec.weights == "default":
        load_checked(model, imagenet_squeezenet(), "the weights of the package ndf")
    return model


def _from_onnx(spec: Spec) -> nn.Module:
    if not spec.file.is_file():
        raise FileNotFoundError(f"ONNX file '{spec.file}' does not exist")
    from zfcuda.compat import onnx

    size = spec.preprocessing.get("size", Preprocessing().size)
    return onnx.load(spec.file, size=(size, size))


def _builder(spec: Spec, state: Mapping[str, Tensor] | None = None) -> Callable[..., nn.Module]:
    if spec.kind == "torchvision":
        return partial(from_torchvision.build, spec)
    model = spec.model or _infer(spec, state or {})
    build = _OWN[model].build
    return build if model == "squeezenet1_1" else partial(build, lrn=spec.lrn)


def _infer(spec: Spec, state: Mapping[str, Tensor]) -> str:
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


def _shared(build: Callable[..., nn.Module], state: Mapping[str, Tensor]) -> int:
    with torch.device("meta"):  # names and shapes only
        expected = build().state_dict()
    same = (
        name in state and state[name].shape == tensor.shape for name, tensor in expected.items()
    )
    return sum(same)


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
