"""What an occluder changes, and nothing else: the steps of a network inside forward cones.

Every position has, on each map, the rectangle that it can change (:mod:`zfcuda.cones.boxes`). What
lies in it is held as a *patch*; everything around it is the base pass's. A step gathers the windows
it needs from patch and base together, works on a batch of them, and leaves new patches.
Convolutions want windows of one size, so positions are bucketed by the size of their rectangles,
and small buckets join larger ones where the few pixels recomputed in vain cost less than another
call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zfcuda import ops
from zfcuda.cones.boxes import Boxes
from zfcuda.cones.copying import copied_patches
from zfcuda.cones.steps import Step, affine, averages, finish
from zfcuda.graph.nodes import (
    Affine,
    AvgPool,
    Binary,
    Concat,
    Conv,
    Lrn,
    MaxPool,
    PixelCopy,
    Pixelwise,
    Pointwise,
)
from zfcuda.ops.windows import as_maps, window_table

# Windows gathered for one convolution call, bytes: they should still be in the cache when it
# reads them.
_GATHERED = 2**23
_BUFFERS = 128  # that the window ops take
# Multiply-adds that one more convolution call costs (its setup, and its share of the weights read
# again).
_CALL = 100_000_000


@dataclass(frozen=True, eq=False)
class Patches:
    """What P positions have on one map.

    Attributes:
        buffers: pixels [n,C] each.
        rows: int64 [P,8], the first columns of the window ops' table: image, buffer, offset, pitch,
            and the box that the patch covers.
        apart: whether no two positions share pixels of a buffer, and each has them row after row.
    """

    buffers: list[Tensor]
    rows: np.ndarray
    apart: bool = True

    @property
    def boxes(self) -> Boxes:
        return self.rows[:, 4:]


def occluders(fill: Tensor, boxes: Boxes, images: np.ndarray) -> Patches:
    """The input's patches: crops of the image ``fill`` [1,H,W,C], in place; ``images`` int64 [P]
    tells which image of the base pass each lies on."""
    width = fill.shape[2]
    rows = np.zeros((len(boxes), 8), np.int64)
    rows[:, 0] = images
    rows[:, 2] = boxes[:, 0] * width + boxes[:, 1]
    rows[:, 3] = width
    rows[:, 4:] = boxes
    return Patches([fill.flatten(0, 2)], rows, apart=False)


def advance(
    step: Step, sources: Sequence[Patches], bases: Sequence[Tensor], boxes: Boxes
) -> Patches:
    """The patches that the step makes.

    Args:
        step: a local one.
        sources: its inputs' patches.
        bases: its inputs without occluder, [n,H,W,C] each, of n images; not looked at by a step
            that treats pixels alone.
        boxes: int64 [P,4], what to compute of the step's value; clipped to its maps, maybe empty.
    """
    if treats_pixels_alone(step):
        return _each_buffer(step, sources[0])
    match step.rule:
        case Conv() | AvgPool():
            return _windowed(step, sources[0], bases[0], boxes)
        case MaxPool():
            return _pooled(step, sources[0], bases[0], boxes)
        case PixelCopy():
            out = copied_patches(step.rule, sources[0].buffers, sources[0].rows, bases[0], boxes)
            return _patches(out, boxes, sources[0])
        case Concat():
            return _concatenated(step, sources, bases, boxes)
        case Binary():
            return _combined(step, sources, bases, boxes)
    raise TypeError(f"no cone for {step.rule!r}")


def treats_pixels_alone(step: Step) -> bool:
    """Whether the step makes every pixel of the one below it, and needs nothing around it."""
    if isinstance(step.rule, Conv):
        return step.convolution.per_pixel
    return isinstance(step.rule, Affine | Pointwise | Pixelwise | Lrn)


def full(source: Patches, base: Tensor) -> Tensor:
    """Every position's whole maps [P,C,H,W], channels_last."""
    _, height, width, channels = base.shape
    boxes = np.tile(np.array([0, 0, height, width], np.int64), (len(source.rows), 1))
    out = _gathered([(source, base)], boxes)
    return as_maps(out.view(-1, height, width, channels))


