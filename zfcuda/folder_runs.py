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

import csv
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zfcuda._distributed import Shard
from zfcuda._files import atomic_path
from zfcuda._identity import architecture_digest, tensor_digest, versions, weights_digest
from zfcuda._numbered import Numbered, reading, tried
from zfcuda._running import is_int, per_image
from zfcuda.results import Result

__all__ = [
    "Run",
    "device_of",
    "first_readable",
    "identity_of",
    "memory",
    "targets_of",
    "write_csv",
]

SETTINGS = "settings.json"
_A_FOLDER = 1000  # images: more files in one are a nuisance to every tool
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.(npz|json|png|pdf|csv)")  # of atomic_path
# Bytes of one batch: fixed, since what is free changes from run to run, and batches with it.
_MEMORY = {"cpu": 2**27, "cuda": 2**30}


def memory(max_memory: int | None, device: torch.device) -> int:
    """Bytes that the activations of one batch may take: as given, or 128 MiB on a CPU and 1 GiB on
    a GPU."""
    return _MEMORY.get(device.type, 2**27) if max_memory is None else max_memory


def identity_of(model: nn.Module, images: Numbered, x: Tensor) -> dict[str, Any]:
    """What every experiment's results depend on: network, images, types, versions.

    Args:
        x: an image [C,H,W], as the model takes it.
    """
    return {
        "weights": weights_digest(model),
        "architecture": architecture_digest(model),
        **images.identity,
        "count": len(images),
        "image": [*x.shape],
        "dtype": str(x.dtype).removeprefix("torch."),
        "device": x.device.type,
        "versions": versions("zfcuda", "torch", "pillow"),
    }


