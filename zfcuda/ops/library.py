"""The compiled ops, and what every op's registration needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from zfcuda import load_library

IntPair = int | Sequence[int]
_NO_INTS = (str, float, np.inexact, np.bool_)


def pair(value: IntPair, name: str) -> list[int]:
    """``value`` for (height, width); as torch, a sequence of one goes for both."""
    if type(value) is int:  # the usual case, which every call of an op meets several times
        return [value, value]
    both = list(value) if isinstance(value, Sequence) else [value, value]
    if len(both) == 1:
        both *= 2
    if len(both) != 2 or any(v is None or isinstance(v, _NO_INTS) for v in both):
        raise ValueError(f"{name} must be an int or a pair of ints, got {value!r}")
    return [int(v) if isinstance(v, np.integer) else v for v in both]


def check_tensor(value: Any, name: str) -> None:
    """Raise a TypeError unless ``value`` is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")


def window_of(
    kernel_size: IntPair, stride: IntPair | None, padding: IntPair, dilation: IntPair
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Kernel, stride (the kernel, if there is none, as in torch), padding and dilation as pairs."""
    kernel = pair(kernel_size, "kernel_size")
    none = stride is None or (isinstance(stride, Sequence) and not stride)
    step = kernel if none else pair(stride, "stride")
    return kernel, step, pair(padding, "padding"), pair(dilation, "dilation")


load_library()


def _translated(call: Callable[..., Any]) -> Callable[..., Any]:
    """``call``, with the exceptions that torch's stable ABI cannot raise from C++. It lets through
    standard ones only: what an op says of its arguments, which its name begins, is an IndexError
    for a TypeError, and for a ValueError one or, since torch 2.15, a RuntimeError."""

    def translating(*args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except (IndexError, RuntimeError) as error:
            words = str(error)
            if words.partition(":")[0] in vars(kernels):
                kind = TypeError if isinstance(error, IndexError) else ValueError
                raise kind(words) from None
            if type(error) is RuntimeError and "CUDA out of memory" in words:
                raise torch.OutOfMemoryError(words) from None
            raise

    return translating


kernels = SimpleNamespace()  # what the functions of this room call: an op's only overload each


def define(op: str, of_fakes: Callable[..., Any]) -> None:
    """Enter torch.ops.zfcuda's ``op`` into ``kernels``; ``of_fakes`` makes its results of fake
    tensors."""
    overload = getattr(torch.ops.zfcuda, op).default
    # In the overload: compiled graphs call it without what is around, and are to raise the same.
    overload._op = _translated(overload._op)
    setattr(kernels, op, overload)
    torch.library.register_fake(f"zfcuda::{op}", of_fakes)


def empty(like: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """What a kernel allocates: of ``like``'s device and layout, and its dtype if none is given."""
    layout = torch.channels_last if is_channels_last(like) else torch.contiguous_format
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=layout)


def is_channels_last(x: Tensor) -> bool:
    """Whether ``x`` lies so, and not contiguously as well."""
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


Tangents = tuple[Tensor | None, ...]


class _WithTangents(torch.library.Library):
    """Where the autograd rules go: those that ``register_autograd`` makes know backward only, and
    would drop the tangents of forward-mode differentiation without a word."""

    def __init__(self) -> None:
        super().__init__("zfcuda", "IMPL")
        self.rules: dict[str, Callable[[tuple[Any, ...], Tangents, Any], Tangents]] = {}

    def impl(self, op_name: Any, fn: Any, *key: str, **options: Any) -> None:
        def kernel(keyset: Any, *args: Any) -> Any:
            if not has_tangent(args):
                return fn(keyset, *args)
            primals, tangents = zip(*map(_unpack, args), strict=True)
            result = fn(keyset, *primals)
            outs = result if isinstance(result, tuple) else (result,)
            made = self.rules[op_name](primals, tangents, result)
            duals = tuple(
                out if tangent is None else forward_ad.make_dual(out, tangent)
                for out, tangent in zip(outs, made, strict=True)
            )
            return duals if isinstance(result, tuple) else duals[0]

        super().impl(op_name, kernel, *key, **options)


_library = _WithTangents()


def has_tangent(values: Iterable[Any]) -> bool:
    """Whether any of these, or of the sequences among them, is differentiated in forward mode."""
    if forward_ad._current_level < 0:  # no dual numbers at all: the usual case costs nothing
        return False
    return any(
        has_tangent(value) if isinstance(value, list | tuple) else _unpack(value)[1] is not None
        for value in values
    )


def _unpack(value: Any) -> tuple[Any, Tensor | None]:
    return forward_ad.unpack_dual(value) if isinstance(value, Tensor) else (value, None)


def derivative(
    op: str,
    backward: Callable[..., Any],
    setup: Callable[..., None],
    tangent: Callable[[tuple[Any, ...], Tangents, Any], Tangents],
) -> None:
    """Give ``op`` its derivative in both modes, of the first order only.

    Args:
        backward, setup: as ``torch.library.register_autograd``.
        tangent: from an op's arguments, their tangents (None: none) and its result to the tangents
            of the result, one for each tensor.
    """
    _library.rules[op] = tangent
    torch.library.register_autograd(f"zfcuda::{op}", backward, setup_context=setup, lib=_library)
    no_derivative(f"{op}_backward", "zfcuda's ops are differentiable once")


def no_derivative(op: str, why: str) -> None:
    """Give ``op`` an autograd rule that says why it has no derivative."""

    def refuse(*_: Any) -> None:
        raise RuntimeError(f"zfcuda::{op} has no derivative: {why}")

    _library.rules[op] = refuse
    torch.library.register_autograd(f"zfcuda::{op}", refuse, lib=_library)


def fill_of(x: Tensor, fill: float | Tensor, with_image: bool) -> Tensor:
    """``fill`` as the kernels take it, on ``x``'s device and of its dtype: [C], or [C,H,W] where an
    image is allowed."""
    if x.dim() != 4:
        raise ValueError(f"x must be [N,C,H,W], got shape {list(x.shape)}")
    channels = x.shape[1]
    if isinstance(fill, int | float):
        # Made on the device: a copy from the host would wait for it, and break a graph capture.
        fill = torch.full((channels,), fill, dtype=torch.float64, device=x.device)
    elif not isinstance(fill, Tensor):
        fill = torch.as_tensor(fill, dtype=x.dtype)
    fill = fill.to(device=x.device, dtype=x.dtype)
    shapes = [[channels], [*x.shape[1:]]][: 1 + with_image]
    if fill.dim() == 0:
        fill = fill.expand(channels)
    if list(fill.shape) not in shapes:
        wanted = " or ".join(map(str, shapes))
        raise ValueError(f"fill must be a number or of shape {wanted}, got {list(fill.shape)}")
    return fill.contiguous()


def empty_copies(x: Tensor, copies: int) -> Tensor:
    """[N,copies,C,H,W], each image in x's layout."""
    n, *image = x.shape
    flat = empty(x, (n * copies, *image))
    return flat.unflatten(0, (n, copies))
