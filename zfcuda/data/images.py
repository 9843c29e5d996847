"""The images of a data set: all of them batch by batch, or any of them by its number.

An experiment over a data set finds, in one pass, which images matter, and reads these again. An
image's number is its place. :class:`Images` can be had by number, in any order and again by a run
that was interrupted; :class:`Batches` only one after the other.
"""

from __future__ import annotations

import hashlib
import operator
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from zfcuda.data.batches import (
    Batches,
    Block,
    Kind,
    batch_in,
    in_blocks,
    loader_of,
    read_blocks,
    tensor_in,
)
from zfcuda.data.examples import Examples
from zfcuda.data.preprocessing import Preprocessing
from zfcuda.data.reading import read_image
from zfcuda.storage.identity import tensor_digest

# What decoders, and Datasets that call them, raise on bad bytes.
UNREADABLE = (OSError, EOFError, SyntaxError, ValueError)
_INSPECTED = 8  # images whose inputs are part of a data set's identity


def none_readable(count: int, last: object) -> ValueError:
    """The error that not one of so many images can be read; ``last``: what is wrong with that."""
    return ValueError(f"none of the {count:,} images can be read; the last: {last}")


class Images(ABC):
    """N images, any of which can be read at any time.

    Those that cannot be read keep their numbers where images are asked for by number. A pass leaves
    them out, and its numbers count the others.

    Args:
        batch: images that a pass reads at a time.
        workers: processes that read ahead; 0 reads in this one.

    Attributes:
        names: of each; what files of its results are called after.
        labels: int64 [N], -1 where there is none.
        class_names: of the labels.
        problems: why images were left out by the last pass, a sentence each, by number.
    """

    names: Sequence[str]
    labels: Tensor
    class_names: tuple[str, ...]

    def __init__(self, batch: int = 64, workers: int = 0) -> None:
        self.batch, self.workers = operator.index(batch), operator.index(workers)
        self.problems: dict[int, str] = {}

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, number: int) -> Tensor:
        """The network's input [C,H,W].

        Raises:
            ValueError: it cannot be read; a sentence that says which image, and why.
        """

    @property
    def total(self) -> int:
        """N."""
        return len(self)

    @property
    def skipped(self) -> list[str]:
        """Why images were left out by the last pass."""
        return [*self.problems.values()]

    def file(self, number: int) -> str:
        """What an image's file is called; "" where it has none."""
        return ""

    def size(self, number: int) -> int | None:
        """Bytes of an image's file; None where it has none, or it is not there."""
        return None

    def tried(self, number: int) -> Tensor | str:
        """An image [C,H,W], or the sentence that says why it cannot be read."""
        try:
            return self.read(number)
        except ValueError as error:
            return str(error) or f"image {number} cannot be read"

    def block(self, numbers: Sequence[int], kind: Kind | None = None) -> Block:
        """The images with these numbers; nobody else needs their tensor, it may be overwritten.
        Which images are read together may change their memory format, and last bits.

        Args:
            kind: shape [C,H,W] and type of all of them; None for those of the first.

        Raises:
            ValueError: images of several kinds.
        """
        return self.one_by_one(numbers, kind=kind)

    def one_by_one(
        self,
        numbers: Sequence[int],
        wanted: Sequence[int] | None = None,
        kind: Kind | None = None,
    ) -> Block:
        """The same, each image as :meth:`read` gives it; none where none of those that are
        ``wanted`` (all, for None) can be read."""
        wanted = numbers if wanted is None else wanted
        place = {number: index for index, number in enumerate(numbers)}
        images: Tensor | None = None
        problems: dict[int, str] = {}
        for number in [*wanted, *sorted(place.keys() - wanted)]:
            if images is None and len(problems) == len(wanted):
                break
            x = self.tried(number)
            if isinstance(x, str):
                problems[number] = x
                continue
            shape, dtype = kind = kind or (x.shape, x.dtype)
            if (x.shape, x.dtype) != kind:
                raise ValueError(
                    f"images of a run must all be alike: {self.names[number]} is {list(x.shape)} "
                    f"{x.dtype}, the first one {list(shape)} {dtype}"
                )
            if images is None:
                images = x.new_zeros(len(numbers), *shape)
            images[place[number]] = x
        return Block(numbers, images, problems)

    # --- a pass ---

    def batches(self) -> Iterator[Tensor]:
        """All images, [n,C,H,W] at a time, but those that cannot be read.

        Raises:
            ValueError: none can.
        """
        self.problems = {}
        for block in read_blocks(self, in_blocks(len(self), self.batch), self.workers):
            self.problems |= block.problems
            if block.images is not None:
                yield block.images[~block.left_out()] if block.problems else block.images
        if self.problems and len(self.problems) == len(self):
            raise none_readable(len(self), self.problems[len(self) - 1])

    def pick(self, numbers: Sequence[int]) -> Iterator[Tensor]:
        """The images that had these numbers (ascending) in the last pass, in this order, [n,C,H,W]
        at a time.

        Raises:
            RuntimeError: one cannot be read any more.
        """
        if self.problems:
            there = [number for number in range(len(self)) if number not in self.problems]
            numbers = [there[number] for number in numbers]
        groups = [[numbers[i] for i in some] for some in in_blocks(len(numbers), self.batch)]
        return (block.read_again() for block in read_blocks(self, groups, self.workers))

    # --- what tells them from others ---

    def digest(self) -> str:
        """What a run of :func:`zfcuda.record_activations` remembers them by: how many they are, the
        first and the last."""
        ends = sorted({0, len(self) - 1}) if len(self) else []
        return _digest(len(self), *(self.block([number]).images for number in ends))

    def identity(self) -> dict[str, Any]:
        """What a run of an experiment over all of them remembers: names and labels of all; by
        number the inputs of some that can be read, evenly spread. Not the sizes of files, which
        each result bears: one that is repaired has another."""
        inputs = {
            str(number): tensor_digest(x)
            for number, x in self._inspected()
            if isinstance(x, Tensor)
        }
        return {"images": self._names_digest(()), "inputs": inputs}

    def earlier_identity(self) -> dict[str, str]:
        """What zfcuda 0.1.0 wrote down of :meth:`identity`."""
        seen = (tensor_digest(x) if isinstance(x, Tensor) else "" for _, x in self._inspected())
        return {
            "images": self._names_digest(self._earlier_sizes()),
            "inputs": hashlib.sha256(" ".join(seen).encode()).hexdigest(),
        }

    def _earlier_sizes(self) -> Sequence[int]:
        return ()

    def _names_digest(self, sizes: Sequence[int]) -> str:
        digest = hashlib.sha256()
        for name in self.names:
            digest.update(f"{name}\n".encode("utf-8", "surrogateescape"))
        digest.update(repr([*sizes]).encode())
        digest.update(tensor_digest(self.labels).encode())
        return digest.hexdigest()

    def _inspected(self) -> Iterator[tuple[int, Tensor | str]]:
        count = min(len(self), _INSPECTED)
        for place in range(count):
            number = place * len(self) // count
            yield number, self.tried(number)


