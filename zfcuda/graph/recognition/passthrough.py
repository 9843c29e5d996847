"""Calls that compute nothing: values as they are, one behind the other, or only their shapes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from zfcuda.graph.nodes import Concat, Identity, Shape, Value
from zfcuda.graph.recognition.spellings import NotDeterministic, Reading, Spellings, is_map


def _cat(tensors: Any, dim: Any = 0) -> Reading | None:
    maps = isinstance(tensors, tuple | list) and len(tensors) > 0 and all(map(is_map, tensors))
    if not maps or dim not in (1, -3) or len({x.dtype for x in tensors}) > 1:
        return None
    return Concat(), tuple(tensors)


def _dropout(
    input: Any, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Reading | None:
    if training and p > 0:
        raise NotDeterministic("dropout that is on draws random numbers")
    return (Identity(), (input,)) if isinstance(input, Value) else None


def _torch_dropout(input: Any, p: float, train: bool) -> Reading | None:
    return _dropout(input, p, train)


def _dropout_module(m: nn.Module, input: Any) -> Reading | None:
    return _dropout(input, m.p, m.training)


def _stochastic_depth(input: Any, p: float, mode: str, training: bool = True) -> Reading | None:
    return _dropout(input, p, training)


def _identity(input: Any) -> Reading | None:
    return (Identity(), (input,)) if isinstance(input, Value) else None


def _same_if_same_dtype(input: Any, *args: Any, **kwargs: Any) -> Reading | None:
    """``x.to(...)``; the graph checks that the result is of the same dtype and device."""
    if any(isinstance(v, Value) and v.shape is not None for v in (*args, *kwargs.values())):
        return None
    return _identity(input)


def _only_shapes(*args: Any, **kwargs: Any) -> Reading:
    return Shape(), tuple(v for v in (*args, *kwargs.values()) if isinstance(v, Value))


def _getattr(input: Any, name: str) -> Reading | None:
    shapes = ("shape", "ndim", "dtype", "device", "layout", "is_cuda", "requires_grad")
    return _only_shapes(input) if name in shapes else None


PASSTHROUGH = Spellings(
    named={
        "cat": _cat,
        "concat": _cat,
        "concatenate": _cat,
        "clone": lambda input, *, memory_format=None: _identity(input),
        "contiguous": lambda input, *, memory_format=None: _identity(input),
        "detach": _identity,
    },
    methods={
        **dict.fromkeys(("to", "type", "float", "double", "half", "bfloat16"), _same_if_same_dtype),
        **dict.fromkeys(("cpu", "cuda", "requires_grad_"), _same_if_same_dtype),
        **dict.fromkeys(("size", "dim", "ndimension", "numel", "nelement"), _only_shapes),
        **dict.fromkeys(("is_floating_point", "is_contiguous", "get_device"), _only_shapes),
        "is_complex": _only_shapes,
    },
    functions={
        F.dropout: _dropout,
        F.dropout2d: _dropout,
        F.alpha_dropout: _dropout,
        F.feature_alpha_dropout: _dropout,
        torch.dropout: _torch_dropout,
        torch.feature_dropout: _torch_dropout,
        torch.alpha_dropout: _torch_dropout,
        torch.numel: _only_shapes,
        torch.is_floating_point: _only_shapes,
        torch.is_complex: _only_shapes,
        getattr: _getattr,
    },
    modules={
        nn.Identity: lambda m, input: _identity(input),
        nn.Dropout: _dropout_module,
        nn.Dropout2d: _dropout_module,
        nn.AlphaDropout: _dropout_module,
        nn.FeatureAlphaDropout: _dropout_module,
    },
    torchvisions={"stochastic_depth": _stochastic_depth},
)