@dataclass(frozen=True, eq=False)
class Run:
    """One experiment on the images of a data set.

    Attributes:
        folder: of the run.
        images: the data set.
        kind: of an image's result.
        settings: all that results depend on; anything that JSON can say.
        about: more for the JSON files, on which nothing depends, such as the model's name.
        shard: this process among those that share the work.
    """

    folder: Path
    images: Numbered
    kind: type[Result]
    settings: Mapping[str, Any]
    about: Mapping[str, Any]
    shard: Shard

    # ------------------------------------------------------------------ what is there

    def stem(self, number: int) -> Path:
        """What the files of an image's result are called, without their suffix."""
        name = re.sub(r"[^\w-]+", "-", Path(self.images.names[number]).stem, flags=re.ASCII)[:60]
        return self._drawer(number) / f"{number:07d}-{name}"

    def _drawer(self, number: int) -> Path:
        return self.folder / "images" / f"{number // _A_FOLDER:04d}"

    def missing(self) -> list[int]:
        """The numbers of the images that have no result, ascending."""
        found: list[int] = []
        for first in range(0, len(self.images), _A_FOLDER):
            drawer = self._drawer(first)
            there = {entry.name for entry in os.scandir(drawer)} if drawer.is_dir() else {*()}
            for number in range(first, min(first + _A_FOLDER, len(self.images))):
                name = self.stem(number).name
                if not {f"{name}.npz", f"{name}.json"} <= there:
                    found.append(number)
        return found

    def there(self) -> list[int]:
        """The numbers of the images that have a result, ascending."""
        missing = {*self.missing()}
        return [number for number in range(len(self.images)) if number not in missing]

    def results(self, missing: Sequence[int]) -> Iterator[tuple[int, Result]]:
        """The results of all images but these, by number.

        Raises:
            ValueError: a file is damaged; which one, and what to do.
        """
        left_out = {*missing}
        for number in range(len(self.images)):
            if number not in left_out:
                yield number, self.result(number)

    def result(self, number: int) -> Result:
        """An image's result.

        Raises:
            ValueError: a file is damaged; which one, and what to do.
        """
        try:
            return self.kind.load(self.stem(number))
        except (ValueError, OSError) as error:
            raise ValueError(f"{error}; delete its files and run again") from error

    # ------------------------------------------------------------------ doing it

    def begin(self) -> None:
        """Write the settings, or compare them with those that the run was begun with.

        Raises:
            ValueError: they differ, with what differs; or the folder cannot be written.
        """
        if self.shard.first:
            if not (self.folder / SETTINGS).exists():
                self._write_settings()
            self._tidy()
        self._wait()
        there = self._read_settings()
        differences = [*_differences(there, _as_json(self.settings))]
        if differences:
            shown = "; ".join(differences[:6]) + ("; …" if len(differences) > 6 else "")
            raise ValueError(
                f"'{self.folder}' holds a run with other settings: {shown}. Go on with the "
                "settings it was begun with, or name another folder"
            )

    @property
    def digest(self) -> str:
        """sha256 of the settings."""
        text = json.dumps(_as_json(self.settings), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _write_settings(self) -> None:
        if (self.folder / "images").exists():
            raise ValueError(
                f"'{self.folder}' holds images of a run, but not its {SETTINGS}: nobody can tell "
                "what they are; name another folder"
            )
        content = {"sha256": self.digest, "settings": _as_json(self.settings)}
        with atomic_path(self.folder / SETTINGS) as temporary:
            temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")

    def _read_settings(self) -> dict[str, Any]:
        path = self.folder / SETTINGS
        try:
            there = json.loads(path.read_text(encoding="utf-8"))["settings"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"'{path}' cannot be read as the settings of a run") from error
        if not isinstance(there, dict):
            raise ValueError(f"'{path}' cannot be read as the settings of a run")
        return there

    def _tidy(self) -> None:
        """Remove what a process that was killed had begun to write."""
        for path in self.folder.rglob(".*"):
            if _TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def carry_out(
        self,
        together: int,
        answer: Callable[[Tensor, list[int]], Sequence[Result]],
        workers: int = 0,
        progress: bool = False,
    ) -> None:
        """Compute and write what is missing, as far as it can be read, this rank its share.

        Args:
            together: how many images a group has.
            answer: ``(x [n,C,H,W] on the CPU, numbers [n]) -> n results``.
            workers: processes that read images.
            progress: show a bar (the first rank does).
        """
        groups = _groups(self._agreed(), together, len(self.images))
        own = self.shard.own(groups)
        wanted = sum(len(some) for _, some in own)
        alone = self.shard.world == 1
        total = len(self.images) if alone else wanted
        title = "images" if alone else f"images of rank 0 of {self.shard.world}"
        with _bar(total, total - wanted, progress and self.shard.first, title) as advance:
            read = reading(self.images, own, workers)
            for (numbers, some), found in zip(own, read, strict=True):
                self._do(numbers, some, found, answer)
                advance(len(some))
        self._wait()

    def _agreed(self) -> list[int]:
        """What is missing. One rank looks, so that all share the same list while some already
        write."""
        mask = torch.zeros(len(self.images), dtype=torch.uint8)
        if self.shard.first:
            mask[self.missing()] = 1
        return self.shard.share(mask).nonzero()[:, 0].tolist()

    def _wait(self) -> None:
        """Until all ranks are here.

        Raises:
            RuntimeError: one of them ended.
        """
        try:
            self.shard.wait()
        except RuntimeError as error:
            raise RuntimeError(
                "another process of the run ended early; run the same command again, with as many "
                f"processes as you like: what is finished stays ({error})"
            ) from error

    def _do(
        self,
        numbers: Sequence[int],
        wanted: Sequence[int],
        found: Sequence[Tensor | str | None],
        answer: Callable[[Tensor, list[int]], Sequence[Result]],
    ) -> None:
        read = {n: x for n, x in zip(numbers, found, strict=True) if isinstance(x, Tensor)}
        for number, x in read.items():
            self._check(number, x)
        if not read.keys() & {*wanted}:
            return
        like = next(iter(read.values()))
        x = torch.stack([read.get(number, torch.zeros_like(like)) for number in numbers])
        for number, result in zip(numbers, answer(x, [*numbers]), strict=True):
            if number in wanted and number in read:
                result.save(self.stem(number), self.said_of(number))

    def _check(self, number: int, x: Tensor) -> None:
        wanted, dtype = self.settings["image"], self.settings["dtype"]
        if [*x.shape] != wanted or str(x.dtype) != f"torch.{dtype}":
            raise ValueError(
                f"images of a run must all be alike: {self.images.names[number]} is "
                f"{list(x.shape)} {x.dtype}, the first one {wanted} torch.{dtype}"
            )

    def said_of(self, number: int | None) -> dict[str, Any]:
        """What a result's JSON file says about where it comes from."""
        image = {} if number is None else {"image": self.images.names[number], "number": number}
        return {
            "provenance": {
                **self.about,
                "settings": image,
                "run": self.digest,
                "versions": self.settings["versions"],
            }
        }

    def save_summary(self, summary: Result, entry: Mapping[str, Any] | None) -> None:
        """Write what all results come to; ``entry`` is what the gallery says about it."""
        said = {**self.said_of(None), **({"entry": entry} if entry else {})}
        summary.save(self.folder / "summary", said)

    def skipped(self, missing: Sequence[int]) -> list[str]:
        """Why the missing images have no result, a sentence each.

        Raises:
            RuntimeError: one can be read: whoever should have done it did not.
        """
        sentences = [tried(self.images, number) for number in missing]
        for number, sentence in zip(missing, sentences, strict=True):
            if isinstance(sentence, Tensor):
                raise RuntimeError(
                    f"{self.images.names[number]} has no result, though it can be read now; run "
                    "again to do it"
                )
        return [str(sentence) for sentence in sentences]


def device_of(model: nn.Module) -> torch.device:
    """Where the model's weights are; the CPU if it has none."""
    weights = next(model.parameters(), next(model.buffers(), None))
    return torch.device("cpu") if weights is None else weights.device


def targets_of(target: Any, count: int) -> tuple[Tensor | None, str | int]:
    """A class for all images or one for each as int64 [N], None for what the model predicts; and
    what settings say about it."""
    if target is None:
        return None, "predicted"
    found = per_image(target, count, 2**31, "target")
    return found, int(target) if is_int(target) else tensor_digest(found)


def first_readable(images: Numbered) -> Tensor:
    """The first image that can be read.

    Raises:
        ValueError: there is none.
    """
    for number in range(len(images)):
        x = tried(images, number)
        if isinstance(x, Tensor):
            return x
    raise ValueError(f"none of the {len(images):,} images can be read; the last: {x}")


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table with a line of names."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)


def _groups(missing: Sequence[int], together: int, count: int) -> list[tuple[range, list[int]]]:
    """The groups that miss some results: all numbers of each, and those."""
    found: dict[int, list[int]] = {}
    for number in missing:
        found.setdefault(number // together, []).append(number)
    return [
        (range(group * together, min((group + 1) * together, count)), some)
        for group, some in sorted(found.items())
    ]


def _as_json(value: Any) -> Any:
    """As it comes back from a JSON file; tensors as lists, pictures as their hashes."""

    def plain(tensor: Tensor) -> Any:
        return tensor.tolist() if tensor.dim() < 2 else tensor_digest(tensor)

    return json.loads(json.dumps(value, default=plain))


def _differences(there: Any, here: Any, name: str = "") -> Iterator[str]:
    """What is not the same in two settings, in words."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted({*there, *here}):
            yield from _differences(there.get(key), here.get(key), f"{name} {key}".strip())
    elif there != here:
        yield f"{name} {_short(there)} there, {_short(here)} here"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else f"{text[:12]}…"


class _bar:
    """A tqdm bar on stderr, with rate and time left, that starts where an earlier run stopped."""

    def __init__(self, total: int, done: int, shown: bool, title: str) -> None:
        self._settings = {"total": total, "initial": done, "desc": title, "disable": not shown}

    def __enter__(self) -> Callable[[int], Any]:
        from tqdm import tqdm

        self._bar = tqdm(unit=" images", leave=False, **self._settings)
        return self._bar.update

    def __exit__(self, *_: object) -> None:
        self._bar.close()
