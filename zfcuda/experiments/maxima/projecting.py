"""What the strongest units saw: their windows of the images, projected and as they are; held in
memory, or a layer's written into its file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from zfcuda.cones.boxes import descend_boxes
from zfcuda.cones.descent import in_windows
from zfcuda.cones.operators.signals import at
from zfcuda.data.batches import read_blocks
from zfcuda.data.images import Images, Source
from zfcuda.experiments.deconvnet.projecting import project_listed
from zfcuda.experiments.deconvnet.request import Carried
from zfcuda.experiments.maxima.scanning import Spotter
from zfcuda.experiments.maxima.top import Top, units_of
from zfcuda.graph.guards import Untraceable
from zfcuda.graph.tracing import trace
from zfcuda.inference.checks import result_dtype, to_result, to_results, undisturbed
from zfcuda.inference.passes import progress_bar
from zfcuda.ops.windows import as_maps, pixels
from zfcuda.storage.files import tensor_file
from zfcuda.storage.ranks import Shard

_CHUNK = 2**26  # bytes of pictures that are held together, beside those of the result


@dataclass(frozen=True, eq=False)
class UnitPatches:
    """What was seen of a layer's P units.

    Attributes:
        windows: int64 [P,4], on the image.
        projections, patches: [P,Z,h,w].
        reproduced: [P], the units' values.
    """

    windows: Tensor
    projections: Tensor
    patches: Tensor
    reproduced: Tensor

    @classmethod
    def empty(cls, windows: Tensor, example: Tensor) -> UnitPatches:
        dtype = result_dtype(example.dtype)
        pictures = torch.zeros(len(windows), *_picture(windows, example), dtype=dtype)
        return cls(windows, pictures, pictures.clone(), torch.zeros(len(windows), dtype=dtype))

    def seen(self, rows: Tensor, images: Tensor, carried: Carried) -> tuple[Tensor, ...]:
        """Of the units ``rows``, which were carried down to ``images`` [n,Z,H,W], what there is to
        take in: projections, patches and values, on the images' device."""
        origins, (height, width) = self.windows[rows, :2].numpy(), self.patches.shape[2:]
        # All of a signal lies inside, unless the model could not be followed: then it is a picture.
        projections = in_windows(carried.projected, origins, height, width, images)
        # Not by the cones' ops: those know the CPU and CUDA only.
        places = [origins[:, axis, None] + np.arange(n) for axis, n in enumerate((height, width))]
        image = carried.units[:, 0].numpy()[:, None, None]
        patches = at(pixels(images), image, places[0][:, :, None], places[1][:, None, :])
        return as_maps(projections), as_maps(patches), carried.activations

    def put(self, rows: Tensor, projections: Tensor, patches: Tensor, reproduced: Tensor) -> None:
        """Take in what has been seen of these units."""
        self.projections[rows] = projections
        self.patches[rows] = patches
        self.reproduced[rows] = reproduced


def _see(
    seen: Mapping[str, UnitPatches],
    rows: Mapping[str, Tensor],
    units: Mapping[str, Tensor],
    model: nn.Module,
    images: Tensor,
    numbers: Tensor,
    max_memory: int | None,
) -> None:
    """Take in, by layer, these ``rows`` of the ``units`` [P,4], which are of the ``images`` with
    these ``numbers``, ascending."""
    listed = {name: units[name][own] for name, own in rows.items()}
    for own in listed.values():
        own[:, 0] = torch.searchsorted(numbers, own[:, 0].contiguous())
    waiting: list[tuple[str, tuple[Tensor, ...]]] = []
    for name, carried in project_listed(model, images, listed, max_memory).items():
        waiting.append((name, seen[name].seen(rows[name], images, carried)))
        if sum(tensor.nbytes for _, found in waiting for tensor in found) > _CHUNK:
            _put(seen, rows, waiting)
    _put(seen, rows, waiting)


def _put(
    seen: Mapping[str, UnitPatches],
    rows: Mapping[str, Tensor],
    waiting: list[tuple[str, tuple[Tensor, ...]]],
) -> None:
    """Take in, by layer, what is waiting on the images' device, all of it at once; it goes."""
    told = iter(to_results(dict(enumerate(t for _, found in waiting for t in found))).values())
    for name, found in waiting:
        seen[name].put(rows[name], *islice(told, len(found)))
    waiting.clear()


def project_units(
    model: nn.Module,
    source: Source,
    units: Mapping[str, Tensor],
    windows: Mapping[str, Tensor],
    example: Tensor,
    max_memory: int | None,
    progress: bool,
) -> dict[str, UnitPatches]:
    """Forward the images that ``units`` name once more, and project each of these units.

    Args:
        units: by layer int64 [P,4], (image number, channel, row, column); -1 as number where there
            is none.
        windows: by layer int64 [P,4], what of the image is kept of each unit.

    Raises:
        RuntimeError: images are missing that were there before.
    """
    seen = {layer: UnitPatches.empty(windows[layer], example) for layer in units}
    numbers = torch.cat([rows[:, 0] for rows in units.values()])
    wanted = numbers[numbers >= 0].unique()
    done = 0
    with progress_bar(len(wanted), progress, "projections") as advance:
        for images in source.pick(wanted.tolist()) if len(wanted) else ():
            images = images.to(example.device, non_blocking=True)
            here = wanted[done : done + len(images)]
            rows = {}
            for name, own in units.items():
                some = torch.isin(own[:, 0], here).nonzero()[:, 0]
                if len(some):
                    rows[name] = some[own[some, 0].argsort(stable=True)]
            _see(seen, rows, units, model, images, here, max_memory)
            done += len(here)
            advance(len(here))
    if done < len(wanted):
        raise RuntimeError(
            f"{len(wanted) - done} of {len(wanted)} images were not there when they were read again"
        )
    return seen


