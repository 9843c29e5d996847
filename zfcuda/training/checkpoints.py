"""Checkpoints that survive a kill at any moment: an epoch is there whole, or not at all.

An epoch is three files: weights (``epoch-0007.safetensors``, a plain state dict), the optimiser's
momentum (``momentum-0007.safetensors``) and, last, the record (``epoch-0007.json``) with the hashes
of both. An epoch without its record was not finished. Weights and records stay, momentum is kept of
the last two epochs, so that one damaged file costs one epoch.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from zfcuda.storage.files import digest, read_json, visible, write_json, write_tensors

__all__ = ["Checkpoints", "Epoch"]


@dataclass(frozen=True)
class Epoch:
    """What one epoch did.

    Attributes:
        epoch: its number, from 1.
        rate: the learning rate.
        training_loss, training_accuracy: means over the epoch, with dropout, while learning.
        validation_loss, validation_accuracy: after it.
        rescaled: how many filters the radius scaled back, a step.
        seconds: wall time of the training part; seconds_in_all with validation and checkpoint.
        cpu_seconds: processor time of all threads, validation included.
        images: pictures trained on.
    """

    epoch: int
    rate: float
    training_loss: float
    training_accuracy: float
    validation_loss: float
    validation_accuracy: float
    rescaled: float
    seconds: float
    seconds_in_all: float
    cpu_seconds: float
    images: int


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
        """Remove what is of no use after the epoch `last`: older momentum, and what a kill left
        half-written under another name."""
        for old in range(1, last - 1):
            self._momentum(old).unlink(missing_ok=True)
        for kind in ("epoch", "momentum"):
            for half in self.folder.glob(f".{kind}-*"):
                half.unlink(missing_ok=True)

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
                return rows, *self._read(rows[-1].epoch)
            except (OSError, KeyError, ValueError, SafetensorError) as error:
                damaged = rows.pop()
                warnings.warn(
                    f"epoch {damaged.epoch} cannot be continued from ({visible(error)}); it is "
                    "left out",
                    stacklevel=2,
                )
        return [], {}, {}

    def _read(self, epoch: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        paths = self.weights(epoch), self._momentum(epoch)
        self._require_intact(epoch, *paths)
        return load_file(paths[0]), load_file(paths[1])

    def require_intact(self, epoch: int) -> None:
        """Raise ValueError unless an epoch's weights have the hash that its record says."""
        self._require_intact(epoch, self.weights(epoch))

    def _require_intact(self, epoch: int, *paths: Path) -> None:
        expected = read_json(self.weights(epoch).with_suffix(".json")).get("sha256") or {}
        for path in paths:
            if digest(path) != expected.get(path.name):
                raise ValueError(f"'{path}' is damaged")
