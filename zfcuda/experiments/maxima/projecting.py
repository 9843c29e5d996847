"""A layer's units, projected into its file: what is held in memory is one chunk of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zfcuda.data.images import Block, Images, read_blocks
from zfcuda.experiments.deconvnet.projecting import project_listed
from zfcuda.experiments.maxima.looking import View, difference, field_windows
from zfcuda.experiments.maxima.scanning import Spotter
from zfcuda.experiments.maxima.top import Top, units_of
from zfcuda.inference.checks import to_result
from zfcuda.inference.passes import progress_bar
from zfcuda.storage.files import tensor_file
from zfcuda.storage.ranks import Shard

__all__ = ["project_layer"]

_CHUNK = 2**26  # bytes of the pictures of one chunk
_MOST = 256  # units of one chunk


def project_layer(
    path: Path,
    spotter: Spotter,
    source: Images,
    layer: str,
    top: Top,
    channels: Tensor,
    memory: int,
    shard: Shard,
    shown: bool,
) -> None:
    """Write the file of a layer: its strongest activations, those of ``channels`` projected.

    Units go in the order of their images, in chunks that are the same for any number of processes;
    each process projects its share of the chunks, and rank 0 writes.

    Args:
        memory: bytes that activations may take.

    Raises:
        RuntimeError: an image that was there in the pass cannot be read any more.
    """
    units = units_of(top, channels)
    places = {layer: (units[:, 2:], top.size)}
    windows = field_windows(spotter.model, spotter.example, places)[layer]
    chunks = _Chunks.of(units, windows, spotter.example)
    work = _Work(spotter, source, layer, chunks, memory, shard, shown)
    if shard.first:
        _write(path, top, channels, windows, work)
    else:
        for _ in work.all():
            pass
    shard.wait()


def _write(path: Path, top: Top, channels: Tensor, windows: Tensor, work: _Work) -> None:
    k, chosen = top.values.shape[1], len(channels)
    values = to_result(top.values)
    pictures = (values.dtype, (chosen, k, *work.chunks.picture))
    whole = {"positions": top.positions.cpu(), "images": top.numbers.cpu(), "values": values}
    whole |= {"channels": channels, "boxes": windows.unflatten(0, (chosen, k))}
    shapes = {name: (tensor.dtype, tensor.shape) for name, tensor in whole.items()}
    shapes |= {"projections": pictures, "patches": pictures, "difference": (torch.float64, (1,))}
    with tensor_file(path, shapes, {"layer": work.layer}) as tensors:
        for name, tensor in whole.items():
            tensors[name].copy_(tensor)
        reproduced = torch.zeros(chosen * k, dtype=values.dtype)
        flat = (tensors[name].flatten(0, 1) for name in ("projections", "patches"))
        view = View(windows, *flat, reproduced)
        for rows, part in work.all():
            view.put(rows, part)
        tensors["difference"][0] = difference(top, channels, view)


@dataclass(frozen=True, eq=False)
class _Chunks(Sequence[list[int]]):
    """A layer's units in groups, as the numbers of the images that they are on.

    Attributes:
        units: int64 [P,4], (image, channel, row, column).
        windows: int64 [P,4].
        rows: int64 [Q], the units that are there, by image.
        size: units of a chunk.
        picture: [Z,h,w], the shape of a unit's picture.
    """

    units: Tensor
    windows: Tensor
    rows: Tensor
    size: int
    picture: tuple[int, ...]

    @classmethod
    def of(cls, units: Tensor, windows: Tensor, example: Tensor) -> _Chunks:
        there = (units[:, 0] >= 0).nonzero()[:, 0]
        rows = there[units[there, 0].argsort(stable=True)]
        extent = (windows[0, 2:] - windows[0, :2]).tolist() if len(windows) else (0, 0)
        picture = (example.shape[1], *extent)
        bytes_each = 2 * max(1, torch.Size(picture).numel()) * example.element_size()
        size = max(1, min(_MOST, _CHUNK // bytes_each))
        return cls(units, windows, rows, size, picture)

    def __len__(self) -> int:
        return -(-len(self.rows) // self.size)

    def rows_of(self, index: int) -> Tensor:
        return self.rows[index * self.size : (index + 1) * self.size]

    def __getitem__(self, index: int) -> list[int]:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.units[self.rows_of(index), 0].unique().tolist()


@dataclass(frozen=True, eq=False)
class _Work:
    """A process's share of a layer's chunks, and of all of them at rank 0."""

    spotter: Spotter
    source: Images
    layer: str
    chunks: _Chunks
    memory: int
    shard: Shard
    shown: bool

    def all(self) -> Iterator[tuple[Tensor, View]]:
        """Rows and what was seen of them: at rank 0 of every process's chunks."""
        own = self.shard.own(range(len(self.chunks)))
        groups = [self.chunks[index] for index in own]
        read = read_blocks(self.source, groups, self.source.workers, self.spotter.example)
        blocks = zip(own, read, strict=True)
        title = f"projections of {self.layer}"
        shown = self.shown and self.shard.first
        with progress_bar(len(self.chunks.rows), shown, title) as advance:
            for start in range(0, len(self.chunks), self.shard.world):
                mine = next(blocks, None)
                part = None if mine is None else self._project(*mine)
                for rank, view in enumerate(self._gathered(part)):
                    if start + rank < len(self.chunks):
                        rows = self.chunks.rows_of(start + rank)
                        advance(len(rows))
                        yield rows, view.first(len(rows))

    def _project(self, index: int, block: Block) -> View:
        images = block.read_again().to(self.spotter.example.device)
        rows = self.chunks.rows_of(index)
        units = self.chunks.units[rows].clone()
        units[:, 0] = torch.searchsorted(torch.tensor(block.numbers), units[:, 0].contiguous())
        found = project_listed(self.spotter.model, images, {self.layer: units}, self.memory)
        view = View.empty(self.chunks.windows[rows], self.spotter.example)
        view.fill(torch.arange(len(rows)), images[units[:, 0]], *found[self.layer])
        return view

    def _gathered(self, own: View | None) -> list[View]:
        """Every rank's view at rank 0, padded to a chunk's size where there are several."""
        if self.shard.world == 1:
            return [] if own is None else [own]
        blank = View.empty(
            self.chunks.windows[:1].expand(self.chunks.size, 4), self.spotter.example
        )
        if own is not None:
            blank.put(torch.arange(len(own.reproduced)), own)
        parts = (blank.projections, blank.patches, blank.reproduced)
        ranks = zip(*map(self.shard.gather, parts), strict=True)
        return [View(blank.windows, *one) for one in ranks]
