"""The calls a model makes at run time, intercepted: how any model gets our kernels and our
backward rules.

Hooks on modules miss functional ReLUs and stumble over in-place ones and reused modules. A
:class:`torch.overrides.TorchFunctionMode` sees every call instead, whether it was written as a
module, a function, a method or an in-place method. Two tables of replacements are made here:

- :func:`fast_forward`, for passes without gradient: max-pooling and contrast normalisation on our
  kernels;
- :func:`deconvnet_rules`, for projections: the same calls as an ``autograd.Function`` whose
  backward is the deconvnet's rule. ``torch.autograd.grad`` then walks the model's own graph, so
  that concatenations, residual sums, branches and reused modules need no care (signals add before
  they are rectified).
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from zfcuda import ops

Call = Callable[[Tensor], Any]  # the intercepted call as a function of its tensor alone
Handler = Callable[..., Any]  # (call, x, the call's other arguments)


class Interception(TorchFunctionMode):
    """While entered, calls found in ``handlers`` go to their handler instead.

    With ``measure=True`` it also counts the bytes of the tensors that calls return:
    ``total_bytes`` of all of them (what a graph kept for backward may hold) and ``peak_bytes``
    alive at once (what a pass without gradient needs).
    """

    def __init__(self, handlers: dict[Any, Handler], measure: bool = False) -> None:
        super().__init__()
        self._handlers = handlers
        self._measure = measure
        self._users: dict[int, int] = {}  # storage address -> tensors alive on it
        self._live_bytes = self.peak_bytes = self.total_bytes = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        handler = self._handlers.get(getattr(func, "overloadpacket", func))
        result = self._handle(handler, func, args, kwargs) if handler else func(*args, **kwargs)
        if self._measure:
            for tensor in result if isinstance(result, tuple | list) else (result,):
                if type(tensor) is Tensor and tensor.layout is torch.strided:
                    self._count(tensor)
        return result

    @staticmethod
    def _handle(handler: Handler, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x, *rest = args or (kwargs.get("input"),)
        if type(x) not in (Tensor, torch.nn.Parameter):  # a subclass has its own ideas
            return func(*args, **kwargs)
        others = {name: value for name, value in kwargs.items() if name != "input"}
        return handler(lambda tensor: func(tensor, *rest, **others), x, *rest, **others)

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        if address not in self._users:
            self.total_bytes += size
            self._live_bytes += size
            self.peak_bytes = max(self.peak_bytes, self._live_bytes)
        self._users[address] = self._users.get(address, 0) + 1
        weakref.finalize(tensor, self._forget, address, size).atexit = False

    def _forget(self, address: int, size: int) -> None:
        self._users[address] -= 1
        if not self._users[address]:
            del self._users[address]
            self._live_bytes -= size


def _table(*rows: tuple[str, Handler]) -> dict[Any, Handler]:
    """Every spelling in torch of the named calls, with its handler."""
    owners = (torch, Tensor, F, torch.ops.aten)
    return {
        getattr(owner, name): handler
        for names, handler in rows
        for name in names.split()
        for owner in owners
        if hasattr(owner, name)
    }


def _ours_takes(x: Tensor) -> bool:
    floats = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    return x.dim() == 4 and x.dtype in floats


def _batch_norm(  # type: ignore[no-untyped-def]
    call,
    x,
    running_mean=None,
    running_var=None,
    weight=None,
    bias=None,
    training=False,
    momentum=0.1,
    eps=1e-5,
) -> Tensor:
    """Batch norm as a fixed scale and shift that leaves the running statistics alone, also where
    the model insists on the batch's own statistics."""
    if running_mean is not None and not training:
        return call(x)
    dims = [0, *range(2, x.dim())]
    variance, mean = torch.var_mean(x.detach(), dims, correction=0)
    return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)


# --- passes without gradient ----------------------------------------------------------------------


def _fast_max_pool(  # type: ignore[no-untyped-def]
    call,
    x,
    kernel_size,
    stride=None,
    padding=0,
    dilation=1,
    ceil_mode=False,
    return_indices=False,
) -> Any:
    if return_indices or not _ours_takes(x):
        return call(x)
    return ops.max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode)[0]


def _fast_lrn(call: Call, x: Tensor, *constants: Any, **named: Any) -> Tensor:
    return ops.local_response_norm(x, *constants, **named) if _ours_takes(x) else call(x)


