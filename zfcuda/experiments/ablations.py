"""What each part of an architecture is worth: networks with layers removed or resized, trained anew
(Zeiler & Fergus 2014, section 5.1, table 3).

A :class:`Variant` is a change, :func:`altered` makes it, :func:`ablation` trains what comes of
them.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn

from zfcuda.data.examples import Split
from zfcuda.inference.checks import evaluating
from zfcuda.models import zfnet_small
from zfcuda.results.training import AblationResult, TrainingResult
from zfcuda.storage.identity import seeded
from zfcuda.training.checkpoints import check_budget
from zfcuda.training.loop import train
from zfcuda.training.recipe import Recipe


@dataclass(frozen=True)
class Variant:
    """A change of an architecture.

    Attributes:
        name: what to call it.
        remove: names of the convolutions and linear layers that are left out, each with the ReLU
            and dropout that follow it.
        resize: by name the new number of maps (of a convolution) or units (of a linear layer).
    """

    name: str
    remove: tuple[str, ...] = ()
    resize: Mapping[str, int] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The change as a folder's name: "without-conv3-conv4", "fc6=256-fc7=256", "as-it-is"."""
        parts = [f"{name}={width}" for name, width in self.resize.items()]
        removed = "-".join(("without", *self.remove)) if self.remove else ""
        return re.sub(r"[^\w=-]", ".", "-".join([*filter(None, [removed]), *parts])) or "as-it-is"


# The paper's rows, its widths in the proportions of zfnet_small's own: 512, 1024, 512 maps are 4/3,
# 8/3 and 2 times those of the ZF network.
TABLE_3 = (
    Variant("as it is"),
    Variant("without conv3, conv4", ("conv3", "conv4")),
    Variant("without fc7", ("fc7",)),
    Variant("without fc6, fc7", ("fc6", "fc7")),
    Variant("without conv3, conv4, fc6, fc7", ("conv3", "conv4", "fc6", "fc7")),
    Variant("fc6, fc7: half the units", resize={"fc6": 256, "fc7": 256}),
    Variant("fc6, fc7: twice the units", resize={"fc6": 1024, "fc7": 1024}),
    Variant("conv3–5: more maps", resize={"conv3": 168, "conv4": 336, "conv5": 192}),
)


_FOLLOWING = (nn.ReLU, nn.Dropout, nn.Identity)  # they go with the layer before them


def altered(model: nn.Sequential, variant: Variant, example: Tensor) -> nn.Sequential:
    """``model`` with layers left out or of another size, as a new network.

    Layers whose input or output changes get fresh weights, normally distributed with the spread of
    the layer's own at its number of inputs, and biases 0; the others are the model's own. The model
    is left as it was.

    Args:
        model: layers called one after another.
        variant: the change.
        example: a batch that the model takes, to find the sizes.

    Raises:
        ValueError: a name that is no convolution or linear layer of the model, a layer that is both
            removed and resized, the last layer (its size is the number of classes), a size below 1,
            or a network whose layers no longer fit together.
    """
    weighted = [name for name, layer in model.named_children() if _is_weighted(layer)]
    for name in (*variant.remove, *variant.resize):
        if name not in weighted[:-1]:
            raise ValueError(f"layer {name!r} cannot be changed: expected some of {weighted[:-1]}")
    both = set(variant.remove) & set(variant.resize)
    if both or any(width < 1 for width in variant.resize.values()):
        raise ValueError(
            f"cannot change {min(both) if both else dict(variant.resize)}: expected each layer "
            "either removed or resized to at least 1"
        )
    layers: dict[str, nn.Module] = {}
    removing, x = False, example.clone()  # a layer may work in place
    for name, layer in model.named_children():
        if _is_weighted(layer):
            removing = name in variant.remove
            if not removing:
                layer = _resized(layer, x.shape[1], variant.resize.get(name))
        if removing and (_is_weighted(layer) or isinstance(layer, _FOLLOWING)):
            continue
        layers[name] = layer
        x = _output(name, layer, x)
    # add_module, not an OrderedDict's constructor: names stay as they are.
    result = nn.Sequential()
    for name, layer in layers.items():
        result.add_module(name, layer)
    result.training = model.training  # not its layers', which are the model's own
    return result


def _is_weighted(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d | nn.Linear)


def _resized(layer: nn.Module, inputs: int, outputs: int | None) -> nn.Module:
    """The layer for so many inputs and outputs: itself, if these are its own."""
    kind: type[nn.Module] = nn.Linear if isinstance(layer, nn.Linear) else nn.Conv2d
    of = "features" if kind is nn.Linear else "channels"
    own = (getattr(layer, f"in_{of}"), getattr(layer, f"out_{of}"))
    new = (inputs, own[1] if outputs is None else outputs)
    if new == own:
        return layer
    names = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    settings = {name: getattr(layer, name) for name in names if hasattr(layer, name)}
    fresh = kind(*new, bias=layer.bias is not None, **settings)
    # Drawn as the layer's own weights were: the same spread of responses.
    share = layer.weight[0].numel() / fresh.weight[0].numel()
    nn.init.normal_(fresh.weight, std=float(layer.weight.detach().std()) * share**0.5)
    if fresh.bias is not None:
        nn.init.zeros_(fresh.bias)
    return fresh.train(layer.training)


