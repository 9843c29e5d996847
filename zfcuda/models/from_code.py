"""A model that a function of the user's own returns. Asking for one runs the user's code."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from torch import nn

from zfcuda.data.preprocessing import Preprocessing
from zfcuda.models.specs import Spec, did_you_mean, model_meant
from zfcuda.models.weights import load_checked, read_state


def load(spec: Spec) -> nn.Module:
    """What the function that `spec` names returns, with the weights in the spec's file if it has
    one."""
    with _from_here():
        module = _module(spec)
        name = spec.model.partition(":")[2]
        function = getattr(module, name, None)
        if not callable(function):
            known = [key for key, value in vars(module).items() if callable(value)]
            raise ValueError(
                f"'{spec.text}': the module '{module.__name__}' has no function '{name}'"
                f"{did_you_mean(name, known)}"
            )
        model = function()
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"'{spec.text}': {name}() returns a {type(model).__name__}: expected a torch.nn.Module"
        )
    if spec.file is not None:
        load_checked(model, read_state(spec.file), f"weights file '{spec.file}'")
    return model


def preprocessing(spec: Spec) -> Preprocessing:
    """The module's PREPROCESSING; the usual one if it has none."""
    said = _said(spec, "PREPROCESSING")
    if said is not None and not isinstance(said, Preprocessing):
        raise TypeError(
            f"'{spec.text}': PREPROCESSING is a {type(said).__name__}: expected a "
            "zfcuda.data.Preprocessing"
        )
    return said or Preprocessing()


def class_names(spec: Spec, model: nn.Module | None) -> tuple[str, ...] | None:
    """The module's CLASS_NAMES, if it has some."""
    said = _said(spec, "CLASS_NAMES")
    if said is None:
        return None
    if isinstance(said, str) or not all(isinstance(name, str) for name in said):
        raise TypeError(f"'{spec.text}': CLASS_NAMES: expected the classes' names in label order")
    return tuple(said)


def _said(spec: Spec, name: str) -> Any:
    with _from_here():
        return getattr(_module(spec), name, None)


def _module(spec: Spec) -> ModuleType:
    name, _, function = spec.model.partition(":")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # something that the module itself imports
        raise ValueError(
            f"unknown model '{spec.text}'{model_meant(name, function)}: there is no module "
            f"'{error.name}' in this folder or among those installed"
        ) from None


@contextlib.contextmanager
def _from_here() -> Iterator[None]:
    """The current folder can be imported from, as under `python -m`."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the user's code took it away
            sys.path.remove(here)
