"""What a folder is a run of, so that it is not continued as another."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import torch

from zfcuda.datasets import Split
from zfcuda.training.checkpoints import read_json, write_json
from zfcuda.training.recipe import Recipe

__all__ = ["check_same_run"]

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
    path = folder / "run.json"
    settings = _description(name, data, recipe)
    threads = torch.get_num_threads()
    if not path.is_file():
        write_json(path, {"settings": settings, "threads": threads})
        return
    record = read_json(path)
    before = record.get("settings")
    if not isinstance(before, dict):
        raise ValueError(f"'{path}' is not the description of a training run")
    different = [
        f"{key} {settings.get(key)!r} instead of {before.get(key)!r}"
        for key in sorted(settings.keys() | before.keys())
        if settings.get(key) != before.get(key)
    ]
    if different:
        raise ValueError(
            f"'{folder}' holds another training run ({'; '.join(different)}): choose another folder"
        )
    if record.get("threads") != threads:
        warnings.warn(
            f"'{folder}' was begun with {record.get('threads')} threads and goes on with "
            f"{threads}: the weights may differ in their last bits",
            stacklevel=3,
        )


def _description(name: str, data: Split, recipe: Recipe) -> dict[str, Any]:
    numbers = dataclasses.asdict(recipe)
    pre = dataclasses.asdict(data.training.preprocessing)
    parts = ("training", "validation", "test")
    return {
        "model": name,
        "data": data.kind,
        "pictures": [len(getattr(data, part)) for part in parts],
        "classes": list(data.training.class_names),
        "preprocessing": {k: list(v) if isinstance(v, tuple) else v for k, v in pre.items()},
        **{key: value for key, value in numbers.items() if key not in _MAY_DIFFER},
    }