def _output(name: str, layer: nn.Module, x: Tensor) -> Tensor:
    try:
        with evaluating(layer):
            return layer(x)
    except RuntimeError as error:
        raise ValueError(f"after this change layer {name!r} does not fit: {error}") from error


def ablation(
    data: Split,
    folder: str | os.PathLike[str],
    variants: Sequence[Variant] = TABLE_3,
    recipe: Recipe | None = None,
    seeds: Sequence[int] = (0,),
    network: Callable[[int], nn.Sequential] | None = None,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> AblationResult:
    """Train every variant of a network with the same budget.

    Each training has a folder of its own in ``folder`` and is resumable
    (:func:`zfcuda.training.train`): called again, what has ended is read and what was interrupted
    goes on.

    Args:
        data: the three parts; the test part is read at the end of each training.
        folder: made if it is missing.
        variants: the changes; see :func:`zfcuda.experiments.ablations.altered`.
        recipe: of every training; its ``minutes`` must be None, since equal times would be unequal
            numbers of steps. Default: the paper's, but four epochs.
        seeds: each variant is trained once from each, which sets the recipe's.
        network: makes the network that is changed, a sequence of named layers, given the number of
            classes; default :func:`zfcuda.models.zfnet_small`.
        device: where to train.
        progress: show a bar for each epoch.

    Raises:
        ValueError: variants of the same change, a change that the network does not allow, a recipe
            with a time limit, no seed, or a folder that holds other trainings or longer ones.
        OSError: the folder cannot be written.
    """
    recipe = recipe or Recipe(epochs=4)
    _check(variants, recipe, seeds)
    make = network or (lambda classes: zfnet_small(classes, fused=True))
    example = data.training.batch(torch.tensor([0]))[0]
    # All of them are built before the first is trained: a wrong name is found now.
    built = [_built(make, variant, data, example, 0) for variant in variants]

    def place(variant: Variant, seed: int) -> Path:
        return Path(folder) / f"{variant.slug}-seed{seed}"

    for variant, seed in product(variants, seeds):
        check_budget(place(variant, seed), recipe)

    def trained(variant: Variant, seed: int) -> TrainingResult:
        model = _built(make, variant, data, example, seed).to(device)
        own = dataclasses.replace(recipe, seed=seed)
        return train(model, data, place(variant, seed), own, variant.slug, progress)

    runs = [[trained(variant, seed) for seed in seeds] for variant in variants]

    def each(value: Callable[[TrainingResult], float]) -> Tensor:
        return torch.tensor([[value(run) for run in row] for row in runs], dtype=torch.float64)

    settings = dataclasses.asdict(recipe)
    del settings["seed"], settings["minutes"]
    return AblationResult(
        variants=tuple(variant.name for variant in variants),
        parameters=torch.tensor([sum(p.numel() for p in model.parameters()) for model in built]),
        multiplications=torch.tensor([_multiplications(model, example) for model in built]),
        seeds=torch.tensor([*seeds]),
        training_error=each(lambda run: 1 - float(run.training_accuracy[run.best - 1])),
        validation_error=each(lambda run: 1 - float(run.validation_accuracy[run.best - 1])),
        test_error=each(lambda run: 1 - run.test_accuracy),
        epoch=each(lambda run: run.best).long(),
        seconds=each(lambda run: float(run.seconds_in_all.sum())),
        pictures=tuple(map(len, data.parts().values())),
        data=data.kind,
        recipe=settings,
        threads=torch.get_num_threads(),
        precision=runs[0][0].precision,
    )


def _check(variants: Sequence[Variant], recipe: Recipe, seeds: Sequence[int]) -> None:
    if recipe.minutes is not None:
        raise ValueError(f"minutes {recipe.minutes}: equal budgets are numbers of epochs")
    if not variants or not seeds:
        raise ValueError("expected at least one variant and one seed")
    slugs = [variant.slug for variant in variants]
    if len(set(slugs)) < len(slugs):
        twice = next(slug for slug in slugs if slugs.count(slug) > 1)
        raise ValueError(f"two variants make the same change, {twice}")


def _built(
    make: Callable[[int], nn.Sequential],
    variant: Variant,
    data: Split,
    example: Tensor,
    seed: int,
) -> nn.Sequential:
    """A variant with weights drawn from ``seed``; torch's own random state is left as it was."""
    with seeded(seed):
        return altered(make(len(data.training.class_names)), variant, example)


@torch.no_grad()
def _multiplications(model: nn.Sequential, x: Tensor) -> int:
    total = 0
    model.eval()
    for layer in model.children():
        x = layer(x)
        if isinstance(layer, nn.Conv2d | nn.Linear):
            places = x.shape[2:].numel() if x.dim() == 4 else 1
            total += layer.weight.numel() * places
    return total
