"""The calls a model makes, handed to others while a mode is entered."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from zfcuda import ops

Call = Callable[[Tensor], Any]  # the intercepted call as a function of its tensor alone
Handler = Callable[..., Any]  # (call, x, the call's other arguments)


class Interception(TorchFunctionMode):
    """While entered, calls found in ``handlers`` go to their handler instead.

    With ``measure=True`` it also counts the bytes of the tensors that calls return:
    ``total_bytes`` of all of them (what a graph kept for backward may hold), ``peak_bytes`` alive
    at once (what a pass without gradient needs) and ``largest_bytes`` of one. ``dtypes`` are those
    of the tensors.
    """

    def __init__(self, handlers: dict[Any, Handler], measure: bool = False) -> None:
        super().__init__()
        self._handlers = handlers
        self._measure = measure
        self._users: dict[int, int] = {}  # storage address -> tensors alive on it
        self._live_bytes = self.peak_bytes = self.total_bytes = self.largest_bytes = 0
        self.dtypes: set[torch.dtype] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = self._answer(func, args, kwargs or {})
        if self._measure:
            for tensor in result if isinstance(result, tuple | list) else (result,):
                if type(tensor) is Tensor and tensor.layout is torch.strided:
                    self.dtypes.add(tensor.dtype)
                    self._count(tensor)
        return result

    def _answer(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        handler = self._handlers.get(getattr(func, "overloadpacket", func))
        return self._handle(handler, func, args, kwargs) if handler else func(*args, **kwargs)

    @staticmethod
    def _handle(handler: Handler, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x, *rest = args or (kwargs.get("input"),)
        plain = type(x) in (Tensor, torch.nn.Parameter)  # a subclass has its own ideas
        if not plain or torch._C._functorch.is_functorch_wrapped_tensor(x):  # so has vmap
            return func(*args, **kwargs)
        others = {name: value for name, value in kwargs.items() if name != "input"}
        return handler(lambda tensor: func(tensor, *rest, **others), x, *rest, **others)

    def _count(self, tensor: Tensor) -> None:
        try:
            storage = _unwrapped(tensor).untyped_storage()
            address, size = storage.data_ptr(), storage.nbytes()
        except (NotImplementedError, RuntimeError):  # it has no memory that it would tell of
            return
        if address not in self._users:
            self.total_bytes += size
            self.largest_bytes = max(self.largest_bytes, size)
            self._live_bytes += size
            self.peak_bytes = max(self.peak_bytes, self._live_bytes)
        self._users[address] = self._users.get(address, 0) + 1
        weakref.finalize(tensor, self._forget, address, size).atexit = False

    def _forget(self, address: int, size: int) -> None:
        self._users[address] -= 1
        if not self._users[address]:
            del self._users[address]
            self._live_bytes -= size


def _unwrapped(tensor: Tensor) -> Tensor:
    """The tensor that those of ``torch.func`` stand for."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


# Calls that hand values on, so that what made those is what is asked about.
_CARRIED = {
    "alias", "alphadropout", "bfloat16", "clamp", "clampmax", "clampmin", "clip", "clone",
    "contiguous", "cpu", "cuda", "detach", "double", "dropout", "expand", "featuredropout",
    "flatten", "float", "getitem", "half", "identity", "movedim", "narrow", "permute", "reshape",
    "reshapeas", "select", "slice", "squeeze", "t", "to", "tocopy", "transpose", "type", "typeas",
    "unsqueeze", "view", "viewas",
}  # fmt: skip


class Operations(TorchFunctionMode):
    """While entered, remembers of every tensor which call made it, as long as the tensor lives.

    Attributes:
        last: the call behind the tensor of the latest :meth:`end`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.last = ""
        self._made = WeakTensorKeyDictionary()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "overloadpacket", func)
        name = getattr(name, "__name__", "").replace("_", "")
        if name == "setitem":
            self._made[args[0]] = name
        if name in _CARRIED:
            name = self._maker(args[0] if args else (kwargs or {}).get("input"))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self._made[tensor] = name
        return result

    def end(self, output: Any) -> None:
        """Note which call made ``output``: its name without underscores; empty where it cannot be
        followed."""
        self.last = self._maker(output)

    def _maker(self, tensor: Any) -> str:
        return self._made.get(tensor, "") if isinstance(tensor, Tensor) else ""


def author_of(module: nn.Module, name: str) -> str:
    """What the model's author knows the calls of a module by, as ``PReLU 'prelu2'``: "" for those
    that a module with others in it makes itself."""
    own = type(module).__module__.startswith(("torch.nn.", "torch.ao.nn.", "zfcuda.nn"))
    alone = own or not any(True for _ in module.children())
    return f"{type(module).__name__} {name!r}" if name and alone else ""


def every_spelling(*rows: tuple[str, Handler]) -> dict[Any, Handler]:
    """Every spelling in torch of the calls named in each row (with spaces between), with the row's
    handler."""
    owners = (torch, Tensor, F, torch.ops.aten)
    return {
        getattr(owner, name): handler
        for names, handler in rows
        for name in names.split()
        for owner in owners
        if hasattr(owner, name)
    }


def fixed_batch_norm(  # type: ignore[no-untyped-def]
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
    the model insists on the batch's own statistics. Arguments after ``x`` as ``F.batch_norm``'s."""
    if running_mean is not None and not training:
        return call(x)
    dims = [0, *range(2, x.dim())]
    variance, mean = torch.var_mean(x.detach(), dims, correction=0)
    return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)


def fast_forward(measure: bool = False) -> Interception:
    """For passes under ``no_grad``: max-pooling and contrast normalisation run on zfcuda's
    kernels."""
    calls = every_spelling(
        ("max_pool2d", max_pooling(_pooled)),
        ("local_response_norm", contrast_norm),
        ("batch_norm", fixed_batch_norm),
    )
    # torch.batch_norm orders its arguments differently; models reach it through F.batch_norm.
    del calls[torch.batch_norm], calls[torch.ops.aten.batch_norm]
    return Interception(calls, measure)


def _pooled(x: Tensor, window: tuple[Any, ...], ceil_mode: bool) -> tuple[Tensor, Tensor]:
    return ops.max_pool2d(x, *window, ceil_mode)


def ours_takes(x: Tensor) -> bool:
    """Whether our kernels do: a batch of maps, of a dtype that they are compiled for."""
    floats = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    return x.dim() == 4 and x.dtype in floats


def contrast_norm(call: Call, x: Tensor, *constants: Any, **named: Any) -> Tensor:
    """A call of local response normalisation, on our kernel where that takes ``x``."""
    return ops.local_response_norm(x, *constants, **named) if ours_takes(x) else call(x)


def max_pooling(pooled: Callable[..., tuple[Tensor, Tensor]]) -> Handler:
    """Calls of max-pooling, by a function of maps, window and ceil_mode that gives the pooled maps
    and the switches, where our kernels take the maps."""

    def pool(  # type: ignore[no-untyped-def]
        call,
        x,
        kernel_size,
        stride=None,
        padding=0,
        dilation=1,
        ceil_mode=False,
        return_indices=False,
    ) -> Any:
        batch = x[None] if x.dim() == 3 else x
        if not ours_takes(batch):
            return call(x)
        window = (kernel_size, stride, padding, dilation)
        y, switches = pooled(batch, window, ceil_mode)
        y = y[0] if x.dim() == 3 else y
        if not return_indices:
            return y
        indices = ops.switches_to_indices(switches, *window, input_size=x.shape[-2:])
        return y, indices[0] if x.dim() == 3 else indices

    return pool