def map_sums(source: Patches, base: Tensor, channels: Tensor) -> Tensor:
    """Every position's sum over one map of its image [P], float64.

    Args:
        channels: int64 [n], which map of each image of ``base`` [n,H,W,C].
    """
    image = torch.from_numpy(source.rows[:, 0]).to(base.device)
    own = base[torch.arange(len(base), device=base.device), :, :, channels]
    before = F.pad(own.double().cumsum(1).cumsum(2), (1, 0, 1, 0))
    total = before[:, -1, -1]
    y0, x0, y1, x1 = torch.from_numpy(source.boxes.T.copy()).to(base.device)
    replaced = before[image, y1, x1] - before[image, y0, x1] - before[image, y1, x0]
    replaced += before[image, y0, x0]
    sums = total[image] - replaced + _patch_sums(source, channels[image])
    for vague in (~total.isfinite()).nonzero()[:, 0].tolist():
        # Differences of such sums tell nothing.
        _sum_up(sums, source, base, vague, int(channels[vague]))
    return sums


def _sum_up(sums: Tensor, source: Patches, base: Tensor, image: int, channel: int) -> None:
    """Write the sums over one map of an image, every pixel added."""
    members = np.flatnonzero(source.rows[:, 0] == image)
    buffers = [buffer[:, channel : channel + 1] for buffer in source.buffers]
    whole = full(Patches(buffers, source.rows[members]), base[..., channel : channel + 1].clone())
    sums[torch.from_numpy(members).to(sums.device)] = whole.double().sum((1, 2, 3))


def _patch_sums(source: Patches, channels: Tensor) -> Tensor:
    """Every position's sum over its patch of one map [P]; ``channels`` [P] says which."""
    boxes = source.boxes
    out, windows, largest = _table([source.rows], boxes, source.buffers[0].shape[1], source.buffers)
    ops.gather_windows(None, source.buffers, windows[0], out, largest)
    areas = torch.from_numpy(_areas(boxes)).to(out.device)
    channel = channels.repeat_interleave(areas, output_size=len(out))
    values = out.gather(1, channel[:, None])[:, 0].double()
    # Each position by itself, in order: a NaN must not reach the next one's, and atomic additions
    # would round differently each time. Unsafe: a GPU would be waited for to check the lengths.
    return torch.segment_reduce(values, "sum", lengths=areas, unsafe=True)


# --- one kind of step each ------------------------------------------------------------------------


def _each_buffer(step: Step, source: Patches) -> Patches:
    """Steps that treat every pixel alone need no windows."""
    rule, buffers = step.rule, []
    for buffer in source.buffers:
        if not len(buffer):  # not every function can tell the sizes of nothing
            buffers.append(buffer.new_empty(0, step.shape[0]))
            continue
        x = _row(buffer)
        match rule:
            case Conv():
                y = _row(step.convolution.of_pixels(buffer))
            case Lrn():
                y = ops.local_response_norm(x, rule.size, rule.alpha, rule.beta, rule.k)
            case Affine():
                y = affine(x, rule)
            case Pointwise() | Pixelwise():
                y = rule.function(x)
        y = _flat(finish(step, y))
        # A function may answer with (a part of) what it was given, but sums overwrite patches.
        same = y.untyped_storage().data_ptr() == buffer.untyped_storage().data_ptr()
        buffers.append(y.clone(memory_format=torch.contiguous_format) if same else y.contiguous())
    return Patches(buffers, source.rows, source.apart)


