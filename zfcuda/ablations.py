"""What each part of an architecture is worth: networks with layers removed or resized, trained anew
(Zeiler & Fergus 2014, section 5.1, table 3)."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zfcuda.datasets import Split
from zfcuda.models import zfnet_small
from zfcuda.results import Result
from zfcuda.results.checks import expect_shape
from zfcuda.training import Recipe, TrainingResult, train

__all__ = ["TABLE_3", "AblationResult", "Variant", "ablation", "altered"]


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


@dataclass(frozen=True, eq=False)
class AblationResult(Result):
    """V variants of a network, each trained with the same budget from S seeds (table 3).

    Attributes:
        variants: their names, the network as it is first.
        parameters: int64 [V].
        multiplications: int64 [V], multiply-adds of convolutions and linear layers for a picture.
        seeds: int64 [S].
        training_error: float64 [V,S], in the chosen epoch, while learning, with dropout and varied
            pictures.
        validation_error, test_error: float64 [V,S], of the chosen epoch: that of the lowest
            validation error. The test part is read once for each training.
        epoch: int64 [V,S], the chosen epochs.
        seconds: float64 [V,S], wall time of the trainings.
        pictures: of the training, validation and test parts.
        data: what they are.
        recipe: the training's settings, the same for all.
        threads: of torch.
    """

    variants: tuple[str, ...]
    parameters: Tensor
    multiplications: Tensor
    seeds: Tensor
    training_error: Tensor
    validation_error: Tensor
    test_error: Tensor
    epoch: Tensor
    seconds: Tensor
    pictures: tuple[int, ...]
    data: str
    recipe: dict[str, Any]
    threads: int
    _figure = "ablation"

    def __post_init__(self) -> None:
        for name in ("parameters", "multiplications"):
            expect_shape(name, getattr(self, name), len(self.variants))
        for name in ("training_error", "validation_error", "test_error", "epoch", "seconds"):
            expect_shape(name, getattr(self, name), len(self.variants), len(self.seeds))

    @property
    def budget(self) -> str:
        """What every variant was given, in words."""
        seeds = f", {len(self.seeds)} seeds" if len(self.seeds) > 1 else ""
        return f"{self.recipe['epochs']} epochs of {self.pictures[0]:,} pictures{seeds}"

    def spread(self, errors: Tensor) -> Tensor:
        """[V], how uncertain the mean of ``errors`` [V,S] is: the standard error over seeds, or of
        a single one that of a share among the test pictures."""
        if len(self.seeds) > 1:
            return errors.std(1) / len(self.seeds) ** 0.5
        share = errors[:, 0]
        return (share * (1 - share) / self.pictures[2]).sqrt()

    def table(self, tablefmt: str = "simple") -> str:
        """Table 3 as text; ``tablefmt`` as tabulate has it."""
        from tabulate import tabulate

        spread = self.spread(self.test_error)
        rows = [
            [
                name,
                f"{int(self.parameters[i]):,}",
                f"{int(self.multiplications[i]) / 1e6:.1f} M",
                f"{self.training_error[i].mean():.1%}",
                f"{self.validation_error[i].mean():.1%}",
                f"{self.test_error[i].mean():.1%} ± {spread[i]:.1%}",
            ]
            for i, name in enumerate(self.variants)
        ]
        heads = ["network", "parameters", "multiply-adds", "training", "validation", "test error"]
        align = ("left", *["right"] * 5)
        return tabulate(rows, heads, tablefmt, disable_numparse=True, colalign=align)


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
        data: the three parts; the test part is read once at the end of each training.
        folder: made if it is missing.
        variants: the changes; see :func:`altered`.
        recipe: of every training; its ``minutes`` must be None, since equal times would be unequal
            numbers of steps. Default: the paper's, but four epochs.
        seeds: each variant is trained once from each, which sets the recipe's.
        network: makes the network that is changed, a sequence of named layers, given the number of
            classes; default :func:`zfcuda.models.zfnet_small`.
        device: where to train.
        progress: show a bar for each epoch.

    Raises:
        ValueError: variants of the same change, a change that the network does not allow, a recipe
            with a time limit, no seed, or a folder that holds other trainings.
        OSError: the folder cannot be written.
    """
    recipe = recipe or Recipe(epochs=4)
    if recipe.minutes is not None:
        raise ValueError(f"minutes {recipe.minutes}: equal budgets are numbers of epochs")
    if not variants or not seeds:
        raise ValueError("expected at least one variant and one seed")
    slugs = [variant.slug for variant in variants]
    if len(set(slugs)) < len(slugs):
        twice = next(slug for slug in slugs if slugs.count(slug) > 1)
        raise ValueError(f"two variants make the same change, {twice}")
    make = network or (lambda classes: zfnet_small(classes, fused=True))
    example = data.training.batch(torch.tensor([0]))[0]
    # All of them are built before the first is trained: a wrong name is found now.
    built = [_built(make, variant, data, example, 0) for variant in variants]

    runs: list[list[TrainingResult]] = []
    for variant in variants:
        runs.append([])
        for seed in seeds:
            model = _built(make, variant, data, example, seed).to(device)
            where = Path(folder) / (f"{variant.slug}-seed{seed}")
            own = dataclasses.replace(recipe, seed=seed)
            runs[-1].append(train(model, data, where, own, variant.slug, progress))

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
        pictures=tuple(len(part) for part in (data.training, data.validation, data.test)),
        data=data.kind,
        recipe=settings,
        threads=torch.get_num_threads(),
    )


# --- architectures --------------------------------------------------------------------------------


def altered(model: nn.Sequential, variant: Variant, example: Tensor) -> nn.Sequential:
    """``model`` with layers left out or of another size, as a new network.

    Layers whose input or output changes get fresh weights from N(0, 2 / fan-in) and biases 0; the
    others are the model's own.

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
    removing, x = False, example
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
    return result.train(model.training)


_FOLLOWING = (nn.ReLU, nn.Dropout, nn.Identity)


def _is_weighted(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d | nn.Linear)


def _resized(layer: nn.Module, inputs: int, outputs: int | None) -> nn.Module:
    """The layer for so many inputs and outputs: itself, if these are its own."""
    linear = isinstance(layer, nn.Linear)
    own = (
        (layer.in_features, layer.out_features)
        if linear
        else (layer.in_channels, layer.out_channels)
    )
    new = (inputs, own[1] if outputs is None else outputs)
    if new == own:
        return layer
    if linear:
        fresh: nn.Module = nn.Linear(*new, bias=layer.bias is not None)
    else:
        fresh = nn.Conv2d(
            *new, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups,
            layer.bias is not None, layer.padding_mode,
        )  # fmt: skip
    # Drawn as the layer's own weights were: the same spread of responses.
    share = layer.weight[0].numel() / fresh.weight[0].numel()
    nn.init.normal_(fresh.weight, std=float(layer.weight.detach().std()) * share**0.5)
    if fresh.bias is not None:
        nn.init.zeros_(fresh.bias)
    return fresh


@torch.no_grad()
def _output(name: str, layer: nn.Module, x: Tensor) -> Tensor:
    mode = layer.training
    try:
        return layer.eval()(x)
    except RuntimeError as error:
        raise ValueError(f"after this change layer {name!r} does not fit: {error}") from error
    finally:
        layer.train(mode)


def _built(
    make: Callable[[int], nn.Sequential],
    variant: Variant,
    data: Split,
    example: Tensor,
    seed: int,
) -> nn.Sequential:
    """A variant with weights drawn from ``seed``; torch's own random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
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
