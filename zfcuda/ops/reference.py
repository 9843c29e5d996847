"""Every op of zfcuda in plain PyTorch: the truth for the tests, the baseline for the benchmarks.

Written for clarity, not speed; runs on any device and dtype and imports nothing of zfcuda. 16-bit
inputs are computed in float32 and rounded once at the end, as the kernels do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

Pair = tuple[int, int]


def _compute_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def pooled_size(
    size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool
) -> int:
    """Output length of one pooled axis: torch's rule, where in ceil mode the last window must start
    inside the input or its left padding."""
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    out = (span + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (out - 1) * stride >= size + padding:
        out -= 1
    return out


def _taps(out: int, kernel: int, stride: int, padding: int, dilation: int) -> Tensor:
    """Input coordinates [out, kernel] of the taps of the windows along an axis; may be outside."""
    return torch.arange(out)[:, None] * stride - padding + torch.arange(kernel)[None, :] * dilation


def _windows(x: Tensor, rows: Tensor, cols: Tensor) -> tuple[Tensor, Tensor]:
    """What the windows over maps [...,H,W] see, [...,OH,OW,taps], -inf off the map; and which of
    it is on the map."""
    h, w = x.shape[-2:]
    rows, cols = rows[:, None, :, None].to(x.device), cols[None, :, None, :].to(x.device)
    inside = ((rows >= 0) & (rows < h) & (cols >= 0) & (cols < w)).flatten(2)
    values = x[..., rows.clamp(0, h - 1), cols.clamp(0, w - 1)].flatten(-2)
    return torch.where(inside, values, -torch.inf), inside


def max_pool2d(
    x: Tensor,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    ceil_mode: bool = False,
    relu: bool = False,
) -> tuple[Tensor, Tensor]:
    """Max-pooling by materialising every window; see :func:`zfcuda.ops.max_pool2d`."""
    if relu:
        x = torch.relu(x)
    window = (kernel_size, stride, padding, dilation)
    size = map(pooled_size, x.shape[2:], *window, (ceil_mode, ceil_mode))
    windows, inside = _windows(x, *map(_taps, size, *window))
    taps = windows.shape[-1]
    tap = torch.arange(taps, device=x.device)
    y = windows.amax(-1)  # NaN propagates
    first_max = torch.where((windows == y[..., None]) & inside, tap, taps).amin(-1)
    last_nan = torch.where(windows.isnan() & inside, tap, -1).amax(-1)
    chosen = torch.where(last_nan >= 0, last_nan, first_max)
    dtype, none = (torch.uint8, 255) if taps <= 255 else (torch.int32, -1)
    return y, torch.where(chosen == taps, none, chosen).to(dtype)


def max_unpool2d(
    y: Tensor,
    switches: Tensor,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    output_size: Pair,
    relu: bool = False,
    overlap: str = "sum",
) -> Tensor:
    """Unpooling tap by tap; see :func:`zfcuda.ops.max_unpool2d`.

    Taps run from last to first: for one output element that visits its windows in raster order,
    which fixes both the rounding of ``"sum"`` and the winner of ``"overwrite"``.
    """
    (h, w), (oh, ow) = output_size, y.shape[-2:]
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = kernel_size, stride, padding, dilation
    out = y.new_zeros((*y.shape[:2], h, w), dtype=_compute_dtype(y.dtype))
    rows, cols = _taps(oh, kh, sh, ph, dh), _taps(ow, kw, sw, pw, dw)
    for tap in reversed(range(kh * kw)):
        row, col = rows[:, tap // kw], cols[:, tap % kw]
        in_row, in_col = (row >= 0) & (row < h), (col >= 0) & (col < w)
        source = (..., in_row.nonzero().to(y.device), in_col.nonzero()[:, 0].to(y.device))
        place = (..., row[in_row][:, None].to(y.device), col[in_col].to(y.device))
        chosen = switches[source] == tap
        sent = y[source].to(out.dtype)
        kept = out[place]
        added = kept + sent if overlap == "sum" else sent
        out[place] = torch.where(chosen, added, kept)
    return (torch.relu(out) if relu else out).to(y.dtype)


def local_response_norm(
    x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """Contrast normalisation across channels; see :func:`zfcuda.ops.local_response_norm`."""
    v = x.to(_compute_dtype(x.dtype))
    channels = x.shape[1]
    below, above = size // 2, (size - 1) // 2
    squares = torch.nn.functional.pad(v * v, (0, 0, 0, 0, below, above))
    total = sum(squares[:, i : i + channels] for i in range(size))
    return (v / (k + alpha / size * total) ** beta).to(x.dtype)


def occlude(x: Tensor, boxes: Tensor, fill: Tensor | float) -> Tensor:
    """A copy of every image per box, with the box filled; see :func:`zfcuda.ops.occlude`."""
    h, w = x.shape[-2:]
    fill = torch.as_tensor(fill, dtype=x.dtype, device=x.device)
    image = (fill[:, None, None] if fill.dim() == 1 else fill).expand(x.shape[1:])
    out = x[:, None].repeat(1, len(boxes), 1, 1, 1)
    for p, (y0, x0, y1, x1) in enumerate(boxes.tolist()):
        rows = slice(min(max(y0, 0), h), min(max(y1, 0), h))
        cols = slice(min(max(x0, 0), w), min(max(x1, 0), w))
        out[:, p, :, rows, cols] = image[:, rows, cols]
    return out


def spatial_max(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each map's largest element and its place; see :func:`zfcuda.ops.spatial_max`."""
    flat = x.flatten(2)
    largest = flat.amax(2, keepdim=True)  # NaN if there is one
    there = (flat == largest) | flat.isnan()
    last = flat.shape[2] - 1
    places = torch.where(there, torch.arange(last + 1, device=x.device), last).amin(2)
    return flat.gather(2, places[..., None])[..., 0], places


