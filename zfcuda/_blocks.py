"""Images of a data set in blocks whose composition never changes.

The last bits of a convolution may depend on the images that are computed together. A run that can
be interrupted, resumed and spread over processes gives the same bits each time because image 1000
is always computed with the same neighbours: those of its block. An image that cannot be read is
replaced by zeros in its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from mmap import PAGESIZE
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

__all__ = ["UNREADABLE", "Block", "Blocks", "ByNumber", "block_of", "read_blocks"]

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