def _windowed(step: Step, source: Patches, base: Tensor, boxes: Boxes) -> Patches:
    """Convolution and average pooling: torch's, on batches of equal windows."""
    rule = step.rule
    kernel, stride, padding = np.array(rule.kernel), np.array(rule.stride), np.array(rule.padding)
    dilation = np.array(getattr(rule, "dilation", (1, 1)))
    reach = dilation * (kernel - 1) + 1
    channels, height, width = step.shape
    work = rule.weight[0].numel() * channels if isinstance(rule, Conv) else channels
    rows = _fresh_rows(source)
    buffers: list[Tensor] = []
    for members, size in buckets(boxes, _CALL / work):
        window = (np.array(size) - 1) * stride + reach
        bytes_each = int(window.prod()) * base.shape[3] * base.element_size()
        count = max(1, _GATHERED // bytes_each)
        for begin in range(0, len(members), count):
            some = members[begin : begin + count]
            start = np.minimum(boxes[some, :2], np.array([height, width]) - size)
            corner = start * stride - padding
            inputs = np.concatenate([corner, corner + window], 1)
            gathered = _gathered([(_some(source, some), base)], inputs)
            x = as_maps(gathered.view(len(some), *window.tolist(), -1))
            y = _apply(step, x)
            if isinstance(rule, AvgPool) and rule.divisor is None:
                y = _corrected(y, rule, base, start)
            y = finish(step, y)
            rows[some, 1] = len(buffers)
            rows[some, 2] = np.arange(len(some)) * (size[0] * size[1])
            rows[some, 3] = size[1]
            rows[some, 4:] = np.concatenate([start, start + size], 1)
            buffers.append(_flat(y))
    return _few(Patches(buffers or [base.new_empty(0, channels)], rows))


def _few(patches: Patches) -> Patches:
    """The same in no more buffers than the window ops take."""
    if len(patches.buffers) <= _BUFFERS:
        return patches
    starts = np.cumsum([0, *map(len, patches.buffers)])
    rows = patches.rows.copy()
    held = rows[:, 1] >= 0
    rows[held, 2] += starts[rows[held, 1]]
    rows[held, 1] = 0
    return Patches([torch.cat(patches.buffers)], rows)


def _apply(step: Step, x: Tensor) -> Tensor:
    if step.convolution is not None:
        return step.convolution(x, (0, 0))
    rule = step.rule
    inside = replace(rule, padding=(0, 0), ceil_mode=False)
    return averages(x, inside)


def _corrected(means: Tensor, rule: AvgPool, base: Tensor, start: np.ndarray) -> Tensor:
    """Means over whole windows [n,C,h,w], whose first is at ``start`` [n,2], as means over those
    elements that torch counts: fewer at the edges."""
    shares = [
        rule.kernel[axis]
        / _elements(start[:, axis, None] + np.arange(means.shape[2 + axis]), rule, base, axis)
        for axis in (0, 1)
    ]
    if all((share == 1).all() for share in shares):
        return means
    wide = torch.promote_types(means.dtype, torch.float32)
    rows, columns = (torch.from_numpy(share).to(means.device, wide) for share in shares)
    return means.mul_(rows[:, None, :, None] * columns[:, None, None, :])


def _elements(at: np.ndarray, rule: AvgPool, base: Tensor, axis: int) -> np.ndarray:
    """The elements that windows ``at`` count along one axis."""
    length, padding = base.shape[1 + axis], rule.padding[axis]
    begin = at * rule.stride[axis] - padding
    end = np.minimum(begin + rule.kernel[axis], length + padding)
    if not rule.count_include_pad:
        begin, end = np.maximum(begin, 0), np.minimum(end, length)
    return end - begin


def _pooled(step: Step, source: Patches, base: Tensor, boxes: Boxes) -> Patches:
    rule = step.rule
    out, (windows,), largest = _table([source.rows], boxes, base.shape[3], [base])
    ops.pool_windows(
        base,
        source.buffers,
        windows,
        out,
        largest,
        rule.kernel,
        rule.stride,
        rule.padding,
        rule.dilation,
        rule.relu,
    )
    return _patches(out, boxes, source)


def _concatenated(
    step: Step, sources: Sequence[Patches], bases: Sequence[Tensor], boxes: Boxes
) -> Patches:
    out = _gathered(list(zip(sources, bases, strict=True)), boxes)
    return _patches(_flat(finish(step, _row(out))), boxes, sources[0])


def _combined(
    step: Step, sources: Sequence[Patches], bases: Sequence[Tensor], boxes: Boxes
) -> Patches:
    if step.rule.function is torch.add:
        for own, other in ((0, 1), (1, 0)):
            if step.owned[own] and sources[own].apart and _covers(sources[own], boxes):
                return _added(step, sources[own], sources[other], bases[other])
    first, second = (
        _row(_gathered([(source, base)], boxes))
        for source, base in zip(sources, bases, strict=True)
    )
    combined = step.rule.function(first, second)
    return _patches(_flat(finish(step, combined)), boxes, sources[0])


def _covers(source: Patches, boxes: Boxes) -> bool:
    """Whether the patches reach as far as ``boxes``."""
    own = source.boxes
    inside = (own[:, :2] <= boxes[:, :2]).all(1) & (own[:, 2:] >= boxes[:, 2:]).all(1)
    return bool((inside | (_areas(boxes) == 0)).all())


def _added(step: Step, own: Patches, other: Patches, base: Tensor) -> Patches:
    """The sum, in the memory of patches that no one else needs."""
    for index, buffer in enumerate(own.buffers):
        members = np.flatnonzero(own.rows[:, 1] == index)
        if not len(members):
            continue
        rows = own.rows[members]
        windows = window_table(other.rows[members], rows[:, 4:], rows[:, 2], buffer.device)
        largest = int(_areas(own.boxes[members]).max())
        ops.gather_windows(base, other.buffers, windows, buffer, largest, add=True)
    return Patches([_flat(finish(step, _row(buffer))) for buffer in own.buffers], own.rows)


# --- windows and buffers --------------------------------------------------------------------------


def buckets(boxes: Boxes, call: float) -> list[tuple[np.ndarray, tuple[int, int]]]:
    """Positions that share a size: their indices and the size. Empty boxes are in none.

    Args:
        call: pixels that may be computed in vain to save one bucket.
    """
    sizes = boxes[:, 2:] - boxes[:, :2]
    code = sizes[:, 0] << 32 | sizes[:, 1]
    unique, inverse, counts = np.unique(code, return_inverse=True, return_counts=True)
    size = np.stack([unique >> 32, unique & 0xFFFFFFFF], 1)
    label = np.arange(len(unique))
    alive = size.prod(1) > 0
    while alive.sum() > 1:
        common = np.maximum(size[:, None], size[None])
        vain = counts[:, None] * (common.prod(2) - size.prod(1)[:, None])
        vain = (vain + vain.T).astype(float)
        vain[~alive] = vain[:, ~alive] = np.inf
        np.fill_diagonal(vain, np.inf)
        i, j = np.unravel_index(vain.argmin(), vain.shape)
        if vain[i, j] > call:
            break
        size[i], counts[i], alive[j] = common[i, j], counts[i] + counts[j], False
        label[label == j] = i
    of = label[inverse]
    kept = np.flatnonzero(alive)
    return [(np.flatnonzero(of == i), (int(size[i, 0]), int(size[i, 1]))) for i in kept]


def _row(pixels: Tensor) -> Tensor:
    """Pixels [n,C] as one row of maps [1,C,1,n]."""
    return as_maps(pixels[None, None])


def _areas(boxes: Boxes) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _fresh_rows(source: Patches) -> np.ndarray:
    """Of the same images as ``source``'s, without a buffer yet."""
    rows = np.zeros((len(source.rows), 8), np.int64)
    rows[:, 0] = source.rows[:, 0]
    rows[:, 1] = -1
    return rows


def _some(source: Patches, members: np.ndarray) -> Patches:
    return Patches(source.buffers, source.rows[members], source.apart)


def _patches(out: Tensor, boxes: Boxes, source: Patches) -> Patches:
    """Patches of just these boxes, one after another in ``out``, of the same images as
    ``source``'s."""
    rows = _fresh_rows(source)
    areas = _areas(boxes)
    rows[:, 1] = 0
    rows[:, 2] = np.cumsum(areas) - areas
    rows[:, 3] = boxes[:, 3] - boxes[:, 1]
    rows[:, 4:] = boxes
    return Patches([out], rows)


def _table(
    sources: Sequence[np.ndarray], boxes: Boxes, channels: int, like: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor], int]:
    """Room for windows at ``boxes``, one after another, and each source's table of them."""
    areas = _areas(boxes)
    ends = np.cumsum(areas)
    out = like[0].new_empty(int(ends[-1]) if len(ends) else 0, channels)
    windows = [window_table(rows, boxes, ends - areas, out.device) for rows in sources]
    return out, windows, int(areas.max(initial=0))


def _gathered(operands: Sequence[tuple[Patches, Tensor]], boxes: Boxes) -> Tensor:
    """The windows at ``boxes``, one after another, the operands' channels side by side."""
    channels = sum(base.shape[3] for _, base in operands)
    rows = [source.rows for source, _ in operands]
    out, tables, largest = _table(rows, boxes, channels, [operands[0][1]])
    channel = 0
    for (source, base), windows in zip(operands, tables, strict=True):
        ops.gather_windows(base, source.buffers, windows, out, largest, channel)
        channel += base.shape[3]
    return out


def _flat(maps: Tensor) -> Tensor:
    """[n,C,h,w] as pixels [n*h*w,C]."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])
