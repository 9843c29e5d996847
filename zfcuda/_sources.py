"""Images of a whole data set: all of them batch by batch, and some of them once more by number.

An experiment over a data set finds, in one pass, which images matter, and looks at these again. An
image's number is its place in the pass. Sources whose images can be had in any order are
:class:`zfcuda._blocks.ByNumber` too, which a run that can be interrupted asks for.
"""

from __future__ import annotations

import hashlib
import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

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

from zfcuda._blocks import UNREADABLE, Block, block_of
from zfcuda.data.preprocessing import Preprocessing
from zfcuda.data.reading import read_image
from zfcuda.datasets.examples import Examples
from zfcuda.inference.checks import plain
from zfcuda.storage.identity import tensor_digest

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
        images: a tensor [N,C,H,W]; :class:`zfcuda.datasets.Examples`; a ``torch.utils.data``
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
