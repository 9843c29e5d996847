"""Several images, several families of transformations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from zfcuda import ops
from zfcuda.experiments.invariance.experiment import (
    MATRICES,
    Fill,
    Kind,
    Layers,
    Target,
    Values,
    numbers,
    transformed,
)
from zfcuda.inference.checks import check_input, to_result
from zfcuda.inference.passes import find_layers, gives_features, outputs_by_call
from zfcuda.results.base import Outputs
from zfcuda.results.invariance import InvarianceStudy


def early_and_late(model: nn.Module, x: Tensor) -> list[str]:
    """Two layers to compare: what stands for the paper's layers 1 and 7.

    The early one is the first max-pooling (without any, the first convolution). The late one is
    what the last layer with weights, the classifier, takes. A module that is called several times
    lies where it is called last.

    Raises:
        ValueError: the model has no two such layers; name them then.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    found = outputs_by_call(model, x, [*modules], lambda _, output: output)
    order: list[str] = []
    for name, output in found.items():
        # A container gives what its last module gives: the innermost name says more.
        known = any(found[other] is output for other in order)
        if gives_features(modules[name], output) and not known:
            order.append(name)

    def of(*kinds: type[nn.Module]) -> list[str]:
        return [name for name in order if isinstance(modules[name], kinds)]

    weighted = of(nn.Conv2d, nn.Linear)
    late = order[: order.index(weighted[-1])] if weighted else []
    # A pool that is used throughout lies where it is called last: it may be the late one itself.
    early = [name for name in (*of(nn.MaxPool2d)[:1], *of(nn.Conv2d)[:1]) if name in late[:-1]]
    if not early:
        raise ValueError(
            f"no early and late layer can be told apart among {order[:8]}; name two in layers"
        )
    return [early[0], late[-1]]


_EXAMPLES = 4  # transformed images that a family shows


@dataclass(frozen=True)
class _Family:
    """Transformations along one axis of a figure.

    Attributes:
        kind: of which they are.
        read: the user's values as that takes them.
        usual: the paper's values for an image of (height, width), shifts as shares of it.
    """

    kind: Kind
    read: Callable[[Values], Tensor]
    usual: Callable[[int, int], list[float]]


def _shifts(side: int) -> list[float]:
    """Up to the paper's 60 of 224 pixels both ways, in whole pixels."""
    return sorted({float(round(side * 60 / 224 * step / 12)) for step in range(-12, 13)})


def _rightwards(values: Values) -> Tensor:
    shifts = _plain(values)
    return torch.stack([torch.zeros_like(shifts), shifts], dim=1)


_plain = partial(numbers, name="values")
_downwards = partial(numbers, name="values", pairs=True)

_FAMILIES = {
    "vertical translation": _Family("translation", _downwards, lambda h, w: _shifts(h)),
    "horizontal translation": _Family("translation", _rightwards, lambda h, w: _shifts(w)),
    "scale": _Family("scaling", _plain, lambda h, w: [1 + step / 20 for step in range(17)]),
    "rotation": _Family("rotation", _plain, lambda h, w: [float(a) for a in range(0, 361, 5)]),
}


@torch.inference_mode(False)  # nothing made here is an inference tensor
def invariance_study(
    model: nn.Module,
    x: Tensor,
    layers: Layers | None = None,
    target: Target = None,
    names: Sequence[str] | None = None,
    transformations: Mapping[str, Values] | None = None,
    fill: Fill = 0.0,
    max_memory: int | None = None,
    progress: bool = False,
    outputs: Outputs | None = None,
) -> InvarianceStudy:
    """Several images moved, enlarged and turned: figure 5 of the paper.

    Args:
        model, x, target, fill, max_memory, progress, outputs: as :func:`zfcuda.rotation`; for the
            paper's figure ``target`` is each image's true class.
        layers: whose features are compared; None takes an early and a late one
            (:func:`early_and_late`).
        names: what to call the images; None numbers them.
        transformations: families ("vertical translation", "horizontal translation", "scale",
            "rotation") and their values, None for the defaults: shifts of up to 60/224 of the
            image's side (the paper's 60 pixels) in 25 steps, factors 1 to 1.8, 0 to 360 degrees.
            None takes all four.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or out of range.
    """
    x = check_input(model, x)
    names = [f"image {i}" for i in range(len(x))] if names is None else [*names]
    if len(names) != len(x):
        raise ValueError(f"names must be {len(x)}, one for each image, got {len(names)}")
    chosen = families_of(transformations, x)
    layers = early_and_late(model, x) if layers is None else [*find_layers(model, layers)]

    amounts = {
        family: (_FAMILIES[family].kind, _FAMILIES[family].read(values))
        for family, values in chosen.items()
    }
    experiments = transformed(
        amounts, model, x, target, layers, fill, max_memory, progress, outputs
    )
    examples, example_values = {}, {}
    for family, (kind, values) in amounts.items():
        some = values[_spread(len(values), _EXAMPLES)]
        matrices = MATRICES[kind](some, (x.shape[2], x.shape[3]))
        examples[family] = to_result(
            ops.warp_affine(x[:1].detach(), matrices, experiments[family].fill)[0]
        )
        example_values[family] = some.sum(1) if some.dim() == 2 else some  # one of a pair is 0
    return InvarianceStudy(
        names=tuple(map(str, names)),
        images=to_result(x).clone(),
        layers=tuple(layers),
        experiments=experiments,
        examples=examples,
        example_values=example_values,
    )


def families_of(transformations: Mapping[str, Values] | None, x: Tensor) -> dict[str, Values]:
    """The ``transformations`` of :func:`invariance_study` for images ``x`` [N,C,H,W], with the
    usual values where none are given.

    Raises:
        ValueError: an unknown family, or none at all.
    """
    chosen = dict.fromkeys(_FAMILIES) if transformations is None else dict(transformations)
    unknown = [*(chosen.keys() - _FAMILIES.keys())]
    if unknown or not chosen:
        raise ValueError(f"transformations must be of {[*_FAMILIES]}, got {unknown or chosen}")
    return {
        family: _FAMILIES[family].usual(x.shape[2], x.shape[3]) if values is None else values
        for family, values in chosen.items()
    }


def _spread(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` indices of ``count``, in the middles of as many equal parts."""
    wanted = min(count, wanted)
    return [int((part + 0.5) * count / wanted) for part in range(wanted)]
