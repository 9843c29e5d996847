"""The strongest activations of every map over a data set (Zeiler & Fergus 2014, figure 2)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zfcuda import cone
from zfcuda._running import (
    check_input,
    evaluating,
    feature_maps,
    find_layers,
    is_int,
    layer_outputs,
    memory_limit,
    progress_bar,
    require_called,
    spans,
    to_result,
    undisturbed,
)
from zfcuda._sources import Images, Source, source_of
from zfcuda.backward_cone import Projected
from zfcuda.deconvnet import project_listed
from zfcuda.graph import Untraceable, trace
from zfcuda.interception import fast_forward
from zfcuda.results import Result, _expect

__all__ = ["Maps", "TopActivations", "top_activations"]

Maps = int | str | Sequence[int] | Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class TopActivations(Result):
    """The k strongest activations of every map over a data set, one per image, and some of them
    projected (Zeiler & Fergus 2014, figure 2).

    C is the number of maps of a layer, M of those that were projected, Z of the image's channels.

    Attributes:
        layers: the layers' names.
        values: per layer [C,k], descending; -inf where there were fewer than k images.
        images: per layer int64 [C,k], which image of the data set; -1 where there is none.
        positions: per layer int64 [C,k,2], (row, column) on the map; 0 in a layer of vectors.
        channels: per layer int64 [M], the maps that were projected, ascending.
        boxes: per layer int64 [M,k,4], (y0, x0, y1, x1), half open, pixels: a window of one size
            that holds the unit's receptive field; near the edge of the image it is moved inwards.
            Where there is no unit it means nothing, and what was seen there is zero.
        projections: per layer [M,k,Z,h,w], what the unit saw (:func:`zfcuda.project`), in network
            input space.
        patches: per layer [M,k,Z,h,w], the same windows of the images.
        difference: per layer, the largest |recorded - reproduced| activation of the projected units
            as a share of the largest recorded: what was projected is what was found.
        undefined: per layer, the number of images that were left out of a map or more, because the
            map held a NaN.
        count: number of images.
        image_size: (H, W).
        seconds: wall time.
    """

    layers: tuple[str, ...]
    values: dict[str, Tensor]
    images: dict[str, Tensor]
    positions: dict[str, Tensor]
    channels: dict[str, Tensor]
    boxes: dict[str, Tensor]
    projections: dict[str, Tensor]
    patches: dict[str, Tensor]
    difference: dict[str, float]
    undefined: dict[str, int]
    count: int
    image_size: tuple[int, int]
    seconds: float
    _figure = "top_activations"

    def __post_init__(self) -> None:
        for layer in self.layers:
            _expect(f"values[{layer!r}]", self.values[layer], None, None)
            maps, k = self.values[layer].shape
            _expect(f"images[{layer!r}]", self.images[layer], maps, k)
            _expect(f"positions[{layer!r}]", self.positions[layer], maps, k, 2)
            _expect(f"channels[{layer!r}]", self.channels[layer], None)
            chosen = len(self.channels[layer])
            _expect(f"boxes[{layer!r}]", self.boxes[layer], chosen, k, 4)
            _expect(f"projections[{layer!r}]", self.projections[layer], chosen, k, None, None, None)
            _expect(f"patches[{layer!r}]", self.patches[layer], *self.projections[layer].shape)

    @property
    def k(self) -> int:
        """How many activations of each map."""
        return next(iter(self.values.values())).shape[1]


@torch.inference_mode(False)  # nothing made here is an inference tensor
def top_activations(
    model: nn.Module,
    images: Images,
    layers: str | Sequence[str],
    k: int = 9,
    maps: Maps = 10,
    tolerance: float | None = None,
    batch: int = 64,
    workers: int = 0,
    max_memory: int | None = None,
    progress: bool = False,
) -> TopActivations:
    """The k images that excite each map most, where they do so, and what the map saw there.

    All images go through the model once, for all layers together; of every map the k largest
    activations are kept, at most one of each image. What is kept does not grow with the number of
    images. The images of the chosen ``maps`` are then read and forwarded once more, and each of
    these activations is projected to the image on its own (:func:`zfcuda.project`).

    Larger activations come first, of equal ones that of the earlier image, and in an image the
    first in raster order. A map that holds a NaN is left out for that image, since its maximum
    means nothing; the result counts these images.

    Args:
        model: any CNN; runs in eval mode and is left as it was.
        images: a tensor [N,C,H,W] as the model takes it; a ``torch.utils.data`` Dataset of images
            [C,H,W]; a DataLoader that does not shuffle; or anything else that gives batches and can
            be iterated over twice, such as a list. Of (image, label) the image counts. Batches are
            moved to the model's device.
        layers: names of ``model.named_modules()``, giving maps [N,C,H,W], or vectors [N,F] taken as
            F maps of one element.
        k: activations of each map.
        maps: which maps are projected: so many of each layer, evenly spread over those that respond
            at all (whose strongest activation is above 0); "all"; these channels; or one of the
            three by layer. The result grows with them.
        tolerance: warn where a recorded and a reproduced activation differ by more than this share
            of the layer's largest: images then differ each time they are read. By default 1e-3, 0.1
            for 16-bit models.
        batch: images of a tensor or Dataset that are read at a time.
        workers: processes that read a Dataset.
        max_memory: bytes that the activations of one batch may take; by default half of what is
            free on a GPU, a quarter (at most 128 MiB) on a CPU.
        progress: show progress bars.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or out of range, images of several
            sizes, no images.
        RuntimeError: the model did not call a layer.
    """
    began = perf_counter()
    names = list(find_layers(model, layers))
    if not names:
        raise ValueError("layers must name at least one layer")
    if not is_int(k) or k < 1:
        raise ValueError(f"k must be a positive int, got {k!r}")
    source = source_of(images, batch, workers)
    limit = memory_limit(max_memory, _device(model))
    tops, seen = _scan(model, source, names, int(k), limit, progress)
    channels = {name: _chosen(maps, name, top) for name, top in tops.items()}
    units = {name: _units(top, channels[name]) for name, top in tops.items()}
    windows = field_windows(
        model, seen.example, {name: (units[name][:, 2:], top.size) for name, top in tops.items()}
    )
    views = _look_again(model, source, units, windows, seen.example, max_memory, progress)
    differences = {name: _difference(tops[name], channels[name], views[name]) for name in names}
    _warn_beyond(differences, tolerance, seen.example.dtype)
    return TopActivations(
        layers=tuple(names),
        values={name: to_result(top.values) for name, top in tops.items()},
        images={name: top.numbers.cpu() for name, top in tops.items()},
        positions={name: top.positions.cpu() for name, top in tops.items()},
        channels=channels,
        boxes={name: view.windows.unflatten(0, (-1, k)) for name, view in views.items()},
        projections={name: view.projections.unflatten(0, (-1, k)) for name, view in views.items()},
        patches={name: view.patches.unflatten(0, (-1, k)) for name, view in views.items()},
        difference=differences,
        undefined={name: int(top.undefined) for name, top in tops.items()},
        count=seen.count,
        image_size=tuple(seen.example.shape[2:]),
        seconds=perf_counter() - began,
    )


def _device(model: nn.Module) -> torch.device:
    weights = next(model.parameters(), next(model.buffers(), None))
    return torch.device("cpu") if weights is None else weights.device


def _warn_beyond(
    differences: Mapping[str, float], tolerance: float | None, dtype: torch.dtype
) -> None:
    if tolerance is None:
        tolerance = 0.1 if dtype in (torch.float16, torch.bfloat16) else 1e-3
    layer, difference = max(differences.items(), key=lambda item: item[1])
    if not difference <= tolerance:
        warnings.warn(
            f"layer {layer!r}: activations differ by {difference:.2g} of the largest when their "
            f"images are read again (expected at most {tolerance:g}); do the images come in "
            "another order, or changed at random, each time?",
            stacklevel=4,  # this function, top_activations, its decorator, the caller
        )


# --- the pass over all images ---------------------------------------------------------------------


@dataclass(eq=False)
class _Top:
    """The k strongest activations of each of a layer's C maps so far.

    Attributes:
        values: [C,k], descending; -inf where there is none.
        numbers: [C,k], of the images; ascending among equal values; -1 where there is none.
        places: [C,k], on the map in raster order.
        size: (height, width) of the maps.
        undefined: number of images with a NaN.
    """

    values: Tensor
    numbers: Tensor
    places: Tensor
    size: tuple[int, int]
    undefined: Tensor

    @classmethod
    def like(cls, maps: Tensor, k: int) -> _Top:
        none = torch.full((maps.shape[1], k), -1, device=maps.device)
        values = torch.full(none.shape, -torch.inf, dtype=maps.dtype, device=maps.device)
        return cls(values, none, none.clone(), tuple(maps.shape[2:]), none.new_zeros(()))

    def offer(self, maps: Tensor, first: int) -> None:
        """Take in the maps [n,C,h,w] of the images from number ``first`` on, all later ones than
        those before."""
        values = _largest(maps)  # NaN if there is one
        undefined = values.isnan()
        self.undefined += undefined.any(1).sum()
        values = values.masked_fill(undefined, -torch.inf).T
        # Stable: of equal values the earlier image stays in front.
        k = self.values.shape[1]
        merged = torch.cat([self.values, values], 1).sort(dim=1, descending=True, stable=True)
        self.values, order = merged.values[:, :k], merged.indices[:, :k]
        before = order.clamp_max(k - 1)
        self.numbers, self.places = self.numbers.gather(1, before), self.places.gather(1, before)
        # After the first batches few come in anew; where they are is asked for these alone.
        channels, ranks = ((order >= k) & ~self.values.isneginf()).nonzero(as_tuple=True)
        images = order[channels, ranks] - k
        self.numbers[channels, ranks] = first + images
        self.places[channels, ranks] = maps[images, channels].flatten(1).argmax(1)
        none = self.values.isneginf()
        self.numbers.masked_fill_(none, -1)
        self.places.masked_fill_(none, -1)

    @property
    def positions(self) -> Tensor:
        """int64 [C,k,2], (row, column); 0 where there is none."""
        places = self.places.clamp_min(0)
        return torch.stack([places // self.size[1], places % self.size[1]], -1)


def _largest(maps: Tensor) -> Tensor:
    """[n,C], the largest value of each map."""
    by_pixel = maps.is_contiguous(memory_format=torch.channels_last) and not maps.is_contiguous()
    if by_pixel and maps.device.type == "cpu":  # in this layout amax takes several times as long
        return F.max_pool2d(maps, maps.shape[2:])[..., 0, 0]
    return maps.amax((2, 3))


@dataclass(frozen=True, eq=False)
class _Seen:
    """Of all images: how many, and the first [1,C,H,W]."""

    count: int
    example: Tensor


def _scan(
    model: nn.Module, source: Source, layers: list[str], k: int, limit: int, progress: bool
) -> tuple[dict[str, _Top], _Seen]:
    tops: dict[str, _Top] = {}
    device, count, fitting = _device(model), 0, 0
    example: Tensor | None = None

    def receive(name: str, output: Any) -> None:
        maps = feature_maps(output, name, len(part))
        if name not in tops:
            tops[name] = _Top.like(maps, k)
        found[name] = None
        tops[name].offer(maps, count)

    with (
        evaluating(model),
        progress_bar(source.total, progress, "images") as advance,
    ):
        for images in source.batches():
            images = images.to(device, non_blocking=True)
            if example is None:
                check_input(model, images)
                example = images[:1].clone()
                fitting = _fitting(model, example, limit)
            _check_alike(images, example, count)
            for some in spans(0, len(images), fitting):
                part = images[some].clone()  # a model may work in place
                found: dict[str, None] = {}
                with layer_outputs(model, layers, receive), fast_forward():
                    model(part)
                require_called(layers, found)
                count += len(part)
                advance(len(part))
    if example is None:
        raise ValueError("there are no images")
    return tops, _Seen(count, example)


def _fitting(model: nn.Module, example: Tensor, limit: int) -> int:
    """How many images fit in ``limit`` bytes at once, measured on one."""
    calls = fast_forward(measure=True)
    with calls:
        model(example.clone())
    return max(1, limit // (calls.peak_bytes + 2 * example.nbytes))


def _check_alike(images: Tensor, example: Tensor, start: int) -> None:
    if images.shape[1:] != example.shape[1:] or images.dtype != example.dtype:
        raise ValueError(
            f"images must all be alike: image {start} is {list(images.shape[1:])} {images.dtype}, "
            f"image 0 {list(example.shape[1:])} {example.dtype}"
        )


# --- which maps -----------------------------------------------------------------------------------


def _chosen(maps: Maps, layer: str, top: _Top) -> Tensor:
    """The channels to project, int64 [M], ascending."""
    if isinstance(maps, Mapping):
        if layer not in maps:
            raise ValueError(f"maps name the layers {list(maps)}, but not {layer!r}")
        return _chosen(maps[layer], layer, top)
    total = len(top.values)
    if isinstance(maps, str) and maps == "all":
        return torch.arange(total)
    if is_int(maps) and maps >= 0:
        return _spread(top.values[:, 0].cpu(), int(maps))
    channels = sorted(set(maps)) if isinstance(maps, Sequence | Tensor) and maps != "" else [-1]
    if not all(is_int(channel) and 0 <= channel < total for channel in channels):
        raise ValueError(
            f"maps must be a number of maps, 'all', or channels between 0 and {total - 1} of layer "
            f"{layer!r}, got {maps!r}"
        )
    return torch.tensor(channels, dtype=torch.int64)


def _spread(strongest: Tensor, wanted: int) -> Tensor:
    """So many channels, evenly spread over those that respond; over all if none does."""
    alive = (strongest > 0).nonzero()[:, 0]
    if not len(alive):
        alive = torch.arange(len(strongest))
    wanted = min(wanted, len(alive))
    # The middle of each of as many equal stretches.
    return alive[(torch.arange(wanted) * 2 + 1) * len(alive) // (2 * max(1, wanted))]


# --- the images that matter, once more ------------------------------------------------------------


def _units(top: _Top, channels: Tensor) -> Tensor:
    """The units to project, int64 [M*k,4], (image number, channel, row, column); -1 as number
    where there is none."""
    own = channels.to(top.numbers.device)
    numbers, positions = top.numbers[own], top.positions[own]
    each = own[:, None].expand_as(numbers)
    return torch.cat([torch.stack([numbers, each], -1), positions], -1).flatten(0, 1).cpu()


@dataclass(frozen=True, eq=False)
class _View:
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
    def empty(cls, windows: Tensor, example: Tensor) -> _View:
        size = (windows[0, 2:] - windows[0, :2]).tolist() if len(windows) else (0, 0)
        like = to_result(example.new_empty(0))
        pictures = like.new_zeros(len(windows), example.shape[1], *size)
        return cls(windows, pictures, pictures.clone(), like.new_zeros(len(windows)))

    def fill(
        self, rows: Tensor, images: Tensor, values: Tensor, projected: Sequence[Projected]
    ) -> None:
        """Take in the units ``rows``, each with its image [Z,H,W]."""
        self.reproduced[rows] = to_result(values)
        for row, image, unit in zip(rows.tolist(), images, projected, strict=True):
            y0, x0, y1, x1 = self.windows[row].tolist()
            self.patches[row] = image[:, y0:y1, x0:x1]
            # All of it lies inside, unless the model could not be followed: then it is a picture.
            top, left, bottom, right = unit.box
            above, before = max(top, y0), max(left, x0)
            below, behind = max(above, min(bottom, y1)), max(before, min(right, x1))
            inside = unit.patch[:, above - top : below - top, before - left : behind - left]
            self.projections[row, :, above - y0 : below - y0, before - x0 : behind - x0] = inside


def _look_again(
    model: nn.Module,
    source: Source,
    units: Mapping[str, Tensor],
    windows: Mapping[str, Tensor],
    example: Tensor,
    max_memory: int | None,
    progress: bool,
) -> dict[str, _View]:
    views = {layer: _View.empty(windows[layer], example) for layer in units}
    numbers = torch.cat([rows[:, 0] for rows in units.values()])
    wanted = numbers[numbers >= 0].unique()
    done = 0
    with progress_bar(len(wanted), progress, "projections") as advance:
        for images in source.pick(wanted.tolist()) if len(wanted) else ():
            images = images.to(example.device)
            here = wanted[done : done + len(images)]
            rows = {
                name: torch.isin(own[:, 0], here).nonzero()[:, 0] for name, own in units.items()
            }
            listed = {}
            for name, own in rows.items():
                if len(own):
                    listed[name] = units[name][own]
                    listed[name][:, 0] = torch.searchsorted(here, units[name][own, 0])
            found = project_listed(model, images, listed, max_memory)
            for name, (values, projected) in found.items():
                views[name].fill(rows[name], images[listed[name][:, 0]], values, projected)
            done += len(here)
            advance(len(here))
    if done < len(wanted):
        raise RuntimeError(
            f"{len(wanted) - done} of {len(wanted)} images were not there when they were read again"
        )
    return views


def _difference(top: _Top, channels: Tensor, view: _View) -> float:
    """See :attr:`TopActivations.difference`."""
    recorded = to_result(top.values)[channels].flatten()
    there = recorded.isfinite()
    if not there.any():
        return 0.0
    recorded, reproduced = recorded[there], view.reproduced[there]
    largest = recorded.abs().max().clamp_min(torch.finfo(recorded.dtype).tiny)
    return float((recorded - reproduced).abs().max() / largest)


def field_windows(
    model: nn.Module, example: Tensor, places: Mapping[str, tuple[Tensor, Sequence[int]]]
) -> dict[str, Tensor]:
    """By layer, windows int64 [P,4] of the image, of one size, that hold the receptive fields of
    units.

    The size is that of the layer's largest field, at most the image's. Where a field hangs over the
    edge of the image its window is moved inwards. All of the image, where anything may depend on
    everything or the model cannot be followed.

    Args:
        example: [1,C,H,W].
        places: by layer the units [P,2], (row, column), and the (height, width) of the maps.
    """
    size = example.shape[2:]
    with undisturbed(model):
        try:
            graph = trace(model, example, [*places])
        except Untraceable:
            graph = None
    windows = {}
    for layer, (units, maps) in places.items():
        node = graph and graph.layer(layer)
        rows, columns = np.indices(maps).reshape(2, -1)
        boxes = np.stack([rows, columns, rows + 1, columns + 1], 1)
        fields = cone.descend(graph, node, boxes).get(0) if node and node.is_map else None
        if fields is None:
            fields = np.tile(np.array([0, 0, *size]), (len(boxes), 1))
        extent = (fields[:, 2:] - fields[:, :2]).max(0)
        own = fields[(units[:, 0] * maps[1] + units[:, 1]).numpy(), :2]
        origins = np.minimum(own, np.array(size) - extent)
        windows[layer] = torch.from_numpy(np.concatenate([origins, origins + extent], 1))
    return windows
