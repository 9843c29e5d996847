"""What recorded calls become in a graph: functions of values that never change, whatever order of
memory they have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

aten = torch.ops.aten


@dataclass(frozen=True)
class ResultOf:
    """One of several results."""

    function: Any
    place: int

    @property
    def tags(self) -> Any:
        return getattr(self.function, "tags", ())

    @property
    def __name__(self) -> str:
        return str(getattr(self.function, "__name__", "call"))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)[self.place]


@dataclass(frozen=True)
class MadeFor:
    """A function that depends on the number of images only."""

    function: Any

    def __call__(self, images: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


def in_any_layout(function: Any) -> Any:
    """The same for values in whatever order of memory. No one can tell a view from a copy where
    values never change."""
    if function is aten.view.default:
        return aten.reshape.default
    if function is aten.as_strided.default:
        return _strided
    name = getattr(getattr(function, "overloadpacket", function), "__name__", "")
    return _Contiguous(function) if name.startswith(_WANT_CONTIGUOUS) else function


def _strided(x: Tensor, size: Any, stride: Any, offset: int | None = None) -> Tensor:
    """Strides over numbers that lie one after another."""
    return x.clone(memory_format=torch.contiguous_format).as_strided(size, stride, offset or 0)


# Kernels that take for granted, and do not look, how their arguments lie; ATen's own callers see to
# it by copies, which a record leaves out.
_WANT_CONTIGUOUS = (
    "native_group_norm", "view_as_complex", "_scaled_dot_product", "_flash_attention",
    "_efficient_attention", "_native_multi_head", "_transformer_encoder_layer", "mkldnn_rnn",
    "_cudnn_rnn", "miopen_rnn", "_thnn_fused",
)  # fmt: skip


@dataclass(frozen=True)
class _Contiguous:
    """A function whose tensors must lie in order."""

    function: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = tree_map_only(Tensor, Tensor.contiguous, (args, kwargs))
        return self.function(*args, **kwargs)
