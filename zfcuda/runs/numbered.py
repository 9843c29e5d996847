"""Images by number: any of them at any time, for runs that are stopped and go on.

Reading an image tells only about itself, so that it does not matter which others are read, by which
process, and when.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from zfcuda._blocks import UNREADABLE
from zfcuda.data.preprocessing import Preprocessing
from zfcuda.data.reading import read_image
from zfcuda.datasets.examples import Examples
from zfcuda.inference.checks import plain
from zfcuda.storage.identity import tensor_digest

__all__ = ["ImageFiles", "Numbered", "numbered", "reading", "tried"]

_LOOKED_AT = 8  # images whose inputs are part of a data set's identity


@runtime_checkable
class Numbered(Protocol):
    """N images.

    Attributes:
        names: of each; what files of its results are called after.
        labels: int64 [N], -1 where there is none.
        class_names: of the labels.
    """

    names: Sequence[str]
    labels: Tensor
    class_names: tuple[str, ...]

    def __len__(self) -> int: ...

    def read(self, number: int) -> Tensor:
        """The network's input [C,H,W].

        Raises:
            ValueError: it cannot be read; a sentence that says which image, and why.
        """

    def identity(self) -> dict[str, Any]:
        """What the images are, in hashes by what they are of."""


def numbered(images: Numbered | Tensor | Dataset[Any]) -> Numbered:
    """``images`` by number.

    Args:
        images: a tensor [N,C,H,W]; :class:`zfcuda.datasets.Examples`; a ``torch.utils.data``
            Dataset with a length, of images [C,H,W] or of (image, label).

    Raises:
        TypeError: none of these.
        ValueError: there are no images.
    """
    if isinstance(images, Tensor):
        if images.dim() != 4:
            raise ValueError(f"images must be [N,C,H,W], got shape {list(images.shape)}")
        found: Numbered = _Items(images)
    elif isinstance(images, Examples):
        found = _NumberedExamples(images)
    elif isinstance(images, Numbered):
        found = images
    elif isinstance(images, Dataset) and hasattr(images, "__len__"):
        found = _Items(images)
    else:
        raise TypeError(
            "images must be a tensor [N,C,H,W] or a Dataset that knows its length, so that each "
            f"can be read by its number, got {type(images).__name__}"
        )
    if not len(found):
        raise ValueError("there are no images")
    return found


def tried(images: Numbered, number: int) -> Tensor | str:
    """An image, or the sentence that says why it cannot be read."""
    try:
        return images.read(number)
    except ValueError as error:
        return str(error) or f"image {number} cannot be read"


def size_of(images: Numbered, number: int) -> int | None:
    """Bytes of an image's file; None where it has none, or it is not there."""
    size = getattr(images, "size", None)
    return None if size is None else size(number)


def earlier_identity(images: Numbered) -> dict[str, str]:
    """What zfcuda 0.1.0 wrote down of :meth:`Numbered.identity`."""
    identity = getattr(images, "earlier_identity", None)
    return {} if identity is None else identity()


def reading(
    images: Numbered, groups: Sequence[tuple[Sequence[int], Sequence[int]]], workers: int = 0
) -> Iterator[list[Tensor | str | None]]:
    """The images of each group in turn, read ahead by ``workers`` processes (0: by this one).

    Args:
        groups: of each its numbers, and those of them that matter: where none of these can be
            read, the others are None, since nobody wants them.
    """
    loader: Iterable[Any] = DataLoader(
        _NumberedGroups(images, groups),
        batch_size=None,
        num_workers=workers,
        generator=torch.Generator(),  # a number is drawn, else from torch's own state
    )
    return iter(loader)


class _NumberedGroups(Dataset[list[Tensor | str | None]]):
    def __init__(
        self, images: Numbered, groups: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> None:
        self._images, self._groups = images, groups

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, index: int) -> list[Tensor | str | None]:
        numbers, wanted = self._groups[index]
        found: dict[int, Tensor | str] = {n: tried(self._images, n) for n in wanted}
        if any(isinstance(x, Tensor) for x in found.values()):
            found |= {n: tried(self._images, n) for n in numbers if n not in found}
        return [found.get(n) for n in numbers]


# --- kinds of images ------------------------------------------------------------------------------