def warp_affine(x: Tensor, matrices: Tensor, fill: Tensor | float = 0.0) -> Tensor:
    """Bilinear resampling under every matrix; see :func:`zfcuda.ops.warp_affine`.

    Coordinates are float64 whatever the image's dtype.
    """
    c, h, w = x.shape[1:]
    dtype = _compute_dtype(x.dtype)
    v = x.to(dtype)
    fill = torch.as_tensor(fill, dtype=dtype, device=x.device).expand(c)[None, :, None, None, None]
    m = matrices.to(device=x.device, dtype=torch.float64)[..., None, None]  # [M, 2, 3, 1, 1]
    row = torch.arange(h, dtype=torch.float64, device=x.device)[:, None] + 0.5
    col = torch.arange(w, dtype=torch.float64, device=x.device)[None, :] + 0.5
    source_x = m[:, 0, 0] * col + m[:, 0, 1] * row + m[:, 0, 2] - 0.5  # [M, H, W]
    source_y = m[:, 1, 0] * col + m[:, 1, 1] * row + m[:, 1, 2] - 0.5
    x0, y0 = source_x.floor(), source_y.floor()
    wx, wy = (source_x - x0).to(dtype), (source_y - y0).to(dtype)

    def tap(dy: int, dx: int) -> Tensor:
        ty, tx = y0 + dy, x0 + dx
        inside = (ty >= 0) & (ty <= h - 1) & (tx >= 0) & (tx <= w - 1)
        rows = torch.where(inside, ty, 0).long()
        cols = torch.where(inside, tx, 0).long()
        return torch.where(inside, v[:, :, rows, cols], fill)  # [N, C, M, H, W]

    def between(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
        """What is not sampled does not count: 0 * NaN is NaN."""
        blended = torch.where(weight == 0, a, a * (1 - weight) + b * weight)
        return torch.where(weight == 1, b, blended)

    top, bottom = between(tap(0, 0), tap(0, 1), wx), between(tap(1, 0), tap(1, 1), wx)
    out = between(top, bottom, wy)
    return out.transpose(1, 2).contiguous().to(x.dtype)


# --- windows of maps under patches ----------------------------------------------------------------

Box = tuple[int, int, int, int]


def _is_empty(box: Box) -> bool:
    return box[0] >= box[2] or box[1] >= box[3]


def _within(box: Box, outer: Box) -> tuple[slice, slice]:
    """``box`` as slices of a tensor that holds ``outer``."""
    (y0, x0, y1, x1), (top, left, _, _) = box, outer
    return slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)


def _lay(canvas: Tensor, box: Box, source: Tensor, source_box: Box) -> None:
    """Copy ``source`` [h,w,C], which lies at ``source_box``, into ``canvas``, which is ``box``."""
    shared = (*map(max, box[:2], source_box[:2]), *map(min, box[2:], source_box[2:]))
    if not _is_empty(shared):
        canvas[_within(shared, box)] = source[_within(shared, source_box)]


