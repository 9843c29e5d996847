"""A loaded model and what is needed to talk to it: for demo, commands and scripts."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from matplotlib.colors import to_rgb
from PIL import Image
from torch import Tensor, nn

import zfcuda
from zfcuda.cli import info
from zfcuda.data.preprocessing import Preprocessing
from zfcuda.inference.checks import evaluating
from zfcuda.inference.layers import outputs_by_call
from zfcuda.models.from_files import imagenet_names
from zfcuda.models.specs import outputs_in
from zfcuda.results.base import Outputs
from zfcuda.storage.files import class_name
from zfcuda.storage.identity import weights_digest


@dataclass(frozen=True)
class Network:
    spec: str
    model: nn.Module
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None
    device: torch.device
    outputs: Outputs | None = None  # as the spec says; None: they are found out

    @classmethod
    def load(cls, spec: str, device: str = "auto", classes: str | None = None) -> Network:
        """Load `spec` (see `zfcuda.models.load`) onto `device`: auto, cpu or cuda[:N]; `classes` is
        a file with the classes' names."""
        where = pick_device(device)
        models = zfcuda.models
        model = models.load(spec).to(where)
        expects = models.preprocessing(spec, model)
        names = models.class_names(spec, model, classes)
        return cls(spec, model, expects, names, where, outputs_in(spec))

    @classmethod
    def of(cls, options: argparse.Namespace) -> Network:
        """The network of a command line with --model, --weights, --classes and --device."""
        spec = options.model
        if options.weights:
            spec = zfcuda.models.with_weights(spec, options.weights)
        classes = getattr(options, "classes", None)  # the scripts have no such option
        return cls.load(spec, options.device, classes)

    @property
    def own_names(self) -> tuple[str, ...] | None:
        """The class names, unless they are ImageNet's, which everybody has."""
        return None if self.class_names == imagenet_names() else self.class_names

    @cached_property
    def weights_digest(self) -> str:
        """sha256 of the state dict: names, types, shapes and values, in its order."""
        return weights_digest(self.model)

    def facts(self) -> dict[str, object]:
        """What a result's file says of the network that was looked at."""
        facts: dict[str, object] = {
            "model": self.spec,
            "weights_sha256": self.weights_digest,
            "device": str(self.device),
        }
        return facts | ({"class_names": list(self.own_names)} if self.own_names else {})

    def blank(self) -> Tensor:
        """An input of the network's size that is zero everywhere."""
        return torch.zeros(1, 3, *self.preprocessing.shape, device=self.device)

    def input(self, image: Image.Image) -> Tensor:
        """The network's input for a picture, on the model's device."""
        return self.preprocessing.to_input(image).to(self.device)

    def display(self, x: Tensor) -> Any:
        """Network inputs as RGB pictures."""
        return self.preprocessing.to_display(x)

    def signals(self, projections: Mapping[str, Tensor]) -> dict[str, Any]:
        """Projections as RGB pictures, zero at mid grey."""
        show = self.preprocessing.signal_to_display
        return {layer: show(signal) for layer, signal in projections.items()}

    def name(self, label: int, count: int | None = None) -> str:
        """What output `label` of `count` is called, see :func:`zfcuda.storage.files.class_name`."""
        return class_name(self.class_names, label, count)

    def fill(self, colour: str) -> Tensor | float:
        """The network-input value of a colour: any that matplotlib knows, or "mean" (zero)."""
        if colour == "mean":
            return 0.0
        try:
            return self.preprocessing.display_value(to_rgb(colour))
        except ValueError:
            raise ValueError(
                f"fill {colour!r}: expected a colour (grey, black, #ff8000, 0.5) or mean"
            ) from None

    def label(self, text: str | None) -> int | None:
        """A label from its number or its class name; None stays None."""
        if text is None or re.fullmatch(r"[+-]?[0-9]+", text):
            return None if text is None else int(text)
        names = [name.casefold() for name in self.class_names or ()]
        if text.casefold() in names:
            return self._output_of(names.index(text.casefold()))
        wanted = text.casefold()
        close = [name for name in names if wanted in re.split(r"[^a-z0-9]+", name)][:3]
        close = close or difflib.get_close_matches(wanted, names, n=3)
        hint = ", ".join(repr(self.name(names.index(name))) for name in close)
        raise ValueError(
            f"target {text!r} is neither the number nor the name of a class"
            + (f"; did you mean {hint}?" if hint else "")
        )

    def _output_of(self, label: int) -> int:
        if self.class_names is None or len(self.class_names) != 2:
            return label
        with evaluating(self.model):
            answer = self.model(self.blank())
        if answer.shape[1:] != (1,):
            return label
        if label == 0:
            raise ValueError(
                f"target {self.class_names[0]!r}: the network's one output stands for "
                f"{self.class_names[1]!r}"
            )
        return 0

    def layers(self) -> list[tuple[str, str, tuple[int, ...], int]]:
        """(name, kind, output shape, number of calls) of every layer that gives one tensor, in
        order of execution; of several calls the last counts, which experiments look at."""
        kinds = {name: module for name, module in self.model.named_modules() if name}
        calls = dict.fromkeys(kinds, 0)

        def shape(name: str, output: object) -> tuple[int, ...] | None:
            if not isinstance(output, Tensor):
                return None
            calls[name] += 1
            return tuple(output.shape)

        found = outputs_by_call(self.model, self.blank(), [*kinds], shape)
        return [
            (name, type(kinds[name]).__name__, own, calls[name])
            for name, own in found.items()
            if own is not None
        ]


def pick_device(name: str) -> torch.device:
    """The device that `name` (auto, cpu, cuda, cuda:N) means here."""
    if name == "cpu":
        return torch.device("cpu")
    usable, reason = False, "torch sees no CUDA device"
    if torch.cuda.is_available():
        facts = info.collect()
        usable, reason = facts.cuda, facts.cuda_verdict
    if name == "auto":
        return torch.device("cuda" if usable else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type != "cuda":
        raise ValueError(f"device {name!r}: expected auto, cpu, cuda or cuda:N")
    if not usable:
        raise ValueError(f"device {name!r} cannot be used: {reason}")
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise ValueError(f"device {name!r}: there are {torch.cuda.device_count()} CUDA devices")
    return device


def shown(
    layers: Mapping[str, Tensor], display: Callable[[Tensor], np.ndarray]
) -> dict[str, np.ndarray]:
    """Pictures [A,B,C,h,w] by layer as ``display`` shows them, reduced: [A,B,h,w,3]."""
    from zfcuda.figures.maxima import displayed

    return {layer: displayed(own, display) for layer, own in layers.items()}


def silent_layers(layers: Iterable[tuple[Tensor, Tensor]]) -> str:
    """What is to be said of maps that never fire; of each layer the shown maps' strongest values
    and their images (-1: none), [A,k] both."""
    count = silent = 0
    for values, images in layers:
        count += len(values)
        silent += int((((values == 0) | (images < 0)).all(1) & (images >= 0).any(1)).sum())
    if not silent:
        return ""
    return f" {silent} of the {count} maps shown never fire{'s' * (silent == 1)} (light grey)."
