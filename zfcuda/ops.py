"""One typed function per kernel, with its fake (shape-only) kernel and its autograd rule beside it.

The schemas are in ``csrc/library.cpp``, the kernels in ``csrc/cpu`` and ``csrc/cuda``; the same
functions in plain PyTorch are in :mod:`zfcuda.reference`.

All take float32, float64, float16 or bfloat16 (16-bit types are computed in float32), contiguous or
channels_last (the result has the input's layout; other strides are copied to contiguous first),
empty batches, and run on the tensor's own device and its current stream. All but the ``*_windows``
ops are differentiable once; a second derivative raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from zfcuda import _load
from zfcuda.reference import pooled_size

_load.library()
_ops = torch.ops.zfcuda

IntPair = int | Sequence[int]


def _pair(value: IntPair, name: str) -> list[int]:
    pair = list(value) if isinstance(value, Sequence) else [value, value]
    if len(pair) == 1:
        pair *= 2
    if len(pair) != 2 or any(v is None or isinstance(v, float | str) for v in pair):
        raise ValueError(f"{name} must be an int or a pair of ints, got {value!r}")
    return pair


def _check_tensor(value: Any, name: str) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")


def _window(
    kernel_size: IntPair, stride: IntPair | None, padding: IntPair, dilation: IntPair
) -> tuple[list[int], list[int], list[int], list[int]]:
    kernel = _pair(kernel_size, "kernel_size")
    step = kernel if stride is None or stride == [] else _pair(stride, "stride")
    return kernel, step, _pair(padding, "padding"), _pair(dilation, "dilation")


def _empty(like: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """What a kernel allocates: ``like``'s device and layout."""
    channels_last = not like.is_contiguous() and like.is_contiguous(
        memory_format=torch.channels_last
    )
    return torch.empty(
        shape,
        dtype=dtype or like.dtype,
        device=like.device,
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
    )


