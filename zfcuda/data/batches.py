"""Images as they come out of a DataLoader: blocks of numbered ones, which workers read ahead, and
batches of what can only be gone through in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from mmap import PAGESIZE
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    Subset,
)

from zfcuda.inference.checks import plain


@dataclass(frozen=True, eq=False)
class Block:
    """Some images of a data set."""

    numbers: Sequence[int]
    images: Tensor | None  # [n,C,H,W], zeros where one could not be read; None if none could
    problems: Mapping[int, str] = field(default_factory=dict)  # what is wrong, by number

    def left_out(self) -> Tensor:
        """bool [n], the images that could not be read."""
        return torch.tensor([number in self.problems for number in self.numbers])

    def read_again(self) -> Tensor:
        """The images [n,C,H,W], all of which could be read before; RuntimeError if not now."""
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


Kind = tuple[torch.Size, torch.dtype]


class Numbered(Protocol):
    """What blocks are read from: see :class:`zfcuda.data.images.Images`."""

    def block(self, numbers: Sequence[int], kind: Kind | None = None) -> Block: ...

    def one_by_one(
        self, numbers: Sequence[int], wanted: Sequence[int] | None, kind: Kind | None = None
    ) -> Block: ...


def read_blocks(
    images: Numbered,
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
    kind = None if like is None else (like.shape[1:], like.dtype)
    loader = DataLoader(
        [*zip(groups, wanted or [None] * len(groups), strict=True)],
        batch_size=None,
        num_workers=workers,
        collate_fn=partial(_read, images, kind),
        generator=torch.Generator(),  # a number is drawn, else from torch's own state
        pin_memory=pinned,
    )
    blocks = map(_block, iter(loader))
    return _received(blocks) if workers and not pinned else blocks


def _read(
    images: Numbered, kind: Kind | None, group: tuple[Sequence[int], Sequence[int] | None]
) -> Block | ValueError:
    numbers, wanted = group
    try:
        if wanted is None:
            return images.block(numbers, kind)
        return images.one_by_one(numbers, wanted, kind)
    except ValueError as error:  # handed on: torch raises a worker's with its traceback for a text
        return error


def _block(read: Block | ValueError) -> Block:
    if isinstance(read, ValueError):
        raise read
    return read


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


# --- batches in their order only ---


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
        for batch in map(batch_in, self._given):
            yield batch
            seen += len(batch)
        # A collate function may leave images out (broken files): then numbers are not indices.
        self._direct &= seen == self.total

    def pick(self, numbers: Sequence[int]) -> Iterator[Tensor]:
        """The images with these numbers (ascending), in this order, [n,C,H,W] at a time."""
        if self._direct:
            loader: Any = self._given
            yield from map(
                batch_in,
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
        for batch in map(batch_in, self._given):
            stop = start + len(batch)
            here = wanted[(wanted >= start) & (wanted < stop)] - start
            if len(here):
                yield batch[here.to(batch.device)]
            start = stop
            if not len(wanted) or stop > wanted[-1]:
                return


def _in_order(loader: DataLoader[Any]) -> bool:
    sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
    if isinstance(sampler, RandomSampler):
        raise ValueError(
            "the DataLoader shuffles, so that no image can be found again; make it with "
            "shuffle=False"
        )
    # A batch sampler of the user's own may choose anything; without one the Dataset batches.
    return isinstance(sampler, SequentialSampler) and type(loader.batch_sampler) is BatchSampler


def loader_of(dataset: Dataset[Any], batch: int, workers: int) -> DataLoader[Any]:
    """A DataLoader that draws its number from a stream of its own, not from torch's own state."""
    return DataLoader(dataset, batch, num_workers=workers, generator=torch.Generator())


def tensor_in(item: Any, dims: int, expected: str) -> Tensor:
    """A tensor, or the first one of the pair or list that begins with it."""
    while isinstance(item, list | tuple) and item:
        item = item[0]
    if not isinstance(item, Tensor) or item.dim() != dims:
        got = f"shape {list(item.shape)}" if isinstance(item, Tensor) else type(item).__name__
        raise TypeError(f"{expected} {got}")
    return plain(item)


def batch_in(item: Any) -> Tensor:
    return tensor_in(item, 4, "images must come in batches [n,C,H,W], got")