class ImageFiles:
    """Image files of a folder.

    Args:
        paths: in the order of their numbers.
        folder: that their names are relative to; files in its folders are labelled by the first
            folder, if all lie in some.
        preprocessing: makes the network's input.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        folder: str | os.PathLike[str],
        preprocessing: Preprocessing,
    ) -> None:
        self._paths = [Path(path) for path in paths]
        self._preprocessing = preprocessing
        inside = [path.relative_to(folder) for path in self._paths]
        self.names = [path.as_posix() for path in inside]
        classes = [path.parts[0] if len(path.parts) > 1 else "" for path in inside]
        self.class_names = tuple(sorted({*classes})) if all(classes) else ()
        label = {name: number for number, name in enumerate(self.class_names)}
        self.labels = torch.tensor([label.get(name, -1) for name in classes], dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, number: int) -> Tensor:
        return self._preprocessing.to_input(read_image(self._paths[number]))[0]

    def size(self, number: int) -> int | None:
        try:
            return self._paths[number].stat().st_size
        except OSError:
            return None

    def identity(self) -> dict[str, Any]:
        return _identity(self)

    def earlier_identity(self) -> dict[str, str]:
        sizes = [self.size(number) for number in range(len(self))]
        return _earlier_identity(self, [-1 if size is None else size for size in sizes])


class _Items:
    """A tensor, or a Dataset of images or of (image, label)."""

    def __init__(self, items: Any) -> None:
        self._items = items
        self.names = [f"image {number}" for number in range(len(items))]
        self.labels = _labels_of(items)
        names = tuple(map(str, getattr(items, "classes", None) or ()))
        named = ((self.labels >= 0) & (self.labels < len(names))).all()
        self.class_names = names if named else ()

    def __len__(self) -> int:
        return len(self._items)

    def read(self, number: int) -> Tensor:
        try:
            item = self._items[number]
        except UNREADABLE as error:
            raise ValueError(f"image {number} cannot be read: {error}") from error
        while isinstance(item, list | tuple) and item:
            item = item[0]
        if not isinstance(item, Tensor) or item.dim() != 3:
            got = f"shape {list(item.shape)}" if isinstance(item, Tensor) else type(item).__name__
            raise TypeError(f"an image must be a tensor [C,H,W], image {number} is {got}")
        return plain(item)

    def identity(self) -> dict[str, Any]:
        return _identity(self)

    def earlier_identity(self) -> dict[str, str]:
        return _earlier_identity(self)


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


class _NumberedExamples:
    """A data set of ours."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples
        self.labels, self.class_names = examples.labels, examples.class_names
        classes = [name.replace("/", "-") for name in self.class_names]
        self.names = [f"{number} {classes[label]}" for number, label in enumerate(self.labels)]

    def __len__(self) -> int:
        return len(self._examples)

    def read(self, number: int) -> Tensor:
        return self._examples[number][0].contiguous()

    def identity(self) -> dict[str, Any]:
        return _identity(self)

    def earlier_identity(self) -> dict[str, str]:
        return _earlier_identity(self)


def _identity(images: Numbered) -> dict[str, Any]:
    """Names and labels of all; by number the inputs of some that can be read, evenly spread. Not
    the sizes of files, which each result bears: one that is repaired has another."""
    return {
        "images": _names_digest(images, ()),
        "inputs": {
            str(number): tensor_digest(x) for number, x in _some(images) if isinstance(x, Tensor)
        },
    }


def _earlier_identity(images: Numbered, sizes: Sequence[int] = ()) -> dict[str, str]:
    seen = [tensor_digest(x) if isinstance(x, Tensor) else "" for _, x in _some(images)]
    return {
        "images": _names_digest(images, sizes),
        "inputs": hashlib.sha256(" ".join(seen).encode()).hexdigest(),
    }


def _names_digest(images: Numbered, sizes: Sequence[int]) -> str:
    digest = hashlib.sha256()
    for name in images.names:
        digest.update(f"{name}\n".encode("utf-8", "surrogateescape"))
    digest.update(repr([*sizes]).encode())
    digest.update(tensor_digest(images.labels).encode())
    return digest.hexdigest()


def _some(images: Numbered) -> Iterator[tuple[int, Tensor | str]]:
    count = min(len(images), _LOOKED_AT)
    for place in range(count):
        number = place * len(images) // count
        yield number, tried(images, number)
