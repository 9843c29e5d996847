"""What is compared: for each op the same work done by the reference, by torch and by zfcuda.

On the current default device: `with torch.device("cuda"): pool(...)` for a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import floors
import torch
import torch.nn.functional as F
from floors import Demand
from torch import Tensor

from zfcuda import ops
from zfcuda.ops import reference

CHANNELS_LAST = torch.channels_last


@dataclass(frozen=True)
class Work:
    """One comparison, made for its input: three ways to the same result."""

    ours: Callable[[], object]
    torch: Callable[[], object]
    reference: Callable[[], object]
    agree: Callable[[object], None]  # asserts that what ours gave is what torch gives
    demand: Demand  # each input read once, each output written once
    note: str = ""

    @property
    def bytes(self) -> int:
        return self.demand.bytes

    def check(self) -> None:
        """Raise an AssertionError unless ours agrees with torch."""
        self.agree(self.ours())


@dataclass(frozen=True)
class Case:
    """A row of the table."""

    name: str
    make: Callable[[], Work]


def pool_demand(
    shape: tuple[int, ...],
    kernel: int,
    layout: torch.memory_format = torch.contiguous_format,
    dtype: torch.dtype = torch.float32,
) -> Demand:
    return floors.max_pool2d(shape, kernel, 2, dtype.itemsize)


def pool(
    shape: tuple[int, ...],
    kernel: int,
    layout: torch.memory_format = torch.contiguous_format,
    dtype: torch.dtype = torch.float32,
) -> Work:
    x = torch.randn(shape).to(dtype).contiguous(memory_format=layout)
    window = (kernel, 2, 0, 1, True)
    pairs = ((kernel, kernel), (2, 2), (0, 0), (1, 1), True, True)

    def with_torch() -> tuple[Tensor, Tensor]:
        return F.max_pool2d(torch.relu(x), *window, return_indices=True)

    def ours() -> tuple[Tensor, Tensor]:
        return ops.max_pool2d(x, *window, relu=True)

    def agree(found: tuple[Tensor, Tensor]) -> None:
        y, switches = found
        expected, indices = with_torch()
        assert torch.equal(y, expected)
        assert torch.equal(
            ops.switches_to_indices(switches, kernel, 2, input_size=shape[-2:]), indices
        )

    switches, indices = ours()[1], with_torch()[1]
    return Work(
        ours,
        with_torch,
        lambda: reference.max_pool2d(x, *pairs),
        agree,
        pool_demand(shape, kernel, layout, dtype),
        f"switches {switches.nbytes / 1e6:.2f} MB, torch's indices {indices.nbytes / 1e6:.2f} MB",
    )


def unpool_demand(
    overlap: str,
    layout: torch.memory_format = torch.contiguous_format,
    shape: tuple[int, ...] = (4, 96, 110, 110),
    dtype: torch.dtype = torch.float32,
) -> Demand:
    return floors.max_unpool2d(shape, 3, 2, dtype.itemsize)


def unpool(
    overlap: str,
    layout: torch.memory_format = torch.contiguous_format,
    shape: tuple[int, ...] = (4, 96, 110, 110),
    dtype: torch.dtype = torch.float32,
) -> Work:
    x = torch.randn(shape).to(dtype).contiguous(memory_format=layout)
    y, switches = ops.max_pool2d(x, 3, 2)
    _, indices = F.max_pool2d(x, 3, 2, return_indices=True)
    signal = torch.randn_like(y)
    size = x.shape[-2:]

    def ours() -> Tensor:
        return ops.max_unpool2d(
            signal, switches, 3, 2, output_size=size, relu=True, overlap=overlap
        )

    def max_unpool() -> Tensor:
        return torch.relu(F.max_unpool2d(signal, indices, 3, 2, output_size=size))

    def pooling_backward() -> Tensor:
        return torch.relu(
            torch.ops.aten.max_pool2d_with_indices_backward(
                signal, x, [3, 3], [2, 2], [0, 0], [1, 1], False, indices
            )
        )

    def with_reference() -> Tensor:
        window = ((3, 3), (2, 2), (0, 0), (1, 1))
        return reference.max_unpool2d(signal, switches, *window, size, True, overlap)

    def agree(found: Tensor) -> None:
        assert torch.equal(found, with_reference())
        if overlap == "sum":
            # torch adds in the tensor's own type, we in float32.
            loose = {} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.05}
            torch.testing.assert_close(found, pooling_backward(), **loose)
            return
        # Which window wins where two meet is undefined in torch: compared without overlap.
        z, taps = ops.max_pool2d(x, 2)
        _, places = F.max_pool2d(x, 2, return_indices=True)
        assert torch.equal(ops.max_unpool2d(z, taps, 2), F.max_unpool2d(z, places, 2))

    with_torch = pooling_backward if overlap == "sum" else max_unpool
    return Work(
        ours, with_torch, with_reference, agree, unpool_demand(overlap, layout, shape, dtype)
    )


def lrn_demand(
    layout: torch.memory_format = torch.contiguous_format,
    shape: tuple[int, ...] = (4, 96, 55, 55),
    dtype: torch.dtype = torch.float32,
) -> Demand:
    return floors.local_response_norm(shape, 5, dtype.itemsize)


def lrn(
    layout: torch.memory_format = torch.contiguous_format,
    shape: tuple[int, ...] = (4, 96, 55, 55),
    dtype: torch.dtype = torch.float32,
) -> Work:
    x = torch.randn(shape).to(dtype).contiguous(memory_format=layout)
    constants = (5, 1e-4, 0.75, 2.0)

    def agree(found: Tensor) -> None:
        # torch rounds to the tensor's own type at every step, we once.
        expected = F.local_response_norm(x.double(), *constants).to(dtype)
        torch.testing.assert_close(found, expected)

    return Work(
        lambda: ops.local_response_norm(x, *constants),
        lambda: F.local_response_norm(x, *constants),
        lambda: reference.local_response_norm(x, *constants),
        agree,
        lrn_demand(layout, shape, dtype),
    )


def maxima_demand(
    shape: tuple[int, ...] = (4, 96, 110, 110),
    layout: torch.memory_format = torch.contiguous_format,
    dtype: torch.dtype = torch.float32,
) -> Demand:
    return floors.spatial_max(shape, dtype.itemsize)


def maxima(
    shape: tuple[int, ...] = (4, 96, 110, 110),
    layout: torch.memory_format = torch.contiguous_format,
    dtype: torch.dtype = torch.float32,
) -> Work:
    x = torch.randn(shape).to(dtype).contiguous(memory_format=layout)

    def with_torch() -> tuple[Tensor, Tensor]:
        return x.flatten(2).max(2)

    def agree(found: tuple[Tensor, Tensor]) -> None:
        values, places = found
        assert torch.equal(values, with_torch()[0])
        # Of equal elements torch may name any: ours has to be the first.
        assert torch.equal(places, reference.spatial_max(x)[1])

    return Work(
        lambda: ops.spatial_max(x),
        with_torch,
        lambda: reference.spatial_max(x),
        agree,
        maxima_demand(shape, layout, dtype),
    )


def _corners(stride: int) -> list[tuple[int, int]]:
    return [(y, x) for y in range(0, 193, stride) for x in range(0, 193, stride)]


def occlude_demand(
    baseline: str, layout: torch.memory_format = torch.contiguous_format, stride: int = 32
) -> Demand:
    return floors.occlude((1, 3, 224, 224), len(_corners(stride)), 4)


def occlude(
    baseline: str, layout: torch.memory_format = torch.contiguous_format, stride: int = 32
) -> Work:
    x = torch.randn(1, 3, 224, 224).contiguous(memory_format=layout)
    corners = _corners(stride)
    boxes = torch.tensor([(y, x, y + 32, x + 32) for y, x in corners])
    mask = torch.zeros(len(boxes), 1, 224, 224)
    for p, (y0, x0, y1, x1) in enumerate(boxes.tolist()):
        mask[p, :, y0:y1, x0:x1] = 1

    def ours() -> Tensor:
        return ops.occlude(x, boxes, 0.5)

    def arithmetic() -> Tensor:
        return x * (1 - mask) + 0.5 * mask

    def repeat_and_fill() -> Tensor:
        copies = x.repeat(len(boxes), 1, 1, 1)
        for p, (y, x0) in enumerate(corners):
            copies[p, :, y : y + 32, x0 : x0 + 32] = 0.5
        return copies

    with_torch = arithmetic if baseline == "mask arithmetic" else repeat_and_fill

    def agree(found: Tensor) -> None:
        assert torch.equal(found[0], repeat_and_fill())
        torch.testing.assert_close(found[0], arithmetic())

    return Work(
        ours,
        with_torch,
        lambda: reference.occlude(x, boxes, 0.5),
        agree,
        occlude_demand(baseline, layout, stride),
    )


def rotate_demand(
    layout: torch.memory_format = torch.contiguous_format, count: int = 36, batch: int = 1
) -> Demand:
    return floors.warp_affine((batch, 3, 224, 224), count, 4)


def rotate(
    layout: torch.memory_format = torch.contiguous_format, count: int = 36, batch: int = 1
) -> Work:
    x = torch.randn(batch, 3, 224, 224).contiguous(memory_format=layout)
    turns = [math.radians(360 * i / count) for i in range(count)]
    linear = [((math.cos(t), -math.sin(t)), (math.sin(t), math.cos(t))) for t in turns]
    theta = torch.tensor([[[*row, 0.0] for row in m] for m in linear])
    matrices = torch.tensor(
        [[[*row, 112 - 112 * sum(row)] for row in m] for m in linear], dtype=torch.float64
    )

    def with_torch() -> Tensor:
        grid = F.affine_grid(theta, [count, 3, 224, 224], align_corners=False)
        copies = (image.expand(count, -1, -1, -1) for image in x)
        return torch.stack([F.grid_sample(each, grid, align_corners=False) for each in copies])

    def ours() -> Tensor:
        return ops.warp_affine(x, matrices)

    def agree(found: Tensor) -> None:
        # torch's coordinates are float32 sums in -1..1: off by up to 1e-4 pixels.
        torch.testing.assert_close(found, with_torch(), rtol=0, atol=2e-3)

    return Work(
        ours,
        with_torch,
        lambda: reference.warp_affine(x, matrices),
        agree,
        rotate_demand(layout, count, batch),
    )


def _marching(count: int, size: int, window: int, patch: int) -> list[list[int]]:
    """Rows of ``windows``: squares all over a square map, each with a patch in its middle."""
    rows = []
    for q in range(count):
        y, x = 7 * q % (size - window + 1), 5 * q % (size - window + 1)
        top, left = y + (window - patch) // 2, x + (window - patch) // 2
        place = (top, left, top + patch, left + patch)
        box = (y, x, y + window, x + window)
        rows.append([0, 0, q * patch**2, patch, *place, *box, q * window**2])
    return rows


def gather_demand(count: int, size: int, window: int, patch: int, channels: int) -> Demand:
    rows = _marching(count, size, window, patch)
    return floors.gather_windows(rows, (1, size, size), channels, 4)


def gather(count: int, size: int, window: int, patch: int, channels: int) -> Work:
    base = torch.randn(1, size, size, channels)
    patches = torch.randn(count, patch, patch, channels)
    rows = _marching(count, size, window, patch)
    buffers, windows = [patches.view(-1, channels)], torch.tensor(rows)
    out = torch.zeros(count * window**2, channels)
    expected = torch.zeros(count, window, window, channels)
    margin = (window - patch) // 2
    corners = [row[8:10] for row in rows]

    def with_torch() -> None:
        for q, (y, x) in enumerate(corners):
            expected[q] = base[0, y : y + window, x : x + window]
        expected[:, margin : margin + patch, margin : margin + patch] = patches

    def ours() -> Tensor:
        ops.gather_windows(base, buffers, windows, out, window**2)
        return out

    def with_reference() -> None:
        reference.gather_windows(base, buffers, windows, out, window**2)

    def agree(found: Tensor) -> None:
        with_torch()
        assert torch.equal(found.view_as(expected), expected)

    return Work(
        ours, with_torch, with_reference, agree, gather_demand(count, size, window, patch, channels)
    )


def _pooling_rows(count: int) -> list[list[int]]:
    """5x5 windows of the pooled map; a 9x9 patch in the middle of the 11x11 below each."""
    found = []
    for q, row in enumerate(_marching(count, 54, 5, 1)):
        top, left = 2 * row[8] + 1, 2 * row[9] + 1
        found.append([0, 0, 81 * q, 9, top, left, top + 9, left + 9, *row[8:]])
    return found


def pool_windows_demand(count: int = 32) -> Demand:
    return floors.pool_windows(_pooling_rows(count), (1, 110, 110), 96, 4, 3, 2)


def pool_windows(count: int = 32) -> Work:
    """What occlusion does at a pooling layer: torch gathers, then pools."""
    channels, window, patch = 96, 11, 9  # of the map; pooled, windows are 5x5
    base = torch.randn(1, 110, 110, channels)
    patches = torch.randn(count, patch, patch, channels)
    rows = _pooling_rows(count)
    windows = torch.tensor(rows)
    buffers, out = [patches.view(-1, channels)], torch.zeros(count * 25, channels)
    below = torch.zeros(count, window, window, channels)
    corners = [(2 * row[8], 2 * row[9]) for row in rows]

    def with_torch() -> Tensor:
        for q, (y, x) in enumerate(corners):
            below[q] = base[0, y : y + window, x : x + window]
        below[:, 1 : 1 + patch, 1 : 1 + patch] = patches
        return F.max_pool2d(torch.relu(below.permute(0, 3, 1, 2)), 3, 2)

    def ours() -> Tensor:
        ops.pool_windows(base, buffers, windows, out, 25, 3, 2, relu=True)
        return out

    def with_reference() -> None:
        reference.pool_windows(base, buffers, windows, out, 25, (3, 3), (2, 2), relu=True)

    def agree(found: Tensor) -> None:
        assert torch.equal(found.view(count, 5, 5, channels), with_torch().permute(0, 2, 3, 1))

    return Work(ours, with_torch, with_reference, agree, pool_windows_demand(count))


def _unpooling_rows(count: int) -> list[list[int]]:
    """10x10 patches of a pooled map of 27x27, and the 20x20 that they are unpooled to."""
    rows = _marching(count, 27, 10, 10)
    return [[*row[:8], *(2 * edge for edge in row[8:12]), 4 * row[12]] for row in rows]


def unpool_windows_demand(count: int = 16) -> Demand:
    return floors.unpool_windows(_unpooling_rows(count), (1, 27, 27), 256, 4, 2, 2)


def unpool_windows(count: int = 16) -> Work:
    """What projection does at a pooling layer: torch scatters patches with their own indices."""
    channels, patch = 256, 10
    x = torch.randn(1, channels, 54, 54).contiguous(memory_format=CHANNELS_LAST)
    _, switches = ops.max_pool2d(x, 2)
    maps = switches.permute(0, 2, 3, 1)
    rows = _unpooling_rows(count)
    windows = torch.tensor(rows)
    patches = torch.randn(count, patch, patch, channels)
    buffers, out = [patches.view(-1, channels)], torch.zeros(count * 4 * patch**2, channels)
    signal = patches.permute(0, 3, 1, 2)
    boxes = [row[4:8] for row in rows]
    own = torch.cat([switches[:, :, y0:y1, x0:x1] for y0, x0, y1, x1 in boxes])
    indices = ops.switches_to_indices(own, 2, input_size=(2 * patch, 2 * patch))

    def with_torch() -> Tensor:
        return torch.relu(F.max_unpool2d(signal, indices, 2))

    def ours() -> Tensor:
        ops.unpool_windows(maps, buffers, windows, out, 4 * patch**2, 2, relu=True)
        return out

    def with_reference() -> None:
        reference.unpool_windows(
            maps, buffers, windows, out, 4 * patch**2, (2, 2), (2, 2), relu=True
        )

    def agree(found: Tensor) -> None:
        expected = with_torch().permute(0, 2, 3, 1)
        assert torch.equal(found.view(expected.shape), expected)

    return Work(ours, with_torch, with_reference, agree, unpool_windows_demand(count))


# The same arguments as the case itself: what it needs can be known without making it.
DEMANDS: dict[Callable[..., Work], Callable[..., Demand]] = {
    pool: pool_demand,
    unpool: unpool_demand,
    lrn: lrn_demand,
    maxima: maxima_demand,
    occlude: occlude_demand,
    rotate: rotate_demand,
    gather: gather_demand,
    pool_windows: pool_windows_demand,
    unpool_windows: unpool_windows_demand,
}

OPS = {
    pool: "max_pool2d",
    unpool: "max_unpool2d",
    lrn: "local_response_norm",
    maxima: "spatial_max",
    occlude: "occlude",
    rotate: "warp_affine",
    gather: "gather_windows",
    pool_windows: "pool_windows",
    unpool_windows: "unpool_windows",
}
"""The op that a family of cases times."""

CASES = [
    Case("relu + max_pool 3x3/2 [4,96,110,110]", lambda: pool((4, 96, 110, 110), 3)),
    Case(
        "relu + max_pool 3x3/2, channels_last",
        lambda: pool((4, 96, 110, 110), 3, CHANNELS_LAST),
    ),
    Case(
        "relu + max_pool 3x3/2, bfloat16",
        lambda: pool((4, 96, 110, 110), 3, dtype=torch.bfloat16),
    ),
    Case("relu + max_pool 3x3/2, batch 32 (149 MB)", lambda: pool((32, 96, 110, 110), 3)),
    Case("relu + max_pool 2x2/2 [2,64,224,224]", lambda: pool((2, 64, 224, 224), 2)),
    Case(
        "relu + max_pool 2x2/2, channels_last",
        lambda: pool((2, 64, 224, 224), 2, CHANNELS_LAST),
    ),
    Case("unpool + relu vs max_unpool2d + relu", lambda: unpool("overwrite")),
    Case(
        "unpool + relu vs max_unpool2d + relu, channels_last",
        lambda: unpool("overwrite", CHANNELS_LAST),
    ),
    Case("unpool sum + relu vs pooling backward + relu", lambda: unpool("sum")),
    Case(
        "unpool sum + relu vs pooling backward + relu, channels_last",
        lambda: unpool("sum", CHANNELS_LAST),
    ),
    Case("local_response_norm [4,96,55,55]", lrn),
    Case("local_response_norm, channels_last", lambda: lrn(CHANNELS_LAST)),
    Case("largest of each map + place [4,96,110,110] vs max", maxima),
    Case(
        "largest of each map + place, channels_last",
        lambda: maxima(layout=CHANNELS_LAST),
    ),
    Case("largest of each map + place [64,256,13,13]", lambda: maxima((64, 256, 13, 13))),
    Case("occlude 49 x 32x32 vs mask arithmetic", lambda: occlude("mask arithmetic")),
    Case("occlude 49 x 32x32 vs repeat + slice fill", lambda: occlude("repeat")),
    Case(
        "occlude 49 x 32x32 vs repeat + slice fill, channels_last",
        lambda: occlude("repeat", CHANNELS_LAST),
    ),
    Case("36 rotations of 3x224x224 vs grid_sample", rotate),
    Case("36 rotations, channels_last", lambda: rotate(CHANNELS_LAST)),
    Case("gather 128 windows of 20x20x64 vs slices", lambda: gather(128, 224, 20, 18, 64)),
    Case("gather 128 windows of 7x7x384 vs slices", lambda: gather(128, 13, 7, 5, 384)),
    Case("pool 32 windows 3x3/2 to 5x5x96 vs slices + relu + max_pool2d", pool_windows),
    Case("unpool 16 windows 2x2/2 of 20x20x256 vs max_unpool2d + relu", unpool_windows),
]
