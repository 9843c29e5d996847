"""The compiled ops, and what every op's registration needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from zfcuda import _load

_load.library()
kernels = torch.ops.zfcuda


def empty(like: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """What a kernel allocates: of ``like``'s device and layout, and its dtype if none is given."""
    channels_last = not like.is_contiguous() and like.is_contiguous(
        memory_format=torch.channels_last
    )
    return torch.empty(
        shape,
        dtype=dtype or like.dtype,
        device=like.device,
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
    )


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
    """Give ``op`` its derivative in both modes.

    Args:
        backward, setup: as ``torch.library.register_autograd``.
        tangent: from an op's arguments, their tangents (None: none) and its result to the tangents
            of the result, one for each tensor.
    """
    _library.rules[op] = tangent
    torch.library.register_autograd(f"zfcuda::{op}", backward, setup_context=setup, lib=_library)


def no_derivative(op: str, why: str = "zfcuda's ops are differentiable once") -> None:
    """Give ``op`` an autograd rule that says why it has no derivative."""

    def refuse(*_: Any) -> None:
        raise RuntimeError(f"zfcuda::{op} has no derivative: {why}")

    _library.rules[op] = refuse
    torch.library.register_autograd(f"zfcuda::{op}", refuse, lib=_library)
