"""Images of a whole data set: all of them batch by batch, and some of them once more by number.

An experiment over a data set finds, in one pass, which images matter, and looks at these again. An
image's number is its place in the pass. Sources whose images can be had in any order are
:class:`zfcuda.data.images.ByNumber` too, which a run that can be interrupted asks for.
"""

from __future__ import annotations

import hashlib
import operator
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from mmap import PAGESIZE
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
)

from zfcuda.data.examples import Examples
from zfcuda.data.preprocessing import Preprocessing
from zfcuda.data.reading import read_image
from zfcuda.inference.checks import plain
from zfcuda.storage.identity import tensor_digest

# What decoders, and Datasets that call them, raise on bad bytes.
UNREADABLE = (OSError, EOFError, SyntaxError, ValueError)


@dataclass(frozen=True, eq=False)
class Block:
    """Some images of a data set.

    Attributes:
        numbers: of the images.
        images: [n,C,H,W], zeros in place of those that could not be read; None if none could.
        problems: what is wrong with these, a sentence each, by number.
    """

    numbers: Sequence[int]
    images: Tensor | None
    problems: Mapping[int, str] = field(default_factory=dict)

    def left_out(self) -> Tensor:
        """bool [n], the images that could not be read."""
        return torch.tensor([number in self.problems for number in self.numbers])

    def pin_memory(self) -> Self:
        """For a DataLoader that hands blocks to a GPU; images that are there already stay."""
        if self.images is None or self.images.device.type != "cpu":
            return self
        return replace(self, images=self.images.pin_memory())


@runtime_checkable
class ByNumber(Protocol):
    """Images of which any can be had at any time.

    Attributes:
        total: how many there are; their numbers are 0 to ``total`` - 1.
        workers: processes that read them.
    """

    total: int
    workers: int

    def block(self, numbers: Sequence[int]) -> Block:
        """The images with these numbers; nobody else needs their tensor, it may be overwritten."""

    def name(self, number: int) -> str:
        """What an image is called, as its file; "" where it has no name."""

    def identity(self) -> str:
        """What tells these images from others, as far as that can be told without reading all of
        them."""


def block_of(numbers: Sequence[int], images: Sequence[Tensor | str]) -> Block:
    """A block of single images [C,H,W], or of sentences about what is wrong with one.

    Raises:
        ValueError: images of several sizes or types.
    """
    pairs = [*zip(numbers, images, strict=True)]
    good = {number: image for number, image in pairs if isinstance(image, Tensor)}
    problems = {number: text for number, text in pairs if isinstance(text, str)}
    if not good:
        return Block(numbers, None, problems)
    first, like = next(iter(good.items()))
    for number, image in good.items():
        if image.shape != like.shape or image.dtype != like.dtype:
            raise ValueError(
                f"images must all be alike: image {number} is {list(image.shape)} {image.dtype}, "
                f"image {first} {list(like.shape)} {like.dtype}"
            )
    blank = torch.zeros_like(like)
    return Block(numbers, torch.stack([good.get(number, blank) for number in numbers]), problems)


def read_blocks(
    source: ByNumber, groups: Sequence[Sequence[int]], device: torch.device | None = None
) -> Iterator[Block]:
    """The images of each group of numbers, in this order.

    The source's workers read ahead, two blocks each, so that what is held does not grow with the
    number of groups.

    Args:
        device: where the images go next.
    """
    workers, pinned = min(source.workers, len(groups)), device is not None and device.type == "cuda"
    loader = DataLoader(
        _Groups(source, groups),
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # a number is drawn, else from torch's own state
        pin_memory=pinned,
    )
    return _received(iter(loader)) if workers and not pinned else iter(loader)


