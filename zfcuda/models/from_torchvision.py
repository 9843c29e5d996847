"""torchvision's classification models, imported only when a spec asks for one."""

from __future__ import annotations

import importlib
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import nn

from zfcuda.data.preprocessing import Preprocessing
from zfcuda.models import from_files
from zfcuda.models.specs import Spec, did_you_mean


def load(spec: Spec) -> nn.Module:
    """torchvision's model with the weights that `spec` means: in a file, or downloaded once."""
    if spec.file is not None:
        return from_files.load(spec.file, lambda state: partial(_random, spec))
    weights = _weights(spec)
    return _random(spec) if weights is None else _pretrained(spec, weights)


def preprocessing(spec: Spec) -> Preprocessing:
    """What the weights were validated with; ImageNet's usual values for random ones and files."""
    weights = _weights(spec)
    if weights is None:
        return Preprocessing()
    transforms = weights.transforms()
    return Preprocessing(
        size=transforms.crop_size[0],
        resize=transforms.resize_size[0],
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        interpolation=transforms.interpolation.value,
    )


def class_names(spec: Spec, model: nn.Module | None) -> tuple[str, ...] | None:
    """The names that come with the weights or are in their file; None for random ones."""
    if spec.file is not None:
        return from_files.class_names(spec.file, lambda state: partial(_random, spec))
    weights = _weights(spec)
    return None if weights is None else tuple(weights.meta["categories"])


def _random(spec: Spec, num_classes: int = 1000) -> nn.Module:
    return _models().get_model(_known(spec), weights=None, num_classes=num_classes)


def _pretrained(spec: Spec, weights: Any) -> nn.Module:
    try:
        # torchvision unpickles what it downloads. Reading the file as tensors only first (which
        # also leaves it in torchvision's cache) shows that there is nothing else in it.
        weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:
        raise RuntimeError(
            f"the weights of '{spec.text}' could not be had from {weights.url} ({error}); use "
            f"'torchvision:{spec.model}?weights=none' for random weights or "
            f"'torchvision:{spec.model}:FILE' for a file of your own"
        ) from error
    return _models().get_model(spec.model, weights=weights)


def _command() -> str:
    """What installs a torchvision for this torch: from 0.29 on one runs with torch 2.14 and later;
    those before with one torch each, whose minor version is 15 less."""
    major, minor = (int(number) for number in torch.__version__.split(".")[:2])
    version = ">=0.29" if (major, minor) >= (2, 14) else f"==0.{minor + 15}.*"
    return f'pip install --no-deps "torchvision{version}"'


def _models() -> ModuleType:
    try:
        return importlib.import_module("torchvision.models")
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        raise ModuleNotFoundError(
            f"torchvision is not installed; the version that belongs to torch {torch.__version__}: "
            f"{_command()} (from the channel torch came from)"
        ) from None
    except (RuntimeError, OSError, ImportError) as error:  # it was built for another torch
        raise RuntimeError(
            f"torchvision does not import beside torch {torch.__version__} ({error}); the version "
            f"that belongs to it: {_command()} (from the channel torch came from)"
        ) from error


def _known(spec: Spec) -> str:
    models = _models()
    # With `module`, the classification models only: others give no [N, K] logits.
    known = models.list_models(module=models)
    if spec.model not in known:
        raise ValueError(
            f"unknown torchvision model '{spec.model}'{did_you_mean(spec.model, known)}: expected "
            "a classification model, as torchvision.models.list_models() names them"
        )
    return spec.model


def _weights(spec: Spec) -> Any | None:
    """The member of torchvision's weights enumeration that is meant; None for random or a file."""
    name = _known(spec)
    if spec.file is not None or spec.weights == "none":
        return None
    members = _models().get_model_weights(name).__members__
    chosen = "DEFAULT" if spec.weights == "default" else spec.weights
    if chosen not in members:
        raise ValueError(
            f"weights={chosen} in '{spec.text}': expected none, default or one of "
            f"{', '.join(members)}"
        )
    return members[chosen]