def _no_derivative(op: str, why: str = "zfcuda's ops are differentiable once") -> None:
    """Give ``op`` an autograd rule that says why it has no derivative."""

    def backward(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError(f"zfcuda::{op} has no derivative: {why}")

    torch.library.register_autograd(f"zfcuda::{op}", backward)


# --- max_pool2d -----------------------------------------------------------------------------------


def max_pool2d(
    x: Tensor,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    ceil_mode: bool = False,
    relu: bool = False,
) -> tuple[Tensor, Tensor]:
    """Max-pooling that remembers its switches (Zeiler & Fergus 2014, section 2.1), in one pass.

    Args:
        x: [N,C,H,W].
        kernel_size, stride, padding, dilation, ceil_mode: as ``torch.nn.functional.max_pool2d``.
        relu: exactly ``relu`` then pool, fused.

    Returns:
        ``(y, switches)``, both [N,C,OH,OW]. A switch is the number of the winning tap in its
        window, ``row * kernel_width + column``: ``uint8`` up to 255 taps, ``int32`` above. The
        first maximum in raster order wins; NaN wins over everything, the last one among several. A
        window with no tap inside the input (dilation with ceil_mode) has value ``-inf`` and switch
        255 (int32: -1).

    Raises:
        ValueError: wrong rank, a non-positive kernel, stride or dilation, padding above half the
            kernel, an empty output.
        TypeError: a dtype that is not floating point.
    """
    window = _window(kernel_size, stride, padding, dilation)
    return _ops.max_pool2d(x, *window, ceil_mode, relu)


def switches_to_indices(
    switches: Tensor,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    *,
    input_size: Sequence[int],
) -> Tensor:
    """Switches [N,C,OH,OW] as torch's int64 indices into the H*W input plane; -1 for "no tap"."""
    (_, kw), (sh, sw), (ph, pw), (dh, dw) = _window(kernel_size, stride, padding, dilation)
    tap = switches.long()
    none = tap == (255 if switches.dtype == torch.uint8 else -1)
    rows = torch.arange(switches.shape[-2], device=switches.device)[:, None] * sh - ph
    cols = torch.arange(switches.shape[-1], device=switches.device) * sw - pw
    index = (rows + tap // kw * dh) * input_size[-1] + cols + tap % kw * dw
    return torch.where(none, -1, index)


@torch.library.register_fake("zfcuda::max_pool2d")
def _(x, kernel_size, stride, padding, dilation, ceil_mode, relu):
    n, c, h, w = x.shape
    size = [
        pooled_size(length, k, s, p, d, ceil_mode)
        for length, k, s, p, d in zip((h, w), kernel_size, stride, padding, dilation, strict=True)
    ]
    switch = torch.uint8 if kernel_size[0] * kernel_size[1] <= 255 else torch.int32
    return _empty(x, (n, c, *size)), _empty(x, (n, c, *size), switch)


@torch.library.register_fake("zfcuda::max_pool2d_backward")
def _(grad, switches, y, kernel_size, stride, padding, dilation, input_size):
    return _empty(switches, (*grad.shape[:2], *input_size), grad.dtype)


def _max_pool2d_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, kernel_size, stride, padding, dilation, _, relu = inputs
    y, switches = output
    # The fused ReLU blocks the gradient where its output is not positive: y is kept anyway, x need
    # not be.
    ctx.save_for_backward(switches, *((y,) if relu else ()))
    ctx.window = (kernel_size, stride, padding, dilation)
    ctx.input_size = x.shape[-2:]
    ctx.mark_non_differentiable(switches)


def _max_pool2d_backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    switches, *y = ctx.saved_tensors
    grad_x = _ops.max_pool2d_backward(
        grad, switches, y[0] if y else None, *ctx.window, ctx.input_size
    )
    return grad_x, None, None, None, None, None, None


torch.library.register_autograd(
    "zfcuda::max_pool2d", _max_pool2d_backward, setup_context=_max_pool2d_setup
)
_no_derivative("max_pool2d_backward")


# --- max_unpool2d ---------------------------------------------------------------------------------


def max_unpool2d(
    y: Tensor,
    switches: Tensor,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    output_size: Sequence[int] | None = None,
    relu: bool = False,
    overlap: Literal["sum", "overwrite"] = "sum",
    check: bool = False,
) -> Tensor:
    """Put every value back where its switch says (Zeiler & Fergus 2014, section 2.1: unpooling).

    Gather form: each output element is written once, so the result is the same on every run and
    device.

    Args:
        y, switches: [N,C,OH,OW], as :func:`max_pool2d` returns them.
        kernel_size, stride, padding, dilation: of the pooling to undo.
        output_size: (H, W), the pooled tensor's size; default ``(OH - 1) * stride - 2 * padding +
            dilation * (kernel_size - 1) + 1``.
        relu: rectify the unpooled signal (the relu of the sum).
        overlap: ``"sum"`` adds what several windows send to one place (the transpose of pooling),
            ``"overwrite"`` lets the last window in raster order win.
        check: on CUDA, raise for a switch that is no tap number (costs a synchronisation); the CPU
            kernel always does. Unchecked, such a switch unpools to nothing.

    Returns:
        [N,C,H,W] in ``y``'s dtype.

    Raises:
        ValueError: shapes that do not fit each other or the window, an unknown overlap rule,
            tampered switches.
        TypeError: a switch dtype other than the one :func:`max_pool2d` gives.
    """
    if overlap not in ("sum", "overwrite"):
        raise ValueError(f"overlap must be 'sum' or 'overwrite', got {overlap!r}")
    window = _window(kernel_size, stride, padding, dilation)
    if output_size is None:
        output_size = [
            (length - 1) * s - 2 * p + d * (k - 1) + 1
            for length, k, s, p, d in zip(y.shape[-2:], *window, strict=True)
        ]
    size = list(output_size[-2:])
    return _ops.max_unpool2d(y, switches, *window, size, relu, overlap == "overwrite", check)


@torch.library.register_fake("zfcuda::max_unpool2d")
def _(y, switches, kernel_size, stride, padding, dilation, output_size, relu, overwrite, check):
    return _empty(y, (*y.shape[:2], *output_size))


@torch.library.register_fake("zfcuda::max_unpool2d_backward")
def _(grad, switches, out, kernel_size, stride, padding, dilation, overwrite):
    return _empty(switches, switches.shape, grad.dtype)


def _max_unpool2d_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, switches, kernel_size, stride, padding, dilation, _, relu, overwrite, _ = inputs
    ctx.save_for_backward(switches, *((output,) if relu else ()))
    ctx.window = (kernel_size, stride, padding, dilation)
    ctx.overwrite = overwrite


def _max_unpool2d_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    switches, *out = ctx.saved_tensors
    grad_y = _ops.max_unpool2d_backward(
        grad, switches, out[0] if out else None, *ctx.window, ctx.overwrite
    )
    return (grad_y, *(None,) * 9)


torch.library.register_autograd(
    "zfcuda::max_unpool2d", _max_unpool2d_backward, setup_context=_max_unpool2d_setup
)
_no_derivative("max_unpool2d_backward")


# --- local_response_norm --------------------------------------------------------------------------


def local_response_norm(
    x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """Contrast normalisation across channels, ``x / (k + alpha / size * sum of squares) ** beta``.

    As ``torch.nn.functional.local_response_norm`` (alpha is divided by size; the window is ``size``
    channels, ``size // 2`` of them below), over x [N,C,H,W].

    Raises:
        ValueError: wrong rank or a size below 1.
        TypeError: a dtype that is not floating point.
    """
    return _ops.local_response_norm(x, size, alpha, beta, k)


@torch.library.register_fake("zfcuda::local_response_norm")
def _(x, size, alpha, beta, k):
    return _empty(x, x.shape)


@torch.library.register_fake("zfcuda::local_response_norm_backward")
def _(grad, x, size, alpha, beta, k):
    return _empty(x, x.shape)


def _lrn_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *ctx.constants = inputs
    ctx.save_for_backward(x)


def _lrn_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (x,) = ctx.saved_tensors
    grad_x = _ops.local_response_norm_backward(grad, x, *ctx.constants)
    return grad_x, None, None, None, None


torch.library.register_autograd(
    "zfcuda::local_response_norm", _lrn_backward, setup_context=_lrn_setup
)
_no_derivative("local_response_norm_backward")


# --- occlude --------------------------------------------------------------------------------------


def _fill(x: Tensor, fill: float | Tensor, with_image: bool) -> Tensor:
    """``fill`` as the kernels take it: [C], or [C,H,W] where an image is allowed."""
    if x.dim() != 4:
        raise ValueError(f"x must be [N,C,H,W], got shape {list(x.shape)}")
    channels = x.shape[1]
    if isinstance(fill, int | float):
        # Made on the device: a copy from the host would wait for it, and break a graph capture.
        fill = torch.full((channels,), fill, dtype=torch.float64, device=x.device)
    elif not isinstance(fill, Tensor):
        fill = torch.as_tensor(fill, dtype=x.dtype)
    fill = fill.to(device=x.device, dtype=x.dtype)
    shapes: tuple[tuple[int, ...], ...] = ((channels,),)
    if with_image:
        shapes += (tuple(x.shape[1:]),)
    if fill.dim() == 0:
        fill = fill.expand(channels)
    if tuple(fill.shape) not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise ValueError(f"fill must be a number or of shape {wanted}, got {list(fill.shape)}")
    return fill.contiguous()


def occlude(x: Tensor, boxes: Tensor, fill: float | Tensor = 0.0) -> Tensor:
    """Every image under every occluder, each output byte written once (Zeiler & Fergus 2014,
    section 4.2).

    Args:
        x: [N,C,H,W].
        boxes: int64 [P,4] of (y0, x0, y1, x1), half open, in pixels; may hang over the edge. Boxes
            on another device are copied to x's.
        fill: what the occluder shows: a number, one per channel [C], or an image [C,H,W].

    Returns:
        [N,P,C,H,W]; for a channels_last x each image is channels_last.

    Raises:
        ValueError: wrong ranks or shapes.
        TypeError: boxes that are not int64.
    """
    _check_tensor(boxes, "boxes")
    return _ops.occlude(x, boxes.to(x.device), _fill(x, fill, with_image=True))


def _empty_copies(x: Tensor, copies: int) -> Tensor:
    """[N,copies,C,H,W], each image in x's layout."""
    n, *image = x.shape
    flat = _empty(x, (n * copies, *image))
    return flat.unflatten(0, (n, copies))


@torch.library.register_fake("zfcuda::occlude")
def _(x, boxes, fill):
    return _empty_copies(x, boxes.shape[0])


_no_derivative("occlude", "occlusion is a forward experiment; detach x")


# --- warp_affine ----------------------------------------------------------------------------------


def warp_affine(x: Tensor, matrices: Tensor, fill: float | Tensor = 0.0) -> Tensor:
    """Every image under every affine map, bilinear, without a coordinate grid in memory.

    Args:
        x: [N,C,H,W].
        matrices: [M,2,3], mapping output to input pixel coordinates (x, y), pixel centres at +0.5;
            read as float64 whatever x's dtype. No gradient flows to them.
        fill: a number or one per channel [C]; taps outside the image take it before blending.

    Returns:
        [N,M,C,H,W], images of x's size; for a channels_last x each image is channels_last.

    Raises:
        ValueError: wrong ranks or shapes, matrices that require grad.
    """
    _check_tensor(matrices, "matrices")
    if matrices.requires_grad and torch.is_grad_enabled():
        raise ValueError("warp_affine has no gradient for its matrices; pass matrices.detach()")
    matrices = matrices.to(device=x.device, dtype=torch.float64)
    return _ops.warp_affine(x, matrices, _fill(x, fill, with_image=False))


@torch.library.register_fake("zfcuda::warp_affine")
def _(x, matrices, fill):
    return _empty_copies(x, matrices.shape[0])


@torch.library.register_fake("zfcuda::warp_affine_backward")
def _(grad, matrices, channels_last):
    n, _, c, h, w = grad.shape
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty((n, c, h, w), dtype=grad.dtype, device=grad.device, memory_format=layout)


def _warp_affine_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, matrices, _ = inputs
    ctx.save_for_backward(matrices)
    ctx.channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def _warp_affine_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (matrices,) = ctx.saved_tensors
    return _ops.warp_affine_backward(grad, matrices, ctx.channels_last), None, None


torch.library.register_autograd(
    "zfcuda::warp_affine", _warp_affine_backward, setup_context=_warp_affine_setup
)
_no_derivative("warp_affine_backward")


# --- windows of maps under patches ----------------------------------------------------------------
#
# The cone's ops. Maps are pixels here, [N,H,W,C]: a pixel is C neighbouring values. A patch, a
# rectangle of changed pixels, lies over one image of the map; a row of ``windows`` says which, and
# which window of the result is wanted where. All three write into ``out`` and return nothing.

WINDOW_COLUMNS = 13
"""The columns of ``windows`` [Q,13], int64:

0 image; 1 buffer: which of ``patches`` (-1: no patch); 2 offset: the pixel of that buffer where the
patch begins; 3 pitch: pixels from one row of the patch to the next; 4 to 7 the patch's box
y0, x0, y1, x1 on its map; 8 to 11 the window's box; 12 the pixel of ``out`` where the window begins
(its rows follow each other tightly).

Boxes are half open; windows may hang over the edge, and either box may be empty.
"""


def _refuse_derivative(op: str, *tensors: Tensor | None) -> None:
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
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
    _ops.gather_windows(base, patches, windows, out, largest, channel, outside, add)


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
        kernel_size, stride, padding, dilation, relu: as :func:`max_pool2d`, NaN included. Where the
            pooled map ends is the caller's business: a window beyond its end is pooled like others.

    Raises:
        ValueError, TypeError: as :func:`gather_windows`.
    """
    _refuse_derivative("pool_windows", base, out, *patches)
    window = _window(kernel_size, stride, padding, dilation)
    _ops.pool_windows(base, patches, windows, out, largest, *window, relu)


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
    takes what :func:`max_unpool2d` would send there. A switch that is no tap sends nothing.

    Args:
        switches: [N,OH,OW,C] of the whole map, as :func:`max_pool2d` gives them (permuted).
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
    window = _window(kernel_size, stride, padding, dilation)
    _ops.unpool_windows(switches, patches, windows, out, largest, *window, relu, overwrite)


for _op in ("gather_windows", "pool_windows", "unpool_windows"):
    torch.library.register_fake(f"zfcuda::{_op}", lambda *args: None)