def _patch(patches: Sequence[Tensor], row: list[int]) -> tuple[Tensor, Box] | None:
    """The patch [h,w,C] that a row of ``windows`` names, and its box."""
    _, buffer, offset, pitch, *box = row[:8]
    y0, x0, y1, x1 = box
    if buffer < 0 or _is_empty((y0, x0, y1, x1)):
        return None
    lines = torch.arange(y1 - y0)[:, None] * pitch
    pixels = offset + lines + torch.arange(x1 - x0)
    return patches[buffer][pixels.to(patches[buffer].device)], (y0, x0, y1, x1)


def _wanted(
    windows: Tensor, patches: Sequence[Tensor], out: Tensor
) -> Iterator[tuple[int, Box, Tensor, tuple[Tensor, Box] | None]]:
    """Of every row of ``windows`` that wants something its image, the window's box, the [h,w,Co]
    view of ``out`` that it goes to and the patch over it."""
    for row in windows.tolist():
        y0, x0, y1, x1, offset = row[8:]
        if not _is_empty((y0, x0, y1, x1)):
            h, w = y1 - y0, x1 - x0
            target = out[offset : offset + h * w].unflatten(0, (h, w))
            yield row[0], (y0, x0, y1, x1), target, _patch(patches, row)


def gather_windows(
    base: Tensor | None,
    patches: Sequence[Tensor],
    windows: Tensor,
    out: Tensor,
    largest: int,
    channel: int = 0,
    outside: float = 0.0,
    add: bool = False,
) -> None:
    """Window by window; see :func:`zfcuda.ops.gather_windows`. ``largest`` is of no use here."""
    channels = (patches[0] if base is None else base).shape[-1]
    for image, box, target, patch in _wanted(windows, patches, out):
        pixels = out.new_full((*target.shape[:2], channels), outside)
        if base is not None:
            _lay(pixels, box, base[image], (0, 0, *base.shape[1:3]))
        if patch is not None:
            _lay(pixels, box, *patch)
        into = target[..., channel : channel + channels]
        into.copy_(into + pixels if add else pixels)


def pool_windows(
    base: Tensor,
    patches: Sequence[Tensor],
    windows: Tensor,
    out: Tensor,
    largest: int,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    relu: bool = False,
) -> None:
    """The whole map under each patch, pooled; see :func:`zfcuda.ops.pool_windows`."""
    map_box = (0, 0, *base.shape[1:3])
    for image, box, target, patch in _wanted(windows, patches, out):
        laid = base[image].clone()
        if patch is not None:
            _lay(laid, map_box, *patch)
        if relu:
            laid = torch.relu(laid)
        before = (p - start * s for p, start, s in zip(padding, box[:2], stride, strict=True))
        taps = map(_taps, target.shape[:2], kernel_size, stride, before, dilation)
        windows, _ = _windows(laid.permute(2, 0, 1), *taps)
        target.copy_(windows.amax(-1).permute(1, 2, 0))


def unpool_windows(
    switches: Tensor,
    patches: Sequence[Tensor],
    windows: Tensor,
    out: Tensor,
    largest: int,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    relu: bool = False,
    overwrite: bool = False,
) -> None:
    """The whole signal of each patch, unpooled; see :func:`zfcuda.ops.unpool_windows`."""
    pooled_box = (0, 0, *switches.shape[1:3])
    overlap = "overwrite" if overwrite else "sum"
    # Without padding, so that every tap is on the canvas: its pixel 0 is coordinate -padding.
    size = tuple(
        (pooled - 1) * s + d * (k - 1) + 1
        for pooled, k, s, d in zip(pooled_box[2:], kernel_size, stride, dilation, strict=True)
    )
    canvas_box = (-padding[0], -padding[1], size[0] - padding[0], size[1] - padding[1])
    for image, box, target, patch in _wanted(windows, patches, out):
        signal = out.new_zeros(switches.shape[1:])
        if patch is not None:
            _lay(signal, pooled_box, *patch)
        maps = (pixels.permute(2, 0, 1)[None] for pixels in (signal, switches[image]))
        unpooled = max_unpool2d(*maps, kernel_size, stride, (0, 0), dilation, size, relu, overlap)
        target.zero_()
        _lay(target, box, unpooled[0].permute(1, 2, 0), canvas_box)