def _picture(windows: Tensor, example: Tensor) -> tuple[int, ...]:
    """[Z,h,w], the shape of a unit's picture."""
    size = (windows[0, 2:] - windows[0, :2]).tolist() if len(windows) else (0, 0)
    return example.shape[1], *size


def difference(top: Top, channels: Tensor, seen: UnitPatches) -> float:
    """See :attr:`TopActivations.difference`."""
    recorded = to_result(top.values)[channels].flatten()
    there = recorded.isfinite()
    if not there.any():
        return 0.0
    recorded, reproduced = recorded[there], seen.reproduced[there]
    largest = recorded.abs().max().clamp_min(torch.finfo(recorded.dtype).tiny)
    # What is no number now differs most, and no NaN may hide another layer's difference.
    return float(((recorded - reproduced).abs() / largest).nan_to_num(nan=torch.inf).max())


def field_windows(
    model: nn.Module, example: Tensor, units: Mapping[str, Tensor], tops: Mapping[str, Top]
) -> dict[str, Tensor]:
    """By layer, windows int64 [P,4] of the image, of one size, that hold the receptive fields of
    units.

    The size is that of the layer's largest field, at most the image's. Where a field hangs over the
    edge of the image its window is moved inwards. All of the image, where anything may depend on
    everything or the model cannot be followed.

    ``units`` are int64 [P,4], (image number, channel, row, column).
    """
    size = example.shape[2:]
    with undisturbed(model):
        try:
            graph = trace(model, example, [*units])
        except Untraceable:
            graph = None
    windows = {}
    for layer, own in units.items():
        maps = tops[layer].size
        node = graph and graph.layer(layer)
        rows, columns = np.indices(maps).reshape(2, -1)
        boxes = np.stack([rows, columns, rows + 1, columns + 1], 1)
        fields = descend_boxes(graph, node, boxes).get(0) if node and node.is_map else None
        if fields is None:
            fields = np.tile(np.array([0, 0, *size]), (len(boxes), 1))
        extent = (fields[:, 2:] - fields[:, :2]).max(0)
        first = fields[(own[:, 2] * maps[1] + own[:, 3]).numpy(), :2]
        origins = np.minimum(first, np.array(size) - extent)
        windows[layer] = torch.from_numpy(np.concatenate([origins, origins + extent], 1))
    return windows


# --- a layer's, into its file: what is held in memory is one chunk of them -----------------------

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
    example, units = spotter.example, units_of(top, channels)
    windows = field_windows(spotter.model, example, {layer: units}, {layer: top})[layer]
    chunks = _chunks(units, windows, example)
    own = shard.own(chunks)
    groups = [units[rows, 0].unique().tolist() for rows in own]
    blocks = zip(own, read_blocks(source, groups, source.workers, example), strict=True)
    file = _layer_file(path, layer, top, channels, windows, example)
    title, total = f"projections of {layer}", sum(map(len, chunks))
    with (
        file if shard.first else nullcontext() as seen,
        progress_bar(total, shown and shard.first, title) as advance,
    ):
        for start in range(0, len(chunks), shard.world):
            part = None
            for rows, block in islice(blocks, 1):
                part = UnitPatches.empty(windows[rows], example)
                images = block.read_again().to(example.device, non_blocking=True)
                numbers = torch.tensor(block.numbers)
                every, of = {layer: torch.arange(len(rows))}, {layer: units[rows]}
                _see({layer: part}, every, of, spotter.model, images, numbers, memory)
            for rows, found in zip(chunks[start:], shard.gather(part), strict=False):
                seen.put(rows, found.projections, found.patches, found.reproduced)
                advance(len(rows))
    shard.wait()


@contextmanager
def _layer_file(
    path: Path, layer: str, top: Top, channels: Tensor, windows: Tensor, example: Tensor
) -> Iterator[UnitPatches]:
    """The file, and in it what is seen of the units, which is still to be filled in."""
    k, chosen = top.values.shape[1], len(channels)
    values = to_result(top.values)
    pictures = (values.dtype, (chosen, k, *_picture(windows, example)))
    whole = {"positions": top.positions.cpu(), "images": top.numbers.cpu(), "values": values}
    whole |= {"channels": channels, "boxes": windows.unflatten(0, (chosen, k))}
    shapes = {name: (tensor.dtype, tensor.shape) for name, tensor in whole.items()}
    shapes |= {"projections": pictures, "patches": pictures, "difference": (torch.float64, (1,))}
    with tensor_file(path, shapes, {"layer": layer}) as tensors:
        for name, tensor in whole.items():
            tensors[name].copy_(tensor)
        reproduced = torch.zeros(chosen * k, dtype=values.dtype)
        flat = (tensors[name].flatten(0, 1) for name in ("projections", "patches"))
        seen = UnitPatches(windows, *flat, reproduced)
        yield seen
        tensors["difference"][0] = difference(top, channels, seen)


def _chunks(units: Tensor, windows: Tensor, example: Tensor) -> list[Tensor]:
    """The rows of units that are there, by image, in groups: all but the last of one size."""
    there = (units[:, 0] >= 0).nonzero()[:, 0]
    rows = there[units[there, 0].argsort(stable=True)]
    bytes_each = 2 * max(1, math.prod(_picture(windows, example))) * example.element_size()
    size = max(1, min(_MOST, _CHUNK // bytes_each))
    return [*rows.split(size)] if len(rows) else []
