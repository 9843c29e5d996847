"""An experiment on every image of a data set, a result a file, stopped at any moment and gone on
with.

A run is a folder. ``settings.json`` is written first and says all that results depend on; a run
with other settings is refused. Under ``images`` lies a pair of files for each image, the JSON file
last: with it the image is done. Nothing else is remembered, so nothing can be at odds with what is
there.

Images are computed in groups of consecutive numbers. A group is always computed as a whole, an
image that cannot be read as zeros in its place: an answer's last bits may depend on how many images
share a batch, so this must not depend on what was done before, by whom, and what could be read.
Only what is missing is written.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from zfcuda.data.batches import Block, in_blocks, read_blocks
from zfcuda.data.images import Images, none_readable
from zfcuda.inference.checks import device_of, is_int, per_image, threads
from zfcuda.results.base import Outputs, Result
from zfcuda.storage import terminal
from zfcuda.storage.files import checksum, read_json, write_csv
from zfcuda.storage.identity import (
    architecture_digest,
    precision_record,
    tensor_digest,
    versions,
    weights_digest,
)
from zfcuda.storage.ranks import Shard
from zfcuda.storage.run_folder import read, require_there, run_folder

FILE = "settings.json"


def identity_of(
    model: nn.Module, images: Images, x: Tensor, outputs: Outputs = "logits"
) -> dict[str, Any]:
    """What every experiment's results depend on: network, images, types, device, versions.

    Args:
        x: an image [C,H,W], as the model takes it.
        outputs: what the network's are; of logits nothing is said, as in runs begun before there
            was anything to say.
    """
    return {
        **({} if outputs == "logits" else {"outputs": outputs}),
        "weights": weights_digest(model),
        "architecture": architecture_digest(model),
        **images.identity(),
        "count": len(images),
        "image": [*x.shape],
        "dtype": str(x.dtype).removeprefix("torch."),
        "device": device_of(model).type,  # images are read on the CPU
        **precision_record(device_of(model), x.dtype),
        "versions": versions("zfcuda", "torch", "pillow"),
    }


def targets_of(target: Any, count: int, classes: int) -> tuple[Tensor | None, str | int]:
    """A class for all images or one for each as int64 [N], None for what the model predicts; and
    what settings say about it.

    Raises:
        ValueError: not one or ``count`` of the ``classes``.
    """
    if target is None:
        return None, "predicted"
    found = per_image(target, count, classes, "target")
    return found, int(target) if is_int(target) else tensor_digest(found)


def first_readable(images: Images) -> Tensor:
    """The first image that can be read.

    Raises:
        ValueError: there is none.
    """
    for number in range(len(images)):
        x = images.tried(number)
        if isinstance(x, Tensor):
            return x
    raise none_readable(len(images), x)


_Found = TypeVar("_Found", bound=Result)  # of an image
_Summary = TypeVar("_Summary", bound=Result)

Table = tuple[Sequence[str], Iterable[Sequence[object]]]  # names of columns, and rows

_A_FOLDER = 1000  # images: more files in one are a nuisance to every tool


@dataclass(frozen=True, eq=False)
class Run(ABC, Generic[_Found, _Summary]):
    """One experiment on the images of a data set.

    Attributes:
        kind: of an image's result.
        folder: of the run.
        images: the data set.
        settings: all that results depend on; anything that JSON can say.
        about: more for the JSON files, on which nothing depends, such as the model's name.
        shard: this process among those that share the work.
        target: int64 [N], each image's class; None for what the model predicts.
    """

    kind: ClassVar[type[Result]]
    folder: Path
    images: Images
    settings: Mapping[str, Any]
    about: Mapping[str, Any]
    shard: Shard
    target: Tensor | None

    @abstractmethod
    def answer(self, x: Tensor, numbers: list[int], target: Tensor | None) -> Sequence[_Found]:
        """The results of images [n,C,H,W], on the CPU, with these numbers and classes."""

    @abstractmethod
    def summarised(self, results: Iterator[tuple[int, _Found]], skipped: Sequence[str]) -> _Summary:
        """What all results, by number, come to; ``skipped``: why other images have none."""

    @abstractmethod
    def tables(self, summary: _Summary) -> dict[str, Table]:
        """The same as CSV files."""

    @cached_property
    def digest(self) -> str:
        """sha256 of the settings that the run was begun with, which every result bears."""
        return checksum(self.begun_with)

    @property
    def begun_with(self) -> dict[str, Any]:
        """The settings in the folder."""
        found: dict[str, Any] = self._begun["settings"]
        return found

    @cached_property
    def _begun(self) -> dict[str, Any]:
        return read(self.folder / FILE)

    # ------------------------------------------------------------------ what is there

    def stem(self, number: int) -> Path:
        """What the files of an image's result are called, without their suffix."""
        name = re.sub(r"[^\w-]+", "-", Path(self.images.names[number]).stem, flags=re.ASCII)[:60]
        return self._drawer(number) / f"{number:07d}-{name}"

    def _drawer(self, number: int) -> Path:
        return self.folder / "images" / f"{number // _A_FOLDER:04d}"

    def there(self) -> list[int]:
        """The numbers of the images that have a result, ascending."""
        found: list[int] = []
        for numbers in in_blocks(len(self.images), _A_FOLDER):
            drawer = self._drawer(numbers[0])
            names = {entry.name for entry in os.scandir(drawer)} if drawer.is_dir() else {*()}
            for number in numbers:
                name = self.stem(number).name
                if {f"{name}.npz", f"{name}.json"} <= names:
                    found.append(number)
        return found

    def result(self, number: int) -> _Found:
        """An image's result.

        Raises:
            ValueError: a file is damaged, or of another run; which one, and what to do.
        """
        try:
            self._check_origin(number)
            return self.kind.load(self.stem(number))
        except (ValueError, OSError) as error:
            raise ValueError(f"{error}; delete its files and run again") from error

    def _check_origin(self, number: int) -> None:
        """Files can be moved about: each says which settings it was made with, and of what."""
        stem = self.stem(number)
        path = stem.with_name(f"{stem.name}.json")
        origin = read_json(path).get("provenance")
        if not isinstance(origin, dict) or origin.get("run") != self.digest:
            raise ValueError(f"'{path}' is of a run with other settings")
        image = origin.get("settings")
        image = image if isinstance(image, dict) else {}
        if image.get("number", number) != number:
            raise ValueError(f"'{path}' is of image {image['number']}, not of image {number}")
        size = self.images.size(number)
        if size is not None and image.get("bytes", size) != size:
            raise ValueError(
                f"'{path}' is of {self.images.names[number]} when it had {image['bytes']} bytes; "
                f"now it has {size}"
            )

    # ------------------------------------------------------------------ doing it

    @contextmanager
    def begun(self) -> Iterator[Self]:
        """Write the settings, or compare them with those that the run was begun with; no other run
        gets into the folder until all ranks leave.

        Raises:
            ValueError: they differ, with what differs; another run is at work in the folder; or
                nobody can tell what it holds.
            OSError: it cannot be written.
        """
        said = {key: str(self.about[key]) for key in ("model", "data") if key in self.about}
        with run_folder(
            self.folder / FILE,
            self.settings,
            {"about": said},
            self.shard,
            results="images",
            then=self._as_begun,
        ):
            yield self

    def _as_begun(self, there: Mapping[str, Any]) -> Mapping[str, Any]:
        """As many images go together as did when it was begun, whatever is thought best now. Of
        images' inputs those count that could be read both then and now; of a run of zfcuda 0.1.0
        what it wrote of the images."""
        together = there.get("images together")
        kept = {"images together": together} if isinstance(together, int) and together > 0 else {}
        then, now = there.get("inputs"), self.settings.get("inputs")
        if not isinstance(now, dict):
            return kept
        if not isinstance(then, dict):
            return kept | self.images.earlier_identity()
        return kept | {"inputs": {number: now.get(number, one) for number, one in then.items()}}

    def carry_out(self, workers: int = 0, progress: bool = False) -> None:
        """Compute and write what is missing, as far as it can be read, this rank its share;
        ``workers`` processes read images."""
        together = self.begun_with["images together"]
        # One rank looks, so that all share the same list while some already write.
        there = {*self.shard.share(self.there() if self.shard.first else [])}
        groups = [
            (group, wanted)
            for group in in_blocks(len(self.images), together)
            if (wanted := [number for number in group if number not in there])
        ]
        own = self.shard.own(groups)
        missing = [wanted for _, wanted in own]
        left, total, title = sum(map(len, missing)), len(self.images), "images"
        if self.shard.world > 1:
            total, title = left, f"images of rank 0 of {self.shard.world}"
        bar = terminal.progress(
            total=total,
            initial=total - left,  # where an earlier run stopped
            desc=title,
            unit=" images",
            leave=False,
            disable=not (progress and self.shard.first),
        )
        like = torch.empty(1, *self.settings["image"], dtype=getattr(torch, self.settings["dtype"]))
        with threads(self._begun["threads"]), bar:
            blocks = read_blocks(self.images, [group for group, _ in own], workers, like, missing)
            for block, wanted in zip(blocks, missing, strict=True):
                self._do(block, wanted)
                bar.update(len(wanted))
        self.shard.wait()

    def _do(self, block: Block, wanted: Sequence[int]) -> None:
        if block.images is None:
            return
        numbers = [*block.numbers]
        target = None if self.target is None else self.target[numbers]
        results = self.answer(block.images, numbers, target)
        for number, result in zip(numbers, results, strict=True):
            if number in wanted and number not in block.problems:
                require_there(self.folder)
                result.save(self.stem(number), self.said_of(number))

    def said_of(self, number: int | None) -> dict[str, Any]:
        """What a result's JSON file says about where it comes from."""
        image: dict[str, Any] = {}
        if number is not None:
            image = {"image": self.images.names[number], "number": number}
            if (size := self.images.size(number)) is not None:
                image["bytes"] = size
        return {
            "provenance": {
                **self.about,
                "settings": image,
                "run": self.digest,
                "versions": self.settings["versions"],
            }
        }

    def summary(
        self, entry: Callable[[_Summary], Mapping[str, Any]] | None = None
    ) -> _Summary | None:
        """Read all results and write what they come to; None in all processes but the first.
        ``entry``: of the summary, what the gallery says about it."""
        if not self.shard.first:
            return None
        there = self.there()
        skipped = self._skipped({*range(len(self.images))} - {*there})
        summary = self.summarised(((number, self.result(number)) for number in there), skipped)
        said = {"entry": entry(summary)} if entry else {}
        require_there(self.folder)
        summary.save(self.folder / "summary", {**self.said_of(None), **said})
        for name, (head, rows) in self.tables(summary).items():
            write_csv(self.folder / name, head, rows)
        return summary

    def _skipped(self, missing: Collection[int]) -> list[str]:
        """Why the missing images have no result, a sentence each.

        Raises:
            ValueError: that is all of them.
            RuntimeError: one can be read: whoever should have done it did not.
        """
        require_there(self.folder)
        sentences = []
        for number in sorted(missing):
            sentence = self.images.tried(number)
            if isinstance(sentence, Tensor):
                raise RuntimeError(
                    f"{self.images.names[number]} has no result, though it can be read now; run "
                    "again to do it"
                )
            sentences.append(sentence)
        if len(sentences) == len(self.images):
            again = "run again when they can be"
            raise none_readable(len(sentences), f"{sentences[-1]}; {again}")
        return sentences
