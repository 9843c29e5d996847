"""What a folder is a run of, so that it is not continued as another."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from zfcuda.data.examples import Split
from zfcuda.storage.files import read_json, visible
from zfcuda.storage.run_folder import other_run, run_folder
from zfcuda.training.checkpoints import Checkpoints
from zfcuda.training.recipe import Recipe

__all__ = ["FILE", "check_budget", "draws_by_class", "training_run"]

FILE = "run.json"
_LABELS = 64  # of a part that are compared
_MAY_DIFFER = ("epochs", "minutes")


@contextmanager
def training_run(folder: Path, name: str, data: Split, recipe: Recipe) -> Iterator[None]:
    """Begin a training in a folder, or go on with it, as :func:`run_folder`; it is compared by the
    folder's ``run.json``. How long it may take does not count.

    Warns:
        UserWarning: the number of threads is another than before: the weights may then differ in
            their last bits from those of a run that was never interrupted.

    Raises:
        ValueError: it is another run; names every difference.
        OSError: the folder cannot be written.
    """
    labels = _labels_digest(data)
    # Each rank of a process group trains for itself, in a folder of its own. Before its first epoch
    # a training is nobody's: another recipe may follow.
    with run_folder(folder / FILE, _description(name, data, recipe), {"labels": labels}) as begun:
        if begun.get("labels", labels) != labels:
            raise other_run(folder, ["the pictures' labels"])
        if begun["threads"] != torch.get_num_threads():
            warnings.warn(
                f"'{visible(folder)}' was begun with {begun['threads']} threads and goes on with "
                f"{torch.get_num_threads()}: the weights may differ in their last bits",
                stacklevel=4,
            )
        yield


def draws_by_class(folder: Path) -> bool:
    """Whether what is missing of a training's parts is to be drawn class by class: not where the
    folder holds a training that zfcuda 0.1.0 began, which drew from all pictures together."""
    with suppress(OSError, ValueError):  # there is none; or it is told when the run is gone on with
        settings = read_json(folder / FILE).get("settings")
        return not isinstance(settings, dict) or "classes" not in settings or "drawn" in settings
    return True


def check_budget(folder: Path, recipe: Recipe) -> None:
    """Raise ValueError if a run in the folder went on for more epochs than the recipe has: beside
    others it would not be one of equal budgets."""
    done = len(Checkpoints(folder).rows())
    if done > recipe.epochs:
        raise ValueError(
            f"'{folder}' holds a training of {done} epochs, more than {recipe.epochs}: choose "
            "another folder, or as many epochs"
        )


def _labels_digest(data: Split) -> str:
    """A hash of some labels: data sets may be alike in all their numbers. Not of the pictures,
    which a user's own data set may vary; nor of the test part, which is read at the end."""
    digest = hashlib.sha256()
    for part in (data.training, data.validation):
        some = torch.arange(_LABELS) * len(part) // _LABELS
        digest.update(str(part.batch(some.unique())[1].tolist()).encode())
    return digest.hexdigest()


def _description(name: str, data: Split, recipe: Recipe) -> dict[str, Any]:
    numbers = dataclasses.asdict(recipe)
    parts = ("training", "validation", "test")
    return {
        "model": name,
        "data": data.kind,
        "pictures": [len(getattr(data, part)) for part in parts],
        "classes": list(data.training.class_names),
        "drawn": data.drawn,
        "preprocessing": dataclasses.asdict(data.training.preprocessing),
        **{key: value for key, value in numbers.items() if key not in _MAY_DIFFER},
    }
