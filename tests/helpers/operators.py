"""Operators on cones held against whole maps: up, what other pixels change; down, what autograd
sends."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from zfcuda.cones.boxes import propagate_boxes
from zfcuda.cones.descent import descend, on_pictures
from zfcuda.cones.forward import advance
from zfcuda.cones.observing import Manner, observe, obstacle
from zfcuda.cones.operators.behaviours import around
from zfcuda.cones.operators.patches import Kept, Tables, full, occluders
from zfcuda.cones.planning import boxes_of
from zfcuda.cones.profile import AVX512
from zfcuda.cones.steps import Schedule, fuse, run
from zfcuda.graph import Graph, trace
from zfcuda.ops.windows import pixels


def some_boxes(size: tuple[int, int], count: int, seed: int = 0) -> np.ndarray:
    """int64 [count,4] on a map of that size; the first is empty, the second the whole map."""
    random = np.random.default_rng(seed)
    corners = random.integers(0, np.array(size) + 1, (2, count, 2))
    boxes = np.concatenate([corners.min(0), corners.max(0)], 1)
    boxes[(boxes[:, :2] == boxes[:, 2:]).any(1)] = 0
    boxes[0], boxes[1:2] = 0, [0, 0, *size]
    return boxes


def check_up(model: nn.Module, x: Tensor, boxes: np.ndarray, tolerance: float = 1e-12) -> Graph:
    """Every step of a model works on cones, and what they make of images with other pixels in
    ``boxes`` [P,4] is what the model makes of them whole."""
    graph = trace(model, x)
    schedule = fuse(graph)
    cones = boxes_of(schedule, boxes)
    assert len(cones) == len(schedule.steps), "not all of it works on cones"
    fill = torch.randn_like(x[:1])
    tables = Kept(2**40).of("these", AVX512)
    for images in (x, x.flip(3)):  # which find the same tables
        _check_images(model, schedule, cones, images, fill, boxes, tables, tolerance)
    return graph


def _check_images(
    model: nn.Module,
    schedule: Schedule,
    cones: dict[int, np.ndarray],
    x: Tensor,
    fill: Tensor,
    boxes: np.ndarray,
    tables: Tables,
    tolerance: float,
) -> None:
    images = np.arange(len(boxes)) % len(x)
    whole = x[torch.from_numpy(images)].clone()
    for one, (y0, x0, y1, x1) in zip(whole, boxes, strict=True):
        one[:, y0:y1, x0:x1] = fill[0, :, y0:y1, x0:x1]
    with torch.no_grad():
        expected = model(whole)
        values, patches = {0: x}, {0: occluders(pixels(fill), boxes, images, tables)}
        base = {0: pixels(x)}
        for step in schedule.steps[1:]:
            value = step.value
            values[value] = run(schedule, step, values)
            base[value] = pixels(values[value])
            below = [patches[i] for i in step.inputs]
            around_them = [around(step.rule, base[i]) for i in step.inputs]
            patches[value] = advance(step, below, around_them, cones[value])
            assert patches[value].boxes.min() >= 0
            assert (patches[value].boxes[:, 2:] <= base[value].shape[1:3]).all()
        found = full(patches[schedule.output], base[schedule.output], schedule.output)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def check_exact(model: Callable[[Tensor], Tensor], graph: Graph, x: Tensor) -> None:
    """Each pixel of one image changes on the maps, by the graph, the rectangle that it does."""
    _, _, height, width = x.shape
    rows, columns = (grid.ravel() for grid in np.mgrid[:height, :width])
    boxes = np.stack([rows, columns, rows + 1, columns + 1], 1)
    predicted = propagate_boxes(graph, boxes)[graph.output]
    with torch.no_grad():
        before = model(x)
        for (y, x0, *_), box in zip(boxes, predicted, strict=True):
            changed = x.clone()
            changed[:, :, y, x0] += 1
            mask = (model(changed) != before)[0].any(0)
            assert box.tolist() == bounding_box(mask), (y, x0)


def bounding_box(mask: Tensor) -> list[int]:
    """Around the true elements of [H,W]; zeros if there are none."""
    at = mask.nonzero()
    return [*at.amin(0).tolist(), *(at.amax(0) + 1).tolist()] if len(at) else [0, 0, 0, 0]


def check_down(
    model: nn.Module, x: Tensor, units: np.ndarray | None = None, tolerance: float = 1e-12
) -> None:
    """What units [P,3] (channel, row, column; -1, -1 for a whole map) of a model's maps send down
    to its images is what autograd says; without ``units``, of a map and of some elements."""
    graph = trace(model, x)
    top = graph.output
    assert obstacle(graph, [top]) is None
    shape = graph.nodes[top].shape
    if units is None:
        random = np.random.default_rng(0)
        units = np.stack([random.integers(0, size, 6) for size in shape], 1)
        units[0, 1:] = -1
    images = np.arange(len(units)) % len(x)
    with torch.no_grad():
        observed = observe(graph, x, [top], Manner(rule="gradient"))
        parts = [*descend(observed, top, images, units, 1.0, 2**20)]
        assert all(part.data.dtype == x.dtype for part in parts)
        found = on_pictures(parts, len(units), x)
    for number, (image, (channel, row, column)) in enumerate(zip(images, units, strict=True)):
        source = x[image : image + 1].clone().requires_grad_()
        own = model(source)[0, channel]
        value = own.sum() if row < 0 else own[row, column]
        if value.requires_grad:
            (expected,) = torch.autograd.grad(value, source, allow_unused=True)
        expected = torch.zeros_like(source) if expected is None else expected
        torch.testing.assert_close(found[number], expected[0], rtol=tolerance, atol=tolerance)
