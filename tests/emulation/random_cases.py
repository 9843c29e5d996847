"""Random calls of every op: the emulated launch of the CUDA kernel against the CPU kernel.

    python tests/emulation/random_cases.py --cases 10000 --first 50000
    python tests/emulation/random_cases.py --seconds 300 --only pool unpool --guard end

Shapes, windows, types and layouts at random, storage offsets that break alignment, NaN, infinities
and ties among the values, indices of 64 bits, few blocks. Copies must be equal; what is computed
may differ by rounding (nvcc contracts a*b+c, and takes the chip's square roots). The exit status is
1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import sys
import time
from pathlib import Path

import emulated
import torch

import zfcuda  # noqa: F401  (loads the library)

CPU, GPU = torch.ops.zfcuda, torch.ops.zfcuda_host
TYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
LOOSE = {torch.float32: 3e-6, torch.float64: 1e-12, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


class NoCaseError(Exception):
    """What was drawn is no call that the op takes."""


def values(shape, dtype, strange=True):
    n = 1
    for s in shape:
        n *= s
    x = torch.randn(n, dtype=torch.float64)
    kind = random.random()
    if strange and kind < 0.4:
        x = (x * 1.5).round() / 2
    if strange and kind > 0.75 and n:
        for bad in (float("nan"), float("inf"), -float("inf"), -0.0):
            x[torch.randint(n, (max(1, n // 15),))] = bad
    if strange and 0.7 < kind < 0.75:
        x.fill_(-float("inf"))
    return x.to(dtype).reshape(shape)


def placed(x, last=None):
    """The same values at a storage offset, contiguous or channels_last."""
    offset = random.choice([0, 0, 0, 1, 2, 3, 4, 5, 8])
    last = random.random() < 0.5 if last is None else last
    if x.dim() == 4 and last:
        n, c, h, w = x.shape
        flat = torch.empty(x.numel() + offset, dtype=x.dtype)[offset:]
        out = flat.view(n, h, w, c).permute(0, 3, 1, 2)
    else:
        out = torch.empty(x.numel() + offset, dtype=x.dtype)[offset:].view(x.shape)
    return out.copy_(x)


def same(a, b, loose=0.0):
    assert a.shape == b.shape and a.dtype == b.dtype and a.stride() == b.stride(), (
        a.shape,
        b.shape,
        a.stride(),
        b.stride(),
    )
    if not loose:
        if a.is_floating_point():
            equal = (a == b) | (a.isnan() & b.isnan())
            assert equal.all(), f"{int((~equal).sum())} of {a.numel()} differ"
            zero = (a == 0) & (torch.signbit(a) != torch.signbit(b))
            return int(zero.sum())
        assert torch.equal(a, b), f"{int((a != b).sum())} of {a.numel()} differ"
        return 0
    torch.testing.assert_close(a, b, rtol=loose, atol=loose, equal_nan=True)
    return 0


def size():
    return random.choice([1, 2, 3, 5, 7, 8, 9, 12, 13, 16, 20, 24, 26, 32, 33, 40, 55, 64, 110])


def shape4(limit=20000):
    while True:
        shape = (
            random.choice([1, 1, 2, 3]),
            random.choice([1, 2, 3, 4, 5, 7, 8, 12, 16, 24, 32, 37, 48]),
            size(),
            size(),
        )
        if shape[0] * shape[1] * shape[2] * shape[3] <= limit:
            return shape


def window():
    kind = random.random()
    if kind < 0.35:
        return (3, 3), (2, 2), random.choice([(0, 0), (1, 1), (1, 0), (0, 1)]), (1, 1)
    if kind < 0.6:
        return (2, 2), (2, 2), random.choice([(0, 0), (1, 1), (1, 0), (0, 1)]), (1, 1)
    if kind < 0.7:
        k = random.choice([(16, 16), (15, 17), (16, 17), (1, 256)])
        return (
            k,
            (random.randint(1, 6), random.randint(1, 6)),
            (random.randint(0, k[0] // 2), random.randint(0, k[1] // 2)),
            (1, 1),
        )
    k = (random.randint(1, 5), random.randint(1, 5))
    return (
        k,
        (random.randint(1, 4), random.randint(1, 4)),
        (random.randint(0, k[0] // 2), random.randint(0, k[1] // 2)),
        (random.randint(1, 3), random.randint(1, 3)),
    )


def pooled(x, w, ceil, relu):
    try:
        return CPU.max_pool2d(x, *map(list, w), ceil, relu)
    except (ValueError, RuntimeError) as error:  # a window that is none
        raise NoCaseError from error


def pool():
    dtype = random.choice(TYPES)
    x, w, ceil, relu = (
        placed(values(shape4(), dtype)),
        window(),
        random.random() < 0.5,
        random.random() < 0.5,
    )
    a = pooled(x, w, ceil, relu)
    b = GPU.max_pool2d(x, *map(list, w), ceil, relu)
    same(a[0], b[0])
    same(a[1], b[1])
    grad = placed(values(a[0].shape, dtype))
    y = a[0] if relu else None
    args = (grad, a[1], y, *map(list, w), list(x.shape[2:]))
    same(CPU.max_pool2d_backward(*args), GPU.max_pool2d_backward(*args))


def unpool():
    dtype = random.choice(TYPES)
    x, w, ceil = values(shape4(), dtype, False), window(), random.random() < 0.5
    last = random.random() < 0.5
    a = pooled(placed(x, last), w, ceil, False)
    y, switches = placed(values(a[0].shape, dtype), last), placed(a[1], last)
    if random.random() < 0.2:
        taps = w[0][0] * w[0][1]
        switches = placed(torch.randint(0, taps, switches.shape).to(switches.dtype), last)
    relu, over = random.random() < 0.5, random.random() < 0.5
    args = (y, switches, *map(list, w), list(x.shape[2:]), relu, over, False)
    try:
        a = CPU.max_unpool2d(*args)
    except (ValueError, RuntimeError) as error:  # a switch off the map: the CPU always looks
        raise NoCaseError from error
    same(a, GPU.max_unpool2d(*args))
    grad = placed(values(x.shape, dtype))
    args = (grad, switches, a if relu else None, *map(list, w), over)
    same(CPU.max_unpool2d_backward(*args), GPU.max_unpool2d_backward(*args))


def lrn():
    dtype = random.choice(TYPES)
    x = placed(values(shape4(), dtype, False))
    args = (
        random.choice([5, 5, 5, 1, 3, 4, 7, 50]),
        10 ** random.uniform(-4, 0),
        random.choice([0.75, 0.5, 1.0, 0.6]),
        random.choice([1.0, 2.0, 0.5]),
    )
    same(CPU.local_response_norm(x, *args), GPU.local_response_norm(x, *args), LOOSE[dtype])
    if x.numel() < 6000:
        grad = placed(values(x.shape, dtype, False))
        args = (grad, x, *args)
        same(
            CPU.local_response_norm_backward(*args),
            GPU.local_response_norm_backward(*args),
            4 * LOOSE[dtype],
        )


def maxima():
    x = placed(values(shape4(40000), random.choice(TYPES)))
    for a, b in zip(CPU.spatial_max(x), GPU.spatial_max(x), strict=True):
        same(a, b)


def occlude():
    dtype = random.choice(TYPES)
    x = placed(values(shape4(6000), dtype))
    _, c, h, w = x.shape
    p = random.randint(1, 6)
    boxes = torch.stack(
        [
            torch.randint(-5, h + 5, (p,)),
            torch.randint(-5, w + 5, (p,)),
            torch.randint(-5, h + 9, (p,)),
            torch.randint(-5, w + 9, (p,)),
        ],
        1,
    )
    if random.random() < 0.1:
        boxes[0] = torch.tensor([-(2**62), -(2**62), 2**62, 2**62])
    fill = (
        placed(values((c,), dtype)) if random.random() < 0.5 else placed(values((c, h, w), dtype))
    )
    same(CPU.occlude(x, boxes, fill), GPU.occlude(x, boxes, fill))


def warp():
    dtype = random.choice(TYPES)
    shape = shape4(3000)
    if random.random() < 0.4:
        shape = (shape[0], 3, min(shape[2], 24), min(shape[3], 32))
    x = placed(values(shape, dtype, False))
    m = random.randint(1, 3)
    matrices = torch.randn(m, 2, 3, dtype=torch.float64)
    matrices[:, :, 2] *= 5
    if random.random() < 0.3:
        matrices[0] = torch.eye(2, 3, dtype=torch.float64)
    if random.random() < 0.1:
        matrices[0] = 0
    fill = values((shape[1],), dtype, False)
    # Coordinates of float32 are off by an ulp of their size, which counts where images are steep.
    slack = {torch.float32: 2e-4, torch.float64: 1e-10, torch.float16: 4e-3, torch.bfloat16: 3e-2}[
        dtype
    ]
    same(CPU.warp_affine(x, matrices, fill), GPU.warp_affine(x, matrices, fill), slack)
    grad = values((shape[0], m, *shape[1:]), dtype, False)
    if grad.numel() < 3000:
        args = (grad, matrices, random.random() < 0.5)
        same(CPU.warp_affine_backward(*args), GPU.warp_affine_backward(*args), 10 * slack)


def laid(height, width, channels, dtype, images, scale=1):
    """Patches and windows at random: buffers, windows [Q,13], out's pixels, the largest window."""
    buffers = [
        placed(values((random.randint(1, 40), channels), dtype))
        for _ in range(random.randint(0, 3))
    ]
    rows, at, largest = [], 0, 1
    for _ in range(random.randint(1, 6)):
        y0, x0 = random.randint(-3, height), random.randint(-3, width)
        box = [y0, x0, y0 + random.randint(0, 6), x0 + random.randint(0, 6)]
        row = [random.randrange(images), -1, 0, 0, 0, 0, 0, 0, *box, at]
        if buffers and random.random() < 0.8:
            b = random.randrange(len(buffers))
            n = len(buffers[b])
            h = random.randint(1, 4)
            pitch = random.randint(1, 8)
            w = random.randint(1, pitch)
            extent = (h - 1) * pitch + w
            if extent <= n:
                top, left = random.randint(-2, height // scale), random.randint(-2, width // scale)
                row[1:8] = [b, random.randint(0, n - extent), pitch, top, left, top + h, left + w]
        area = max(0, box[2] - box[0]) * max(0, box[3] - box[1])
        rows.append(row)
        at += area
        largest = max(largest, area)
    return buffers, torch.tensor(rows), at, largest


def both(name, base, buffers, windows, pixels, channels_out, dtype, largest, *rest):
    fresh = values((pixels, channels_out), dtype)
    outs = [placed(fresh) for _ in range(2)]
    if random.random() < 0.5:
        outs = [o.clone() for o in outs]
    for namespace, out in zip((CPU, GPU), outs, strict=True):
        getattr(namespace, name)(base, buffers, windows, out, largest + random.randint(0, 3), *rest)
    same(*outs)


def base_of(channels, dtype):
    n, h, w = random.randint(1, 3), random.randint(1, 12), random.randint(1, 12)
    return placed(values((n, h, w, channels), dtype), False)


def channel_count():
    return random.choice([1, 2, 3, 4, 5, 8, 8, 16, 24])


def gather():
    dtype, channels = random.choice(TYPES), channel_count()
    base = base_of(channels, dtype)
    n, h, w, _ = base.shape
    buffers, windows, pixels, largest = laid(h, w, channels, dtype, n)
    if buffers and random.random() < 0.2:
        base = None
    extra = random.choice([0, 0, 1, 8])
    both(
        "gather_windows",
        base,
        buffers,
        windows,
        pixels,
        channels + extra,
        dtype,
        largest,
        random.randint(0, extra),
        random.choice([0.0, 1.5]),
        random.random() < 0.4,
    )


def pool_windows():
    dtype, channels = random.choice(TYPES), channel_count()
    base = base_of(channels, dtype)
    n, h, w, _ = base.shape
    buffers, windows, pixels, largest = laid(h, w, channels, dtype, n)
    both(
        "pool_windows",
        base,
        buffers,
        windows,
        pixels,
        channels,
        dtype,
        largest,
        *map(list, window()),
        random.random() < 0.5,
    )


def unpool_windows():
    dtype, channels, win = random.choice(TYPES), channel_count(), window()
    taps = win[0][0] * win[0][1]
    n, h, w = random.randint(1, 3), random.randint(1, 9), random.randint(1, 9)
    kind = torch.uint8 if taps <= 255 else torch.int32
    switches = torch.randint(-1, min(taps, 12) + 1, (n, h, w, channels)).to(kind)
    buffers, windows, pixels, largest = laid(
        h * win[1][0], w * win[1][1], channels, dtype, n, win[1][0]
    )
    both(
        "unpool_windows",
        placed(switches, False),
        buffers,
        windows,
        pixels,
        channels,
        dtype,
        largest,
        *map(list, win),
        random.random() < 0.5,
        random.random() < 0.5,
    )


CASES = {
    f.__name__: f
    for f in (pool, unpool, lrn, maxima, occlude, warp, gather, pool_windows, unpool_windows)
}


def launch_at_random(library: ctypes.CDLL) -> None:
    """Choose how the next launches are made: which indices, and in how many blocks at most."""
    library.zfcuda_int64_only(ctypes.c_bool(random.random() < 0.35))
    most = ctypes.c_uint32.in_dll(library, "zf_emu_most_blocks")
    most.value = random.choice([2**31 - 1, 2**31 - 1, 2**31 - 1, 3, 1])


def wrong(seed: int, names: list[str], library: ctypes.CDLL) -> str | None:
    """What is wrong with the case of this seed, if anything is.

    Raises:
        NoCaseError: it is none.
    """
    random.seed(seed)
    torch.manual_seed(seed)
    name = random.choice(names)
    launch_at_random(library)
    try:
        CASES[name]()
    except (AssertionError, RuntimeError) as error:
        return f"WRONG {name}, seed {seed}: {str(error).strip().splitlines()[:6]}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="the first case's seed")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--library", type=Path, help="another than emulated.py's")
    parser.add_argument(
        "--guard", choices=["end", "start"], help="tensors lie flush against a forbidden page"
    )
    parser.add_argument("--races", action="store_true", help="look for two threads at one byte")
    options = parser.parse_args()
    path = options.library or emulated.build()
    if options.races:
        os.environ["ZF_EMU_RACES"] = "1"
    if options.guard:  # before any tensor
        os.environ["ZF_GUARD"] = options.guard
        ctypes.CDLL(str(emulated.guard()))
    torch.ops.load_library(path)
    library = ctypes.CDLL(str(path))
    begin, seed, done, found = time.perf_counter(), options.first, 0, 0
    while done < options.cases and time.perf_counter() - begin < options.seconds:
        try:
            line = wrong(seed, options.only, library)
        except NoCaseError:
            continue
        finally:
            seed += 1
        done += 1
        if line:
            found += 1
            print(line, flush=True)
    print(f"{done} cases, {found} wrong", flush=True)
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
