"""Each layer's units by the engine that can carry them: cones where they lead down to the image,
autograd everywhere else."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from zfcuda.experiments.deconvnet import by_autograd, on_cones
from zfcuda.experiments.deconvnet.request import Carried, CarriedListed, Requests
from zfcuda.graph.nodes import Graph
from zfcuda.inference.checks import check_input
from zfcuda.inference.guards import undisturbed
from zfcuda.inference.passes import Layers, find_layers, memory_limit, progress_bar
from zfcuda.storage.files import visible

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

_SHOWN = 3  # modules of one class that a warning names


def checked(model: nn.Module, x: Tensor, layers: Layers) -> tuple[Tensor, list[str]]:
    """The images, and the layers' names, checked together with what they are to be found in.

    Raises:
        TypeError, ValueError: the model, the images or a name is of the wrong kind or unknown.
    """
    x = check_input(model, x)
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise TypeError("the calls of a TorchScript model cannot be followed; pass the eager model")
    return x, list(find_layers(model, layers))


def carry(
    model: nn.Module, x: Tensor, requests: Requests, max_memory: int | None, progress: bool
) -> dict[str, Carried]:
    """The requested units of every layer, for the images ``x`` [N,C,H,W]."""
    limit = memory_limit(max_memory, x.device)
    with (
        undisturbed(model),
        progress_bar(len(x) * len(requests), progress, "projections") as advance,
    ):
        carried, left = _by_both(
            model, x, requests,
            lambda graph, own: on_cones.carry_on_cones(graph, x.detach(), own, limit, advance),
            lambda own: by_autograd.carry_by_autograd(model, x, own, limit, advance),
        )  # fmt: skip
    _warn(left)
    return carried


def carry_listed(
    model: nn.Module, x: Tensor, listed: Mapping[str, np.ndarray], max_memory: int | None
) -> dict[str, CarriedListed]:
    """By layer the units int64 [P,4], (image, channel, row, column), of the images ``x``."""
    limit = memory_limit(max_memory, x.device)
    with undisturbed(model):
        carried, left = _by_both(
            model, x, listed,
            lambda graph, own: on_cones.carry_listed_on_cones(graph, x.detach(), own, limit),
            lambda own: by_autograd.carry_listed_by_autograd(model, x, own, limit),
        )  # fmt: skip
    _warn(left)
    return carried


def _by_both(
    model: nn.Module,
    x: Tensor,
    asked: Mapping[str, Asked],
    cones: Callable[[Graph, Mapping[str, Asked]], tuple[dict[str, Answer], list[str]]],
    autograd: Callable[[Mapping[str, Asked]], tuple[dict[str, Answer], list[str]]],
) -> tuple[dict[str, Answer], list[str]]:
    """What is asked of every layer, and the calls that were left to their gradient."""
    graph, reached = on_cones.followed(model, x, [*asked])
    answers: dict[str, Answer] = {}
    left: list[str] = []
    if reached:
        with torch.no_grad():
            answers, left = cones(graph, {layer: asked[layer] for layer in reached})
    others = {layer: own for layer, own in asked.items() if layer not in reached}
    if others:
        more, also_left = autograd(others)
        answers, left = answers | more, left + also_left
    return answers, left


def _warn(left: list[str]) -> None:
    if left:
        names = visible(_listed(left))
        warnings.warn(
            f"the deconvnet has no rule for {names}; their gradient at the forward point is used",
            stacklevel=5,  # this function, carry, deconv, its decorator, the caller
        )


def _listed(names: list[str]) -> str:
    """Each once; of many modules of one class (``SiLU 'a', 'b', 'c' and 5 more``) the first."""
    kinds: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        kind, _, module = name.partition(" ")
        kinds.setdefault(kind, []).extend([module] if module else [])
    shown = []
    for kind, modules in kinds.items():
        more = f" and {len(modules) - _SHOWN} more" if len(modules) > _SHOWN else ""
        shown.append(f"{kind} {', '.join(modules[:_SHOWN])}{more}".strip())
    return ", ".join(shown)