def _digest(*parts: object) -> str:
    digest = hashlib.sha256()
    for part in parts:
        text = tensor_digest(part) if isinstance(part, Tensor) else part
        digest.update(f"{text}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


class ImageFiles(Images):
    """Image files.

    Args:
        paths: in the order of their numbers.
        preprocessing: makes the network's input.
        folder: that names are relative to; by default the innermost that holds all files. Files in
            its folders are labelled by the first folder, if all lie in some.
        batch, workers: as of :class:`Images`.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        preprocessing: Preprocessing,
        folder: str | os.PathLike[str] | None = None,
        batch: int = 64,
        workers: int = 0,
    ) -> None:
        super().__init__(batch, workers)
        self._paths = [Path(path) for path in paths]
        self._innermost = os.path.commonpath([path.parent for path in self._paths] or [Path()])
        self._folder = self._innermost if folder is None else folder
        self._preprocessing = preprocessing

    def __len__(self) -> int:
        return len(self._paths)

    @cached_property
    def names(self) -> list[str]:  # type: ignore[override]
        return [os.path.relpath(path, self._folder) for path in self._paths]

    @cached_property
    def _classes(self) -> list[str]:
        parts = [Path(name).parts for name in self.names]
        return [one[0] if len(one) > 1 else "" for one in parts]

    @cached_property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(sorted({*self._classes})) if all(self._classes) else ()

    @cached_property
    def labels(self) -> Tensor:  # type: ignore[override]
        label = {name: number for number, name in enumerate(self.class_names)}
        return torch.tensor([label.get(name, -1) for name in self._classes], dtype=torch.int64)

    def read(self, number: int) -> Tensor:
        return self._preprocessing.to_input(read_image(self._paths[number]))[0]

    def file(self, number: int) -> str:
        """Relative to the innermost folder that holds all."""
        return os.path.relpath(self._paths[number], self._innermost)

    def size(self, number: int) -> int | None:
        try:
            return self._paths[number].stat().st_size
        except OSError:
            return None

    def digest(self) -> str:
        """Of the preprocessing, and of the names and sizes of all files."""
        return _digest(
            self._preprocessing,
            *(f"{self.file(n)} {size}" for n, size in enumerate(self._earlier_sizes())),
        )

    def _earlier_sizes(self) -> Sequence[int]:
        sizes = map(self.size, range(len(self)))
        return [-1 if size is None else size for size in sizes]


class _Items(Images):
    """What is indexed by number: a tensor, or a Dataset of images or of (image, label)."""

    def __init__(self, items: Any, batch: int = 64, workers: int = 0) -> None:
        super().__init__(batch, workers)
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    @cached_property
    def names(self) -> list[str]:  # type: ignore[override]
        return [f"image {number}" for number in range(len(self))]

    @cached_property
    def labels(self) -> Tensor:  # type: ignore[override]
        return _labels_of(self._items)

    @cached_property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        names = tuple(map(str, getattr(self._items, "classes", None) or ()))
        named = ((self.labels >= 0) & (self.labels < len(names))).all()
        return names if named else ()

    def read(self, number: int) -> Tensor:
        try:
            item = self._items[number]
        except UNREADABLE as error:
            raise ValueError(f"image {number} cannot be read: {error}") from error
        return tensor_in(item, 3, f"an image must be a tensor [C,H,W], image {number} is")


def _labels_of(items: Any) -> Tensor:
    """The ``targets`` of a Dataset, int64 [N], as torchvision's classes have them; -1 where they
    are something else, as the files or boxes of other Datasets."""
    unknown = torch.full((len(items),), -1)
    try:
        found = torch.as_tensor(getattr(items, "targets", unknown))
    except (TypeError, ValueError, RuntimeError):
        return unknown
    whole = found.dtype in (torch.uint8, torch.int16, torch.int32, torch.int64)
    return found.long() if whole and found.shape == unknown.shape else unknown


class _Held(_Items):
    """A tensor [N,C,H,W], which no worker needs to read."""

    def __init__(self, images: Tensor, batch: int = 64) -> None:
        super().__init__(batch_in(images), batch)

    def batches(self) -> Iterator[Tensor]:
        return iter(self._items.split(self.batch))

    def block(self, numbers: Sequence[int], kind: Kind | None = None) -> Block:
        return Block(numbers, self._items[torch.as_tensor(numbers)])


class _Labelled(_Items):
    """A data set of ours, which makes a batch faster than its pictures one by one."""

    @cached_property
    def names(self) -> list[str]:  # type: ignore[override]
        classes = [name.replace("/", "-") for name in self.class_names]
        return [f"{number} {classes[label]}" for number, label in enumerate(self.labels)]

    @cached_property
    def labels(self) -> Tensor:  # type: ignore[override]
        return self._items.labels

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return self._items.class_names

    def read(self, number: int) -> Tensor:
        return self._items[number][0].contiguous()

    def block(self, numbers: Sequence[int], kind: Kind | None = None) -> Block:
        return Block(numbers, self._items.batch(torch.as_tensor(numbers))[0])


class _Indexed(_Items):
    """Another Dataset; in a pass torch makes its batches, and an image that cannot be read ends
    it."""

    def __init__(self, dataset: Dataset[Any], batch: int = 64, workers: int = 0) -> None:
        super().__init__(dataset, batch, workers)
        self._pass = Batches(loader_of(dataset, batch, workers))

    def batches(self) -> Iterator[Tensor]:
        return self._pass.batches()

    def pick(self, numbers: Sequence[int]) -> Iterator[Tensor]:
        return self._pass.pick(numbers)


# --- what a user gives ----------------------------------------------------------------------------

Source: TypeAlias = Images | Batches
ImageData = Tensor | Dataset[Any] | Iterable[Any] | Images


def source_of(images: ImageData | Source, batch: int = 64, workers: int = 0) -> Source:
    """``images`` as what can be gone through more than once, in the same order each time.

    Args:
        images: a tensor [N,C,H,W]; :class:`zfcuda.data.Examples`; a ``torch.utils.data``
            Dataset of images [C,H,W]; a DataLoader; a source; or anything else that gives batches
            [n,C,H,W] and can be iterated over again, such as a list. Of a tuple or list, as (image,
            label), the first entry counts.
        batch: how many images of a tensor or a Dataset are read at a time.
        workers: processes that read a Dataset; 0 reads in this one.

    Raises:
        TypeError: none of these, or an iterator, which can be gone through only once.
        ValueError: a DataLoader that shuffles.
    """
    batch, workers = operator.index(batch), operator.index(workers)
    if isinstance(images, Source):
        return images
    if isinstance(images, Tensor):
        return _Held(images, batch)
    if isinstance(images, Examples):
        return _Labelled(images, batch, workers)
    if isinstance(images, IterableDataset):
        return Batches(loader_of(images, batch, workers))
    if isinstance(images, Dataset):
        return _Indexed(images, batch, workers)
    if isinstance(images, Iterator):
        raise TypeError(
            f"images are gone through twice, but a {type(images).__name__} only once; pass a "
            "tensor, a Dataset, a DataLoader or a list of batches"
        )
    if isinstance(images, Iterable) and not isinstance(images, str | bytes | dict):
        return Batches(images)
    raise TypeError(
        "images must be a tensor [N,C,H,W], a Dataset, a DataLoader or batches of images, got "
        f"{type(images).__name__}"
    )


def numbered(images: Images | Tensor | Dataset[Any], batch: int = 64, workers: int = 0) -> Images:
    """``images`` by number, for an experiment over all of them.

    Args:
        images: a tensor [N,C,H,W]; :class:`zfcuda.data.Examples`; a ``torch.utils.data``
            Dataset with a length, of images [C,H,W] or of (image, label).
        batch, workers: as of :func:`source_of`.

    Raises:
        TypeError: none of these.
        ValueError: there are no images.
    """
    if isinstance(images, Tensor) and images.dim() != 4:
        raise ValueError(f"images must be [N,C,H,W], got shape {list(images.shape)}")
    known = isinstance(images, Images | Tensor | Dataset) and hasattr(images, "__len__")
    found = source_of(images, batch, workers) if known else None
    if not isinstance(found, Images):
        raise TypeError(
            "images must be a tensor [N,C,H,W] or a Dataset that knows its length, so that each "
            f"can be read by its number, got {type(images).__name__}"
        )
    if not len(found):
        raise ValueError("there are no images")
    return found
