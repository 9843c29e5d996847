"""Every kernel for GPUs that is compiled, in both widths of indices, against the CPU's."""

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import product
from typing import Any

import kernels_of
import pytest
import torch
from places import CPU, FOR_GPUS, Place
from strategies import DTYPES, LAYOUTS
from torch import Tensor

POOLS = [  # kernel, stride, padding, dilation: the unrolled ones by how they begin, and any other
    *(([k, k], [2, 2], [p, p], [1, 1]) for k, p in product((2, 3), (0, 1))),
    ([3, 2], [1, 3], [1, 0], [1, 1]),
]
# Rows whose packs of 16 bytes are aligned, of which pairs of elements are, and no two elements.
WIDTHS = (16, 18, 17)
CHANNELS = (8, 5)  # packs of 16 bytes, and none
ROUNDED = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 3e-6, torch.float64: 1e-12}
Call = tuple[str, list[Any]]  # an op's name and its arguments, on the CPU


def maps(dtype: torch.dtype) -> Iterator[Tensor]:
    """Images of every layout, alignment and number of channels that kernels tell apart."""
    contiguous, channels_last = LAYOUTS.values()
    for width in WIDTHS:
        yield torch.randn(2, 3, 5, width).to(dtype).contiguous(memory_format=contiguous)
    for channels in CHANNELS:
        yield torch.randn(2, channels, 5, 7).to(dtype).contiguous(memory_format=channels_last)


def pooling(dtype: torch.dtype) -> Iterator[Call]:
    for x, pool, relu in product(maps(dtype), POOLS, (False, True)):
        yield "max_pool2d", [x, *pool, False, relu]


def unpooling(dtype: torch.dtype) -> Iterator[Call]:
    for x, pool, overwrite in product(maps(dtype), POOLS, (False, True)):
        y, switches = CPU.op("max_pool2d")(x, *pool, False, False)
        size = list(x.shape[2:])
        yield "max_unpool2d", [y, switches, *pool, size, False, overwrite, False]
        yield "max_unpool2d_backward", [torch.randn_like(x), switches, None, *pool, overwrite]
        yield "max_pool2d_backward", [torch.randn_like(y), switches, y, *pool, size]


def normalising(dtype: torch.dtype) -> Iterator[Call]:
    for x, size in product(maps(dtype), (5, 4)):
        constants = [size, 1e-2, 0.75, 2.0]
        yield "local_response_norm", [x, *constants]
        yield "local_response_norm_backward", [torch.randn_like(x), x, *constants]


def occluding(dtype: torch.dtype) -> Iterator[Call]:
    boxes = torch.tensor([[0, 0, 4, 5], [-2, 3, 4, 99]])
    for x in maps(dtype):
        yield "occlude", [x, boxes, torch.randn(x.shape[1]).to(dtype)]


def searching(dtype: torch.dtype) -> Iterator[Call]:
    for x in maps(dtype):
        yield "spatial_max", [x]
        yield "spatial_max", [x.repeat(1, 1, 6, 6)]  # large enough for several pieces a map


def warping(dtype: torch.dtype) -> Iterator[Call]:
    turns = torch.tensor([[[0.8, -0.6, 3.0], [0.6, 0.8, -2.0]], [[1.0, 0, 0], [0, 1.0, 0.5]]])
    turns = turns.double()
    colours = [torch.randn(2, 6, width, 3).to(dtype).permute(0, 3, 1, 2) for width in WIDTHS]
    for x in [*maps(dtype), *colours]:
        yield "warp_affine", [x, turns, torch.randn(x.shape[1]).to(dtype)]
        grad = torch.randn(2, 2, *x.shape[1:]).to(dtype)
        yield "warp_affine_backward", [grad, turns, not x.is_contiguous()]


def looking_through_windows(dtype: torch.dtype) -> Iterator[Call]:
    # image, buffer, its first pixel, its pitch; then the patch and the window; pixel of `out`
    patched, plain = [0, 0, 0, 3, 2, 2, 5, 5, 1, 1, 6, 6, 0], [1, -1, *[0] * 6, -2, -2, 3, 3, 25]
    windows, pixels = torch.tensor([patched, plain]), 25
    for channels in CHANNELS:
        patch, out = (torch.randn(n, channels).to(dtype) for n in (9, 2 * pixels))
        base = torch.randn(2, 7, 6, channels).to(dtype)
        taps = torch.randint(4, base.shape, dtype=torch.uint8)
        laid = [[patch], windows, out, pixels]
        for add in (False, True):
            yield "gather_windows", [base, *laid, 0, 0.5, add]
        for pool, flag in product(POOLS, (False, True)):
            yield "pool_windows", [base, *laid, *pool, flag]
            yield "unpool_windows", [taps, *laid, *pool, False, flag]


CALLS = {
    each.__name__: each
    for each in (
        *(pooling, unpooling, normalising, occluding, searching, warping),
        looking_through_windows,
    )
}


def answer(place: Place, call: Call) -> tuple[Tensor, ...]:
    """What the op returns there, or writes to; on the CPU, in the strides it had."""
    name, arguments = call
    args = [_copied(each, place.device) for each in arguments]
    result = place.op(name)(*args)
    if result is None:
        result = args[3]
    return tuple(each.cpu() for each in (result if isinstance(result, tuple) else (result,)))


def _copied(value: Any, device: str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, copy=True)
    return [_copied(each, device) for each in value] if isinstance(value, list) else value


def check(place: Place, calls: Callable[[torch.dtype], Iterator[Call]], dtype: torch.dtype) -> None:
    for call in calls(dtype):
        rounded = call[0].startswith(("local_response_norm", "warp_affine"))
        off = 4 * ROUNDED[dtype] * rounded
        for found, expected in zip(answer(place, call), answer(CPU, call), strict=True):
            assert found.stride() == expected.stride(), call[0]
            torch.testing.assert_close(found, expected, rtol=off, atol=off, msg=_where(call))


def _where(call: Call) -> Callable[[str], str]:
    name, arguments = call
    said = [tuple(a.shape) if isinstance(a, Tensor) else a for a in arguments]
    return lambda message: f"{name}{said}: {message}"


@pytest.mark.parametrize("int64", [False, True], ids=["32 bits", "64 bits"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("calls", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("place", FOR_GPUS, ids=lambda place: place.name)
def test_it_does_what_the_cpu_kernel_does(place, calls, dtype, int64):
    with kernels_of.int64_only(place.library) if int64 else nullcontext():
        check(place, calls, dtype)


def test_these_calls_reach_every_kernel():
    """A kernel that none of them reaches fails here: it is to be tried, or to go."""
    host = FOR_GPUS[0]
    if "ZFCUDA_HOST_COPIES" in os.environ:
        pytest.skip("ZFCUDA_HOST_COPIES names another library, which does not count")
    before = kernels_of.runs(host.library)
    for calls, dtype in product(CALLS.values(), DTYPES):
        for call in calls(dtype):
            answer(host, call)
            with kernels_of.int64_only(host.library):
                answer(host, call)
    after = kernels_of.runs(host.library)
    assert [name for name, runs in after.items() if runs == before[name]] == []
    assert len(after) > 300
