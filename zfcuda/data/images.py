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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from mmap import PAGESIZE
from pathlib import Path
from typing import Any, Self

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
_INSPECTED = 8  # images whose inputs are part of a data set's identity


# --- blocks ---------------------------------------------------------------------------------------


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

    def read_again(self) -> Tensor:
        """The images [n,C,H,W], all of which could be read before.

        Raises:
            RuntimeError: one cannot be read any more.
        """
        if self.images is None or self.problems:
            wrong = next(iter(self.problems.values()))
            raise RuntimeError(
                f"an image cannot be read a second time: {wrong}; start again when it can be"
            )
        return self.images

    def pin_memory(self) -> Self:
        """For a DataLoader that hands blocks to a GPU; images that are there already stay."""
        if self.images is None or self.images.device.type != "cpu":
            return self
        return replace(self, images=self.images.pin_memory())


def in_blocks(total: int, size: int) -> list[range]:
    """The numbers 0 to ``total`` - 1 in stretches of ``size``, the last one shorter."""
    return [range(first, min(first + size, total)) for first in range(0, total, size)]


def read_blocks(
    images: Images,
    groups: Sequence[Sequence[int]],
    workers: int = 0,
    like: Tensor | None = None,
    wanted: Sequence[Sequence[int]] | None = None,
) -> Iterator[Block]:
    """The images of each group of numbers, in this order.

    Workers read ahead, two blocks each, so that what is held does not grow with the number of
    groups.

    Args:
        workers: processes that read; 0 reads in this one.
        like: [1,C,H,W], what all images are like; they go to its device next.
        wanted: of each group the numbers that matter: its images are then read one by one, and
            those that matter first, for where none of these can be read nobody wants the others.

    Raises:
        ValueError: images of several sizes or types.
    """
    workers = min(workers, len(groups))
    pinned = like is not None and like.device.type == "cuda"
    loader = DataLoader(
        _Groups(images, groups, wanted, None if like is None else (like.shape[1:], like.dtype)),
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
    def __init__(
        self,
        images: Images,
        groups: Sequence[Sequence[int]],
        wanted: Sequence[Sequence[int]] | None,
        kind: Kind | None,
    ) -> None:
        self._images, self._groups, self._wanted, self._kind = images, groups, wanted, kind

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, index: int) -> Block:
        numbers = self._groups[index]
        if self._wanted is None:
            return self._images.block(numbers, self._kind)
        return self._images.one_by_one(numbers, self._wanted[index], self._kind)


def _as_it_is(block: Any) -> Any:
    return block


# --- images by number -----------------------------------------------------------------------------


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
            raise ValueError(
                f"none of the {len(self):,} images can be read; the last: "
                f"{self.problems[len(self) - 1]}"
            )

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


Kind = tuple[torch.Size, torch.dtype]


def _digest(*parts: object) -> str:
    """sha256 of texts, and of tensors with their dtype and shape."""
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
        return _tensor_in(item, 3, f"an image must be a tensor [C,H,W], image {number} is")


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


def _tensor_in(item: Any, dims: int, expected: str) -> Tensor:
    """A tensor, or the first one of the pair or list that begins with it."""
    while isinstance(item, list | tuple) and item:
        item = item[0]
    if not isinstance(item, Tensor) or item.dim() != dims:
        got = f"shape {list(item.shape)}" if isinstance(item, Tensor) else type(item).__name__
        raise TypeError(f"{expected} {got}")
    return plain(item)


def _batch_in(item: Any) -> Tensor:
    return _tensor_in(item, 4, "images must come in batches [n,C,H,W], got")


class _Held(_Items):
    """A tensor [N,C,H,W], which no worker needs to read."""

    def __init__(self, images: Tensor, batch: int = 64) -> None:
        super().__init__(_batch_in(images), batch)

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
        self._pass = Batches(_loading(dataset, batch, workers))

    def batches(self) -> Iterator[Tensor]:
        return self._pass.batches()

    def pick(self, numbers: Sequence[int]) -> Iterator[Tensor]:
        return self._pass.pick(numbers)


# --- images in their order only -------------------------------------------------------------------


class Batches:
    """Anything that gives the same batches [n,C,H,W] each time.

    Attributes:
        total: how many images there are, where that is known before the end: of a DataLoader that
            goes through a Dataset in order, from which images can be picked directly.

    Raises:
        ValueError: a DataLoader that shuffles.
    """

    def __init__(self, batches: Iterable[Any]) -> None:
        self._given = batches
        self.total: int | None = None
        if isinstance(batches, DataLoader) and _in_order(batches):
            self.total = len(batches.dataset)  # type: ignore[arg-type]
        self._direct = self.total is not None

    def batches(self) -> Iterator[Tensor]:
        """All images, [n,C,H,W] at a time."""
        seen = 0
        for batch in map(_batch_in, self._given):
            yield batch
            seen += len(batch)
        # A collate function may leave images out (broken files): then numbers are not indices.
        self._direct &= seen == self.total

    def pick(self, numbers: Sequence[int]) -> Iterator[Tensor]:
        """The images with these numbers (ascending), in this order, [n,C,H,W] at a time."""
        if self._direct:
            loader: Any = self._given
            yield from map(
                _batch_in,
                DataLoader(
                    Subset(loader.dataset, numbers),
                    loader.batch_size,
                    num_workers=loader.num_workers,
                    collate_fn=loader.collate_fn,
                    generator=loader.generator,
                ),
            )
            return
        wanted, start = torch.tensor(numbers), 0
        for batch in map(_batch_in, self._given):
            stop = start + len(batch)
            here = wanted[(wanted >= start) & (wanted < stop)] - start
            if len(here):
                yield batch[here.to(batch.device)]
            start = stop
            if not len(wanted) or stop > wanted[-1]:
                return


def _in_order(loader: DataLoader[Any]) -> bool:
    """Whether a loader's numbers are its Dataset's."""
    sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
    if isinstance(sampler, RandomSampler):
        raise ValueError(
            "the DataLoader shuffles, so that no image can be found again; make it with "
            "shuffle=False"
        )
    # A batch sampler of the user's own may choose anything; without one the Dataset batches.
    return isinstance(sampler, SequentialSampler) and type(loader.batch_sampler) is BatchSampler


def _loading(dataset: Dataset[Any], batch: int, workers: int) -> DataLoader[Any]:
    """A DataLoader that draws its number from a stream of its own, not from torch's own state."""
    return DataLoader(dataset, batch, num_workers=workers, generator=torch.Generator())


# --- what a user gives ----------------------------------------------------------------------------

Source = Images | Batches
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
        return Batches(_loading(images, batch, workers))
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
    known = isinstance(images, Images | Tensor | Dataset)
    found = source_of(images, batch, workers) if known else None
    if not isinstance(found, Images) or not hasattr(images, "__len__"):
        raise TypeError(
            "images must be a tensor [N,C,H,W] or a Dataset that knows its length, so that each "
            f"can be read by its number, got {type(images).__name__}"
        )
    if not len(found):
        raise ValueError("there are no images")
    return found