def fast_forward(measure: bool = False) -> Interception:
    """For passes under ``no_grad``: max-pooling and contrast normalisation run on zfcuda's
    kernels."""
    table = _table(
        ("max_pool2d", _fast_max_pool),
        ("local_response_norm", _fast_lrn),
        ("batch_norm", _batch_norm),
    )
    # torch.batch_norm orders its arguments differently; models reach it through F.batch_norm.
    del table[torch.batch_norm], table[torch.ops.aten.batch_norm]
    return Interception(table, measure)


# --- the deconvnet's rules ------------------------------------------------------------------------


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
        if not _ours_takes(x):
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
    table = _table(
        ("relu relu_ relu6 leaky_relu leaky_relu_", _rectified),
        ("clamp clamp_ clip clip_ clamp_min clamp_min_", _clamp),
        ("hardtanh hardtanh_", _hardtanh),
        ("threshold threshold_ _threshold", _threshold),
        ("max_pool2d", pool.torch_form),
        ("max_pool2d_with_indices", pool.indices_form),
    )
    table[F.batch_norm] = _batch_norm
    table[torch.ops.zfcuda.max_pool2d] = pool.our_form
    lrn = _fast_lrn if norm == "gradient" else _unchanged
    table[F.local_response_norm] = table[torch.ops.zfcuda.local_response_norm] = lrn
    return Interception(table, measure)


# --- what kept its gradient -----------------------------------------------------------------------

# Names of autograd nodes (without "Backward0") of calls that are linear in the signal or route it
# as pooling does: their gradient is the deconvnet's transpose.
_TRANSPOSED = re.compile(
    r"Add|Sub|Rsub|Neg|Sum|Mean|Cat|Stack|Clone|Copy|ToCopy|CopySlices|Alias|AsStrided|Detach"
    r"|View|UnsafeView|ReshapeAlias|Permute|Transpose|T|Squeeze\w*|Unsqueeze|Expand|Repeat|Movedim"
    r"|Slice|Select|Split\w*|UnsafeSplit\w*|Unbind|Index\w*|Gather|Flip|Roll|Unfold|Im2Col|Col2Im"
    r"|PixelShuffle|PixelUnshuffle|ConstantPadNd|\w+Pad[123]D|Upsample\w+|\w*AvgPool\w+"
    r"|NativeDropout|\w*MaxPool\w+|MaxUnpool\w+|Max|Amax|\w*BatchNorm|BackwardHookFunction"
    r"|_Rectified|_Unchanged|_Switched|\w+local_response_norm\w*"
)
# Linear in each factor: transposed as long as only one of them depends on the input.
_PRODUCT = re.compile(
    r"Mul|Mm|Mv|Bmm|Dot|Addmm|Addmv|Addbmm|Baddbmm|Addcmul|Outer|Ger|Linear|\w*Conv\w+"
)


def _is_transposed(name: str, signals: list[int]) -> bool:
    """Whether the gradient of the node ``name`` with respect to these operands is its transpose."""
    if len(signals) == 1 and (_PRODUCT.fullmatch(name) or (name == "Div" and signals == [0])):
        return True
    return bool(_TRANSPOSED.fullmatch(name))


def calls_left_to_gradient(output: Tensor, source: Tensor) -> list[str]:
    """Names of the calls between ``source`` (a leaf) and ``output`` that are neither linear in the
    signal nor covered by a rule, and therefore used their gradient at the forward point.

    Read off the autograd graph, so that nothing hidden in a composite or custom function is missed.
    """
    carries: dict[Any, bool] = {}  # node -> depends on source; filled from the input upwards
    left: dict[str, None] = {}  # an ordered set
    stack: list[tuple[Any, bool]] = [(output.grad_fn, False)]
    while stack:
        node, inputs_done = stack.pop()
        if inputs_done:
            signals = [i for i, (below, _) in enumerate(node.next_functions) if carries.get(below)]
            carries[node] = bool(signals) or getattr(node, "variable", None) is source
            name = re.sub(r"Backward\d*$", "", node.name()).rpartition("::")[2]
            if signals and not _is_transposed(name, signals):
                left[re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()] = None
        elif node is not None and node not in carries:
            carries[node] = False
            stack.append((node, True))
            stack.extend((below, False) for below, _ in node.next_functions)
    return [name.removeprefix("native_") for name in left]
