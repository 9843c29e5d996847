"""The deconvnet's rules for going down, as the backward of the calls that go up."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from zfcuda import ops
from zfcuda.interception.batch_norm import fixed_batch_norm
from zfcuda.interception.kernels import contrast_norm, ours_takes
from zfcuda.interception.mode import Call, Interception, every_spelling


class _Rectified(torch.autograd.Function):
    """A ReLU-like call; backward rectifies the signal, whatever the sign forward was."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, call: Call) -> Tensor:
        y = call(x)
        if y is x:  # the call was in place
            ctx.mark_dirty(x)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor, None]:
        return signal.clamp_min(0), None


class _Unchanged(torch.autograd.Function):
    """Any call whose backward hands the signal through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, call: Call) -> Tensor:
        return call(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor, None]:
        return signal, None


class _Switched(torch.autograd.Function):
    """Max-pooling; backward unpools with the switches and, after a fused ReLU, rectifies."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, window: tuple[Any, ...], ceil_mode: bool, relu: bool, overlap: Any
    ) -> tuple[Tensor, Tensor]:
        y, switches = ops.max_pool2d(x, *window, ceil_mode, relu)
        ctx.save_for_backward(switches)
        ctx.mark_non_differentiable(switches)
        ctx.window, ctx.size, ctx.relu, ctx.overlap = window, x.shape[-2:], relu, overlap
        return y, switches

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, signal: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        (switches,) = ctx.saved_tensors
        signal = ops.max_unpool2d(
            signal, switches, *ctx.window, ctx.size, relu=ctx.relu, overlap=ctx.overlap
        )
        return signal, None, None, None, None


def _rectified(call: Call, x: Tensor, *_: Any, **__: Any) -> Tensor:
    return _Rectified.apply(x, call)


def _unchanged(call: Call, x: Tensor, *_: Any, **__: Any) -> Tensor:
    return _Unchanged.apply(x, call)


def _is_zero(value: Any) -> bool:
    return isinstance(value, int | float) and value == 0


def _clamp(call: Call, x: Tensor, min: Any = None, max: Any = None, *, out: Any = None) -> Tensor:
    rectifies = _is_zero(min) and not isinstance(max, Tensor) and out is None
    return _Rectified.apply(x, call) if rectifies else call(x)


def _hardtanh(  # type: ignore[no-untyped-def]
    call, x, min_val=-1.0, max_val=1.0, inplace=False
) -> Tensor:
    return _clamp(call, x, min_val, max_val)


def _threshold(  # type: ignore[no-untyped-def]
    call, x, threshold, value, inplace=False
) -> Tensor:
    return _Rectified.apply(x, call) if _is_zero(threshold) and _is_zero(value) else call(x)


class _MaxPool:
    """Handlers of the three max-pooling calls, which differ in what they return."""

    def __init__(self, overlap: str) -> None:
        self._overlap = overlap

    def torch_form(  # type: ignore[no-untyped-def]
        self,
        call,
        x,
        kernel_size,
        stride=None,
        padding=0,
        dilation=1,
        ceil_mode=False,
        return_indices=False,
    ) -> Any:
        if x.dim() == 3:
            arguments = (kernel_size, stride, padding, dilation, ceil_mode, return_indices)
            result = self.torch_form(lambda batch: call(batch[0]), x[None], *arguments)
            return (result[0][0], result[1][0]) if return_indices else result[0]
        if not ours_takes(x):
            return call(x)
        window = (kernel_size, stride, padding, dilation)
        y, switches = _Switched.apply(x, window, ceil_mode, False, self._overlap)
        if not return_indices:
            return y
        return y, ops.switches_to_indices(switches, *window, input_size=x.shape[-2:])

    def indices_form(self, call: Call, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.torch_form(call, x, *args[:5], **{**kwargs, "return_indices": True})

    def our_form(  # type: ignore[no-untyped-def]
        self, call, x, kernel_size, stride, padding, dilation, ceil_mode, relu
    ) -> tuple[Tensor, Tensor]:
        window = (kernel_size, stride, padding, dilation)
        return _Switched.apply(x, window, ceil_mode, relu, self._overlap)


def deconvnet_rules(
    overlap: Literal["sum", "overwrite"] = "sum",
    norm: Literal["identity", "gradient"] = "identity",
    measure: bool = False,
) -> Interception:
    """The deconvnet's backward rules (Zeiler & Fergus 2014, section 2.1).

    ReLU, ReLU6, LeakyReLU and clamping at zero rectify the signal; max-pooling unpools it with the
    forward switches; contrast normalisation hands it through (``norm="gradient"``: its gradient);
    batch norm scales it. Every other call keeps its gradient.
    """
    pool = _MaxPool(overlap)
    calls = every_spelling(
        ("relu relu_ relu6 leaky_relu leaky_relu_", _rectified),
        ("clamp clamp_ clip clip_ clamp_min clamp_min_", _clamp),
        ("hardtanh hardtanh_", _hardtanh),
        ("threshold threshold_ _threshold", _threshold),
        ("max_pool2d", pool.torch_form),
        ("max_pool2d_with_indices", pool.indices_form),
    )
    calls[F.batch_norm] = fixed_batch_norm
    calls[torch.ops.zfcuda.max_pool2d] = pool.our_form
    lrn = contrast_norm if norm == "gradient" else _unchanged
    calls[F.local_response_norm] = calls[torch.ops.zfcuda.local_response_norm] = lrn
    return Interception(calls, measure)
