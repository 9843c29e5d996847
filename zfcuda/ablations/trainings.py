"""Every variant trained with the same budget."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from zfcuda.ablations.altering import altered
from zfcuda.ablations.variants import TABLE_3, Variant
from zfcuda.data.examples import Split
from zfcuda.models import zfnet_small
from zfcuda.results.ablation import AblationResult
from zfcuda.results.training import TrainingResult
from zfcuda.storage.identity import seeded
from zfcuda.training.loop import train
from zfcuda.training.recipe import Recipe
from zfcuda.training.run_file import check_budget


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
        variants: the changes; see :func:`zfcuda.ablations.altered`.
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

    folders = {
        (variant.slug, seed): Path(folder) / f"{variant.slug}-seed{seed}"
        for variant in variants
        for seed in seeds
    }
    for where in folders.values():
        check_budget(where, recipe)

    def trained(variant: Variant, seed: int) -> TrainingResult:
        model = _built(make, variant, data, example, seed).to(device)
        own = dataclasses.replace(recipe, seed=seed)
        return train(model, data, folders[variant.slug, seed], own, variant.slug, progress)

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
        pictures=tuple(len(part) for part in (data.training, data.validation, data.test)),
        data=data.kind,
        recipe=settings,
        threads=torch.get_num_threads(),
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
