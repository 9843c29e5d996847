"""benchmarks/floors.py: the bytes that an op cannot do without, against tensors and brute force."""

from pathlib import Path

import cases
import floors
import kernels
import pytest
import torch

from zfcuda import ops

pytestmark = pytest.mark.tooling


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 7, 9), (1, 5, 8, 8), (3, 1, 5, 12)])
@pytest.mark.parametrize(("kernel", "ceil_mode"), [(2, True), (3, False), (3, True)])
def test_pool_and_unpool_move_their_tensors(shape, kernel, ceil_mode, dtype):
    x = torch.randn(shape).to(dtype)
    y, switches = ops.max_pool2d(x, kernel, 2, 0, 1, ceil_mode)
    need = floors.max_pool2d(shape, kernel, 2, dtype.itemsize, ceil_mode)
    assert (need.read, need.written) == (x.nbytes, y.nbytes + switches.nbytes)
    back = floors.max_unpool2d(shape, kernel, 2, dtype.itemsize, ceil_mode)
    assert (back.read, back.written) == (y.nbytes + switches.nbytes, x.nbytes)


def test_copies_of_an_image():
    x = torch.randn(2, 3, 6, 7)
    boxes = torch.tensor([[0, 0, 2, 2]] * 5)
    need = floors.occlude(x.shape, 5, 4)
    out = ops.occlude(x, boxes, 0.0)
    assert (need.read, need.written) == (x.nbytes + boxes.nbytes, out.nbytes)
    matrices = torch.eye(2, 3, dtype=torch.float64).repeat(4, 1, 1)
    need = floors.warp_affine(x.shape, 4, 4)
    out = ops.warp_affine(x, matrices)
    assert (need.read, need.written) == (x.nbytes + matrices.nbytes, out.nbytes)
    need = floors.local_response_norm(x.shape, 5, 4)
    assert (need.read, need.written) == (x.nbytes, x.nbytes)
    need = floors.spatial_max(x.shape, 4)
    values, places = ops.spatial_max(x)
    assert (need.read, need.written) == (x.nbytes, values.nbytes + places.nbytes)


# --- windows --------------------------------------------------------------------------------------

# image, buffer, offset, pitch, patch box, window box, out: over an edge, without a patch, a patch
# beside its window, two windows of one place, a window off the map.
ROWS = [
    [0, 0, 0, 3, 2, 2, 5, 5, 1, 1, 6, 6, 0],
    [1, -1, 0, 0, 0, 0, 0, 0, -2, -2, 3, 3, 25],
    [1, 0, 9, 2, 0, 0, 2, 2, 4, 4, 7, 7, 50],
    [0, 0, 13, 3, 2, 2, 5, 5, 1, 1, 6, 6, 59],
    [0, 0, 22, 4, -1, 5, 3, 9, 0, 4, 4, 8, 84],
    [0, 0, 38, 1, 0, 0, 1, 1, 9, 9, 11, 11, 100],
]
SIZE = (2, 7, 8)


def places(row, reached):
    """(from the patch?, image, buffer place, y, x) of every pixel that some pixel of a window, by
    ``reached``, is made of."""
    image, buffer, offset, pitch, py0, px0, py1, px1, y0, x0, y1, x1, _ = row
    for y in range(y0, y1):
        for x in range(x0, x1):
            for v, u in reached(y, x):
                if 0 <= v < SIZE[1] and 0 <= u < SIZE[2]:
                    inside = buffer >= 0 and py0 <= v < py1 and px0 <= u < px1
                    yield inside, image, offset + (v - py0) * pitch + u - px0, v, u


def brute_force(reached):
    """Pixels read of the maps, of the patches, and of the maps under those."""
    base, patches, under = set(), set(), set()
    for row in ROWS:
        for inside, image, place, v, u in places(row, reached):
            if inside:
                patches.add(place)
                under.add((image, v, u))
            else:
                base.add((image, v, u))
    return len(base), len(patches), len(under)


WRITTEN = sum((row[10] - row[8]) * (row[11] - row[9]) for row in ROWS)


@pytest.mark.parametrize("kernel", [2, 3])
def test_each_pixel_is_read_once(kernel):
    def taps(y, x):
        return [(2 * y + i, 2 * x + j) for i in range(kernel) for j in range(kernel)]

    def windows(y, x):
        over = [[o for o in range(-9, 12) if 0 <= at - 2 * o < kernel] for at in (y, x)]
        return [(v, u) for v in over[0] for u in over[1]]

    base, patches, _ = brute_force(lambda y, x: [(y, x)])
    need = floors.gather_windows(ROWS, SIZE, 5, 4)
    assert need.read == (base + patches) * 20 + len(ROWS) * 104 and need.written == WRITTEN * 20
    base, patches, _ = brute_force(taps)
    need = floors.pool_windows(ROWS, SIZE, 5, 2, kernel, 2)
    assert need.read == (base + patches) * 10 + len(ROWS) * 104 and need.written == WRITTEN * 10
    _, patches, under = brute_force(windows)  # of the maps only the switches under the patches
    need = floors.unpool_windows(ROWS, SIZE, 5, 4, kernel, 2)
    assert need.read == patches * 20 + under * 5 + len(ROWS) * 104 and need.written == WRITTEN * 20


# --- chips and cases ------------------------------------------------------------------------------


def test_a_floor_is_the_slower_of_bytes_and_instructions():
    chip = floors.Chip("slow", "9.0", 1e9, 1, 1e6)
    assert chip.floor(floors.Demand(10**9, 10**9, 0)) == 2.0
    assert chip.bound_by(floors.Demand(10**9, 10**9, 0)) == "bytes"
    assert chip.floor(floors.Demand(1, 1, 128 * 10**7)) == 10.0
    assert chip.bound_by(floors.Demand(1, 1, 128 * 10**7)) == "instructions"


def test_every_family_of_cases_says_what_it_needs():
    made = {
        cases.pool: {"shape": (1, 2, 9, 9), "kernel": 3},
        cases.unpool: {"overlap": "sum", "shape": (1, 2, 9, 9)},
        cases.lrn: {"shape": (1, 6, 5, 5), "dtype": torch.bfloat16},
        cases.maxima: {"shape": (2, 3, 9, 8), "layout": torch.channels_last},
        cases.occlude: {"baseline": "repeat", "stride": 96},
        cases.rotate: {"count": 2},
        cases.gather: {"count": 3, "size": 12, "window": 5, "patch": 3, "channels": 2},
        cases.pool_windows: {"count": 2},
        cases.unpool_windows: {"count": 2},
    }
    assert made.keys() == cases.DEMANDS.keys() == cases.OPS.keys()
    assert all(callable(getattr(ops, name)) for name in cases.OPS.values())
    for family, arguments in made.items():
        work = family(**arguments)
        work.check()
        assert work.demand == cases.DEMANDS[family](**arguments) and work.bytes > 0


def test_every_row_of_the_benchmark_has_a_floor():
    table = kernels.floors_table(kernels.all_cases())
    assert len(table) > 15 and all("nan" not in line for line in table)
    page = Path(__file__).parents[2] / "docs" / "performance.md"
    assert "\n".join(table) in page.read_text()  # python benchmarks/gpu/kernels.py --floors
    names = [case.name for case in kernels.all_cases()]
    assert len(names) == len(set(names))