def _received(blocks: Iterator[Block]) -> Iterator[Block]:
    """Blocks from workers, each received by a thread while the one before is computed on: a new
    block is new shared memory, which costs a CPU's network some percent of its time. (For a GPU the
    DataLoader has such a thread.)"""

    def receive() -> Block | None:
        block = next(blocks, None)
        if block is not None and block.images is not None:
            # One byte of each page: it is mapped here.
            data = torch.empty(0, dtype=torch.uint8).set_(block.images.untyped_storage())
            data[::PAGESIZE].any()
        return block

    with ThreadPoolExecutor(1) as receiver:
        coming = receiver.submit(receive)
        while (block := coming.result()) is not None:
            coming = receiver.submit(receive)
            yield block


class _Groups(Dataset[Block]):
    def __init__(self, source: ByNumber, groups: Sequence[Sequence[int]]) -> None:
        self._source, self._groups = source, groups

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, index: int) -> Block:
        return self._source.block(self._groups[index])


def _as_it_is(block: Block) -> Block:
    return block


@dataclass(frozen=True)
class Blocks(Sequence[range]):
    """The numbers 0 to ``total`` - 1 in stretches of ``size``, the last one shorter.

    Attributes:
        chosen: only these of them, by their place; None for all.
    """

    total: int
    size: int
    chosen: Sequence[int] | None = None

    def __len__(self) -> int:
        return -(-self.total // self.size) if self.chosen is None else len(self.chosen)

    def __getitem__(self, index: int) -> range:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = self.size * (index if self.chosen is None else int(self.chosen[index]))
        return range(start, min(start + self.size, self.total))


Images = Tensor | Dataset[Any] | Iterable[Any]


@runtime_checkable
class Source(Protocol):
    """Images that can be gone through more than once, in the same order each time."""

    total: int | None  # None where that is known at the end only

    def batches(self) -> Iterator[Tensor]:
        """All images, [n,C,H,W] at a time."""

    def pick(self, numbers: Sequence[int]) -> Iterator[Tensor]:
        """The images with these numbers (ascending), in this order, [n,C,H,W] at a time."""


def source_of(images: Images, batch: int = 64, workers: int = 0) -> Source:
    """``images`` as a source.

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
    if isinstance(images, Tensor):
        return _Stack(images, batch)
    if isinstance(images, Examples):
        return _Labelled(images, batch, workers)
    if isinstance(images, Source):
        return images
    if isinstance(images, Dataset):
        if isinstance(images, IterableDataset):
            return _Loader(_loading(images, batch, workers))
        return _Numbered(images, batch, workers)
    if isinstance(images, DataLoader):
        return _Loader(images)
    if isinstance(images, Iterator):
        raise TypeError(
            f"images are gone through twice, but a {type(images).__name__} only once; pass a "
            "tensor, a Dataset, a DataLoader or a list of batches"
        )
    if isinstance(images, Iterable) and not isinstance(images, str | bytes | dict):
        return _Batches(images)
    raise TypeError(
        "images must be a tensor [N,C,H,W], a Dataset, a DataLoader or batches of images, got "
        f"{type(images).__name__}"
    )


def _loading(dataset: Dataset[Any], batch: int, workers: int, **more: Any) -> DataLoader[Any]:
    """A DataLoader that draws its number from a stream of its own, not from torch's own state."""
    own = torch.Generator()
    return DataLoader(dataset, batch, num_workers=workers, generator=own, **more)


def _images_in(batch: Any) -> Tensor:
    while isinstance(batch, list | tuple) and batch:
        batch = batch[0]
    if not isinstance(batch, Tensor) or batch.dim() != 4:
        got = f"shape {list(batch.shape)}" if isinstance(batch, Tensor) else type(batch).__name__
        raise TypeError(f"images must come in batches [n,C,H,W], got {got}")
    return plain(batch)


def _image_in(item: Any) -> Tensor:
    while isinstance(item, list | tuple) and item:
        item = item[0]
    if not isinstance(item, Tensor) or item.dim() != 3:
        got = f"shape {list(item.shape)}" if isinstance(item, Tensor) else type(item).__name__
        raise TypeError(f"a Dataset's images must be [C,H,W], got {got}")
    return plain(item)


def _digest(*parts: object) -> str:
    """sha256 of texts, and of tensors with their dtype and shape."""
    digest = hashlib.sha256()
    for part in parts:
        text = tensor_digest(part) if isinstance(part, Tensor) else part
        digest.update(f"{text}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


class _Nameless:
    """Images that have numbers only, read by ``self.block``; told apart by the first and the
    last."""

    total: int

    def name(self, number: int) -> str:
        return ""

    def identity(self) -> str:
        ends = [self.block([number]).images for number in sorted({0, self.total - 1})]  # type: ignore[attr-defined]
        return _digest(self.total, *ends) if self.total else _digest(0)


class _Stack(_Nameless):
    """A tensor [N,C,H,W]."""

    workers = 0

    def __init__(self, images: Tensor, batch: int) -> None:
        self._images = _images_in(images)
        self._batch = batch
        self.total = len(images)

    def batches(self) -> Iterator[Tensor]:
        return iter(self._images.split(self._batch))

    def pick(self, numbers: Sequence[int]) -> Iterator[Tensor]:
        for some in torch.tensor(numbers).split(self._batch):
            yield self._images[some.to(self._images.device)]

    def block(self, numbers: Sequence[int]) -> Block:
        return Block(numbers, self._images[torch.as_tensor(numbers)])


class _Labelled(_Nameless):
    """A data set of ours, which makes a batch faster than its pictures one by one."""

    def __init__(self, examples: Examples, batch: int, workers: int) -> None:
        self._examples = examples
        self._batch = batch
        self.total = len(examples)
        self.workers = workers

    def batches(self) -> Iterator[Tensor]:
        return (x for x, _ in self._examples.batches(self._batch))

    def pick(self, numbers: Sequence[int]) -> Iterator[Tensor]:
        for some in torch.tensor(numbers).split(self._batch):
            yield self._examples.batch(some)[0]

    def block(self, numbers: Sequence[int]) -> Block:
        return Block(numbers, self._examples.batch(torch.as_tensor(numbers))[0])


class Files:
    """Image files; those that cannot be read are left out, unless none can.

    Args:
        paths: in this order.
        preprocessing: makes the network's input.
        batch: files that are read at a time.
        workers: processes that read; 0 reads in this one.

    Attributes:
        read: the files of the images in the order of their numbers, after a pass.
        skipped: what is wrong with the others, a sentence each.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        preprocessing: Preprocessing,
        batch: int = 64,
        workers: int = 0,
    ) -> None:
        self._paths = [Path(path) for path in paths]
        self._root = os.path.commonpath([path.parent for path in self._paths] or ["."])
        self._preprocessing = preprocessing
        self._batch = batch
        self.workers = workers
        self.total = len(self._paths)
        self.read: list[Path] = []
        self.skipped: list[str] = []

    def batches(self) -> Iterator[Tensor]:
        self.read, self.skipped = [], []
        paths = iter(self._paths)
        for inputs in self._decoded(self._paths):
            good = []
            for x, path in zip(inputs, paths, strict=False):
                if isinstance(x, Tensor):
                    good.append(x)
                    self.read.append(path)
                else:
                    self.skipped.append(x)
            if good:
                yield torch.cat(good)
        if self.skipped and not self.read:
            raise ValueError(
                f"none of the {self.total:,} images can be read; the last: {self.skipped[-1]}"
            )

    def pick(self, numbers: Sequence[int]) -> Iterator[Tensor]:
        return map(torch.cat, self._decoded([self.read[number] for number in numbers]))

    def _decoded(self, paths: Sequence[Path]) -> Iterable[list[Tensor | str]]:
        reading = _Reading(paths, self._preprocessing)
        return _loading(reading, self._batch, self.workers, collate_fn=list)

    # By number, those that cannot be read keep theirs.

    def block(self, numbers: Sequence[int]) -> Block:
        reading = _Reading([self._paths[number] for number in numbers], self._preprocessing)
        images = (reading[i] for i in range(len(numbers)))
        return block_of(numbers, [one if isinstance(one, str) else one[0] for one in images])

    def name(self, number: int) -> str:
        return os.path.relpath(self._paths[number], self._root)

    def identity(self) -> str:
        files = (f"{self.name(n)} {_size(path)}" for n, path in enumerate(self._paths))
        return _digest(self._preprocessing, *files)


def _size(path: Path) -> int:
    """Of a file, bytes; -1 of one that is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


class _Reading(Dataset[Tensor | str]):
    """Image files as inputs [1,C,H,W], or a sentence about what is wrong with one."""

    def __init__(self, paths: Sequence[Path], preprocessing: Preprocessing) -> None:
        self._paths, self._preprocessing = paths, preprocessing

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor | str:
        try:
            return self._preprocessing.to_input(read_image(self._paths[index]))
        except ValueError as error:
            return str(error)


class _Batches:
    """Anything that gives the same batches each time."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self._given = batches
        self.total: int | None = None

    def batches(self) -> Iterator[Tensor]:
        return map(_images_in, self._given)

    def pick(self, numbers: Sequence[int]) -> Iterator[Tensor]:
        wanted = torch.tensor(numbers)
        start = 0
        for batch in self.batches():
            stop = start + len(batch)
            here = wanted[(wanted >= start) & (wanted < stop)] - start
            if len(here):
                yield batch[here.to(batch.device)]
            start = stop
            if not len(wanted) or stop > wanted[-1]:
                return


class _Numbered(_Nameless):
    """A Dataset."""

    def __init__(self, dataset: Dataset[Any], batch: int, workers: int) -> None:
        self._dataset = dataset
        self._loader = _Loader(_loading(dataset, batch, workers))
        self.total = len(dataset)  # type: ignore[arg-type]
        self.workers = workers

    def batches(self) -> Iterator[Tensor]:
        return self._loader.batches()

    def pick(self, numbers: Sequence[int]) -> Iterator[Tensor]:
        return self._loader.pick(numbers)

    def block(self, numbers: Sequence[int]) -> Block:
        return block_of(numbers, [self._tried(number) for number in numbers])

    def _tried(self, number: int) -> Tensor | str:
        try:
            item = self._dataset[number]
        except UNREADABLE as error:
            return f"image {number} cannot be read: {error}"
        return _image_in(item)


class _Loader(_Batches):
    """A DataLoader; of one that goes through a Dataset in order, images are picked directly."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        super().__init__(loader)
        sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
        if isinstance(sampler, RandomSampler):
            raise ValueError(
                "the DataLoader shuffles, so that no image can be found again; make it with "
                "shuffle=False"
            )
        self._loader = loader
        in_order = isinstance(sampler, SequentialSampler)
        # A batch sampler of the user's own may choose anything; without one the Dataset batches.
        self._direct = in_order and type(loader.batch_sampler) is BatchSampler
        self.total = len(loader.dataset) if self._direct else None  # type: ignore[arg-type]

    def batches(self) -> Iterator[Tensor]:
        seen = 0
        for batch in super().batches():
            yield batch
            seen += len(batch)
        # A collate function may leave images out (broken files): then numbers are not indices.
        self._direct &= seen == self.total

    def pick(self, numbers: Sequence[int]) -> Iterator[Tensor]:
        if not self._direct:
            yield from super().pick(numbers)
            return
        loader = self._loader
        some: DataLoader[Any] = DataLoader(
            Subset(loader.dataset, numbers),
            loader.batch_size,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            generator=loader.generator,
        )
        yield from map(_images_in, some)


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
        images: a tensor [N,C,H,W]; :class:`zfcuda.data.Examples`; a ``torch.utils.data``
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
