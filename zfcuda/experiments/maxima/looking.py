"""The images that matter, once more: what the chosen units saw there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from zfcuda.cones.boxes import descend_boxes
from zfcuda.cones.descent import Projected
from zfcuda.data.images import Source
from zfcuda.experiments.deconvnet.projecting import project_listed
from zfcuda.experiments.maxima.top import Top
from zfcuda.graph.guards import Untraceable
from zfcuda.graph.tracing import trace
from zfcuda.inference.checks import to_result
from zfcuda.inference.guards import undisturbed
from zfcuda.inference.passes import progress_bar

__all__ = ["View", "difference", "field_windows", "look_again"]


@dataclass(frozen=True, eq=False)
class View:
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
    def empty(cls, windows: Tensor, example: Tensor) -> View:
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

    def put(self, rows: Tensor, other: View) -> None:
        """Take in what ``other`` has seen of these units."""
        self.projections[rows] = other.projections
        self.patches[rows] = other.patches
        self.reproduced[rows] = other.reproduced

    def first(self, count: int) -> View:
        """Of the first units only."""
        parts = (self.windows, self.projections, self.patches, self.reproduced)
        return View(*(part[:count] for part in parts))


def look_again(
    model: nn.Module,
    source: Source,
    units: Mapping[str, Tensor],
    windows: Mapping[str, Tensor],
    example: Tensor,
    max_memory: int | None,
    progress: bool,
) -> dict[str, View]:
    """Forward the images that ``units`` name once more, and project each of these units.

    Args:
        units: by layer int64 [P,4], (image number, channel, row, column); -1 as number where there
            is none.
        windows: by layer int64 [P,4], what of the image is kept of each unit.
        example: [1,C,H,W], which all images are like.

    Raises:
        RuntimeError: images are missing that were there before.
    """
    views = {layer: View.empty(windows[layer], example) for layer in units}
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


def difference(top: Top, channels: Tensor, view: View) -> float:
    """See :attr:`TopActivations.difference`."""
    recorded = to_result(top.values)[channels].flatten()
    there = recorded.isfinite()
    if not there.any():
        return 0.0
    recorded, reproduced = recorded[there], view.reproduced[there]
    largest = recorded.abs().max().clamp_min(torch.finfo(recorded.dtype).tiny)
    # What is no number now differs most, and no NaN may hide another layer's difference.
    return float(((recorded - reproduced).abs() / largest).nan_to_num(nan=torch.inf).max())


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
        fields = descend_boxes(graph, node, boxes).get(0) if node and node.is_map else None
        if fields is None:
            fields = np.tile(np.array([0, 0, *size]), (len(boxes), 1))
        extent = (fields[:, 2:] - fields[:, :2]).max(0)
        own = fields[(units[:, 0] * maps[1] + units[:, 1]).numpy(), :2]
        origins = np.minimum(own, np.array(size) - extent)
        windows[layer] = torch.from_numpy(np.concatenate([origins, origins + extent], 1))
    return windows
