"""Windows of maps under patches: the cones' ops.

Maps are pixels here, [N,H,W,C]: a pixel is C neighbouring values. A patch, a rectangle of changed
pixels, lies over one image of the map; a row of ``windows`` says which, and which window of the
result is wanted where. All three ops write into ``out`` and return nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from zfcuda.ops.library import IntPair, define, has_tangent, kernels, window_of

WINDOW_COLUMNS = 13
"""The columns of ``windows`` [Q,13], int64:

0 image; 1 buffer: which of ``patches`` (-1: no patch); 2 offset: the pixel of that buffer where the
patch begins; 3 pitch: pixels from one row of the patch to the next; 4 to 7 the patch's box
y0, x0, y1, x1 on its map; 8 to 11 the window's box; 12 the pixel of ``out`` where the window begins
(its rows follow each other tightly).

Boxes are half open; windows may hang over the edge, and either box may be empty.
"""


def pixels(maps: Tensor) -> Tensor:
    """Maps [n,C,h,w] as [n,h,w,C]; without a copy for channels_last."""
    return maps.permute(0, 2, 3, 1).contiguous()


def as_maps(pixels: Tensor) -> Tensor:
    """[n,h,w,C] as channels_last maps [n,C,h,w]."""
    return pixels.permute(0, 3, 1, 2)


def on_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A host's array on a device. A GPU is not waited for; on the CPU the array's memory is
    shared."""
    if device.type != "cuda":
        return torch.from_numpy(array).to(device)
    # From pageable memory a copy waits for what the stream has before it. Of pinned memory torch
    # knows which copies are under way, and lends it anew only after them.
    return torch.from_numpy(np.ascontiguousarray(array)).pin_memory().to(device, non_blocking=True)


_PINNED = 2**24  # bytes of the largest tensor that a GPU writes to pinned memory


def on_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors on the CPU, for which a GPU is waited for once, however many they are; those that
    are there as they are."""
    # Pinned memory stays torch's: a large tensor, whose copy takes longer than a wait, takes none.
    late = [t.device.type == "cuda" and t.nbytes <= _PINNED for t in tensors]
    found = [t.to("cpu", non_blocking=soon) for t, soon in zip(tensors, late, strict=True)]
    for device in {t.device for t, soon in zip(tensors, late, strict=True) if soon}:
        torch.cuda.current_stream(device).synchronize()
    return [t.clone() if soon else t for t, soon in zip(found, late, strict=True)]


def window_table(
    patches: np.ndarray, boxes: np.ndarray, begins: np.ndarray, device: torch.device
) -> Tensor:
    """The table of Q windows.

    Args:
        patches: int64 [Q,8], columns 0 to 7.
        boxes: int64 [Q,4], of the windows.
        begins: int64 [Q], where in ``out`` they begin.
    """
    rows = np.concatenate([patches, boxes, begins[:, None]], 1)
    return on_device(rows, device)


def _refuse_derivative(op: str, *tensors: Tensor | None) -> None:
    wanted = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    if wanted or has_tangent(tensors):
        raise RuntimeError(
            f"zfcuda::{op} has no derivative: windows are a forward experiment; detach its inputs "
            "or call it under torch.no_grad()"
        )


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
    """Windows of maps under patches: what a layer reads to recompute what a patch changes.

    Args:
        base: [N,H,W,C], or None: then only patches have values.
        patches: up to 128 buffers [pixels,C], of any lengths.
        windows: int64 [Q,13], see :data:`WINDOW_COLUMNS`; on the data's device. No two windows may
            share pixels of ``out``.
        out: [pixels,Co], contiguous; its channels ``channel`` to ``channel + C`` take the patch
            where it lies (also off the map), else the base, else ``outside``.
        largest: the most pixels any window has.
        channel: where in ``out``'s pixels the C channels go.
        outside: the value off the map.
        add: add to ``out`` instead of replacing.

    Raises:
        ValueError: shapes that do not fit; on the CPU a row of ``windows`` that would read or write
            out of bounds, or is larger than ``largest`` (CUDA leaves such a window out).
        TypeError: dtypes that differ, windows that are not int64.
    """
    _refuse_derivative("gather_windows", base, out, *patches)
    kernels.gather_windows(base, patches, windows, out, largest, channel, outside, add)


def pool_windows(
    base: Tensor,
    patches: Sequence[Tensor],
    windows: Tensor,
    out: Tensor,
    largest: int,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    relu: bool = False,
) -> None:
    """Windows of max-pooled maps under patches, without their switches.

    As :func:`gather_windows`, but the windows' boxes are in pooled coordinates (the patches' in the
    map's), and a window's pixel is the maximum over its taps on the map; those off the map do not
    count, and without any the value is ``-inf``.

    Args:
        base: [N,H,W,C].
        patches, windows, largest: as :func:`gather_windows`; what of a patch is off the map counts
            for nothing.
        out: [pixels,C], contiguous.
        kernel_size, stride, padding, dilation, relu: as :func:`~zfcuda.ops.max_pool2d`, NaN
            included. Where the pooled map ends is the caller's business: a window beyond its end is
            pooled like others.

    Raises:
        ValueError, TypeError: as :func:`gather_windows`.
    """
    _refuse_derivative("pool_windows", base, out, *patches)
    window = window_of(kernel_size, stride, padding, dilation)
    kernels.pool_windows(base, patches, windows, out, largest, *window, relu)


def unpool_windows(
    switches: Tensor,
    patches: Sequence[Tensor],
    windows: Tensor,
    out: Tensor,
    largest: int,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    relu: bool = False,
    overwrite: bool = False,
) -> None:
    """Windows of unpooled signals that are zero off a patch: one step down a backward cone.

    The patches' boxes are in pooled coordinates, the windows' in the unpooled map's, where a place
    takes what :func:`~zfcuda.ops.max_unpool2d` would send there. A switch that is no tap sends
    nothing.

    Args:
        switches: [N,OH,OW,C] of the whole map, as :func:`~zfcuda.ops.max_pool2d` gives them
            (permuted).
        patches, windows, largest: as :func:`gather_windows`; what of a patch is off the pooled map
            counts for nothing.
        out: [pixels,C], contiguous.
        kernel_size, stride, padding, dilation: of the pooling to undo.
        relu: rectify the unpooled signal.
        overwrite: the last window in raster order whose switch points to a place wins there, even
            where its signal is zero because it is off the patch; otherwise they add up.

    Raises:
        ValueError, TypeError: as :func:`gather_windows`.
    """
    _refuse_derivative("unpool_windows", out, *patches)
    window = window_of(kernel_size, stride, padding, dilation)
    kernels.unpool_windows(switches, patches, windows, out, largest, *window, relu, overwrite)


for _op in ("gather_windows", "pool_windows", "unpool_windows"):
    define(_op, lambda *args: None)
