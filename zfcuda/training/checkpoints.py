"""A training's folder: checkpoints that survive a kill at any moment, and what it is a run of.

An epoch is there whole, or not at all. It is three files: weights (``epoch-0007.safetensors``, a
plain state dict), the optimiser's momentum (``momentum-0007.safetensors``) and, last, the record
(``epoch-0007.json``) with the hashes of both. An epoch without its record was not finished. Weights
and records stay, momentum is kept of the last two epochs, so that one damaged file costs one epoch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from zfcuda.data.examples import Split
from zfcuda.storage.files import digest, read_json, visible, write_json, write_tensors
from zfcuda.storage.run_folder import other_run, run_folder
from zfcuda.training.recipe import Epoch, Recipe


class Checkpoints:
    """The checkpoints in a folder.

    Args:
        folder: need not exist yet.
        metadata: what every weights file says about itself (see `zfcuda.models.weights`).
    """

    def __init__(
        self, folder: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
    ) -> None:
        self.folder, self.metadata = Path(folder), metadata

    def weights(self, epoch: int) -> Path:
        """The file of an epoch's weights."""
        return self.folder / f"epoch-{epoch:04d}.safetensors"

    def _momentum(self, epoch: int) -> Path:
        return self.folder / f"momentum-{epoch:04d}.safetensors"

    def save(
        self, row: Epoch, weights: Mapping[str, Tensor], momentum: Mapping[str, Tensor]
    ) -> None:
        """Write an epoch; the record comes last and makes it valid.

        Raises:
            OSError: the folder cannot be written, or is full.
        """
        paths = self.weights(row.epoch), self._momentum(row.epoch)
        write_tensors(paths[0], weights, self.metadata)
        write_tensors(paths[1], momentum)
        write_json(
            self.weights(row.epoch).with_suffix(".json"),
            {**dataclasses.asdict(row), "sha256": {path.name: digest(path) for path in paths}},
        )
        self.tidy(row.epoch)

    def tidy(self, last: int) -> None:
        """Remove what is of no use after the epoch `last`: older momentum."""
        for old in range(1, last - 1):
            self._momentum(old).unlink(missing_ok=True)

    def rows(self) -> list[Epoch]:
        """The finished epochs, from the first on without a gap.

        Raises:
            ValueError: a record that cannot be read.
        """
        rows: list[Epoch] = []
        while (path := self.weights(len(rows) + 1).with_suffix(".json")).is_file():
            try:
                record = read_json(path)
                numbers = {f.name: record[f.name] for f in dataclasses.fields(Epoch)}
                if not all(type(number) in (int, float) for number in numbers.values()):
                    raise TypeError("expected numbers")
                rows.append(Epoch(**numbers))
            except (KeyError, TypeError) as error:
                raise ValueError(f"'{path}' is not the record of an epoch ({error})") from error
        return rows

    def last(self) -> tuple[list[Epoch], dict[str, Tensor], dict[str, Tensor]]:
        """The epochs up to the last intact one, its weights and its momentum; empty without any.

        Warns:
            UserWarning: an epoch whose files are missing or damaged was left out.
        """
        rows = self.rows()
        while rows:
            try:
                paths = self.weights(len(rows)), self._momentum(len(rows))
                self.require_intact(len(rows), *paths)
                return rows, load_file(paths[0]), load_file(paths[1])
            except (OSError, KeyError, ValueError, SafetensorError) as error:
                damaged = rows.pop()
                warnings.warn(
                    f"epoch {damaged.epoch} cannot be continued from ({visible(error)}); it is "
                    "left out",
                    stacklevel=2,
                )
        return [], {}, {}

    def require_intact(self, epoch: int, *paths: Path) -> None:
        """Raise ValueError unless an epoch's files, by default its weights, have the hashes that
        its record says."""
        expected = read_json(self.weights(epoch).with_suffix(".json")).get("sha256") or {}
        for path in paths or [self.weights(epoch)]:
            if digest(path) != expected.get(path.name):
                raise ValueError(f"'{path}' is damaged")


# --- what the folder is a run of ------------------------------------------------------------------

FILE = "run.json"
_LABELS = 64  # of a part that are compared
_MAY_DIFFER = ("epochs", "minutes")


@contextmanager
def training_run(folder: Path, name: str, data: Split, recipe: Recipe) -> Iterator[None]:
    """Begin a training in a folder, or go on with it, as :func:`run_folder`; it is compared by the
    folder's ``run.json``. How long it may take does not count. Warns where the number of threads is
    another than before."""
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
    return {
        "model": name,
        "data": data.kind,
        "pictures": [*map(len, data.parts().values())],
        "classes": list(data.training.class_names),
        "drawn": data.drawn,
        "preprocessing": dataclasses.asdict(data.training.preprocessing),
        **{key: value for key, value in numbers.items() if key not in _MAY_DIFFER},
    }
