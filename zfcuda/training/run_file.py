"""What a folder is a run of, so that it is not continued as another."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from zfcuda.data.examples import Split
from zfcuda.storage.files import read_json, visible, write_json
from zfcuda.training.checkpoints import Checkpoints
from zfcuda.training.recipe import Recipe

__all__ = ["FILE", "check_budget", "check_same_run", "draws_by_class"]

FILE = "run.json"
_LABELS = 64  # of a part that are compared
_MAY_DIFFER = ("epochs", "minutes")


def check_same_run(folder: Path, name: str, data: Split, recipe: Recipe) -> None:
    """Write down in the folder's ``run.json`` what is run there, or compare it.

    How long it may take does not count.

    Warns:
        UserWarning: the number of threads is another than before: the weights may then differ in
            their last bits from those of a run that was never interrupted.

    Raises:
        ValueError: it is another run; names every difference.
        OSError: the folder cannot be written.
    """
    path = folder / FILE
    settings = _description(name, data, recipe)
    threads = torch.get_num_threads()
    labels = _labels_digest(data)
    if not path.is_file():
        write_json(path, {"settings": settings, "labels": labels, "threads": threads})
        return
    record = read_json(path)
    before = record.get("settings")
    if not isinstance(before, dict):
        raise ValueError(f"'{path}' is not the description of a training run")
    before.setdefault("drawn", "")  # zfcuda 0.1.0 did not say how
    different = [
        f"{key} {settings.get(key)!r} instead of {before.get(key)!r}"
        for key in sorted(settings.keys() | before.keys())
        if settings.get(key) != before.get(key)
    ]
    if not different and record.get("labels", labels) != labels:
        different.append("pictures with other labels")
    if different:
        raise ValueError(
            f"'{folder}' holds another training run ({'; '.join(different)}): choose another folder"
        )
    if record.get("threads") != threads:
        warnings.warn(
            f"'{visible(folder)}' was begun with {record.get('threads')} threads and goes on with "
            f"{threads}: the weights may differ in their last bits",
            stacklevel=3,
        )


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
    pre = dataclasses.asdict(data.training.preprocessing)
    parts = ("training", "validation", "test")
    return {
        "model": name,
        "data": data.kind,
        "pictures": [len(getattr(data, part)) for part in parts],
        "classes": list(data.training.class_names),
        "drawn": data.drawn,
        "preprocessing": {k: list(v) if isinstance(v, tuple) else v for k, v in pre.items()},
        **{key: value for key, value in numbers.items() if key not in _MAY_DIFFER},
    }
