"""Drop-in modules on zfcuda's kernels: torch.nn's constructors and state dicts.

For torch.fx's tracers they are single calls, as torch.nn's are. ``torch.jit.script`` takes them;
what it makes runs wherever zfcuda has been imported. :func:`to_torch` makes torch.nn's of them.
"""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor

from zfcuda import ops


class MaxPool2d(torch.nn.MaxPool2d):
    """``torch.nn.MaxPool2d`` on zfcuda's kernel.

    Args beyond torch's:
        relu: rectify before pooling, in the same read and write.
        return_switches: also return the switches (tap numbers inside each window).

    ``return_indices=True`` keeps torch's meaning (int64 positions in the input plane); they are
    computed from the switches.
    """

    __constants__: ClassVar = [*torch.nn.MaxPool2d.__constants__, "relu", "return_switches"]

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        relu: bool = False,
        return_switches: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, return_indices, ceil_mode)
        if return_indices and return_switches:
            raise ValueError("return_indices and return_switches exclude each other; choose one")
        self.relu = relu
        self.return_switches = return_switches

    # No result type: TorchScript would take a union for what every call returns.
    def forward(self, x: Tensor):  # type: ignore[no-untyped-def]
        """Pool ``x`` [N,C,H,W] or [C,H,W]."""
        if not torch.jit.is_scripting():  # noqa: SIM102 - TorchScript skips what is inside
            if isinstance(x, torch.fx.Proxy):
                return _call_of(self, x)
        batched = x if x.dim() != 3 else x.unsqueeze(0)
        if torch.jit.is_scripting():
            y, second = torch.ops.zfcuda.max_pool2d(
                batched,
                self.kernel_size,
                self.stride,
                self.padding,
                self.dilation,
                self.ceil_mode,
                self.relu,
            )
            if self.return_indices:
                second = F.max_pool2d_with_indices(
                    torch.relu(batched) if self.relu else batched,
                    self.kernel_size,
                    self.stride,
                    self.padding,
                    self.dilation,
                    self.ceil_mode,
                )[1]
        else:
            y, second = self._pool(batched)
        if x.dim() == 3:
            y, second = y[0], second[0]
        if self.return_switches or self.return_indices:
            return y, second
        else:
            return y

    @torch.jit.unused
    def _pool(self, x: Tensor) -> tuple[Tensor, Tensor]:
        window = (self.kernel_size, self.stride, self.padding, self.dilation)
        y, switches = ops.max_pool2d(x, *window, self.ceil_mode, self.relu)
        if not self.return_indices:
            return y, switches
        return y, ops.switches_to_indices(switches, *window, input_size=x.shape[-2:])

    def extra_repr(self) -> str:
        return super().extra_repr() + (", relu=True" if self.relu else "")


class LocalResponseNorm(torch.nn.LocalResponseNorm):
    """``torch.nn.LocalResponseNorm`` on zfcuda's kernel, for [N,C,...] inputs."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` across dimension 1, whatever its rank; as torch does."""
        if not torch.jit.is_scripting():  # noqa: SIM102 - TorchScript skips what is inside
            if isinstance(x, torch.fx.Proxy):
                return _call_of(self, x)
        if x.dim() < 3:
            raise ValueError(f"x must have at least 3 dimensions [N,C,...], got {list(x.shape)}")
        planes = x if x.dim() == 4 else x.flatten(2).unsqueeze(-1)
        alpha, beta, k = float(self.alpha), float(self.beta), float(self.k)
        if torch.jit.is_scripting():
            y = torch.ops.zfcuda.local_response_norm(planes, self.size, alpha, beta, k)
        else:
            y = ops.local_response_norm(planes, self.size, alpha, beta, k)
        return y.reshape(x.shape)


def _call_of(module: torch.nn.Module, x: torch.fx.Proxy) -> torch.fx.Proxy:
    """One call in a trace, as of torch.nn's modules, which torch.fx does not look into."""
    return x.tracer.create_proxy("call_module", x.tracer.path_of_module(module), (x,), {})


def to_torch(model: torch.nn.Module) -> torch.nn.Module:
    """A copy of ``model`` with torch.nn's modules instead of zfcuda.nn's, for ``torch.onnx.export``
    and for people who have no zfcuda.

    Names, weights and the state dict's keys stay the same; ``model`` is left as it is. A pool that
    rectifies becomes a ``torch.nn.Sequential`` of ReLU and MaxPool2d under the pool's name. Calls
    of ``zfcuda.ops`` in a forward of one's own stay what they are.

    Raises:
        ValueError: a pool returns its switches, which torch's does not have.
        TypeError: a subclass of zfcuda.nn's modules, whose forward may do anything.
    """
    for name, module in model.named_modules():
        if not isinstance(module, MaxPool2d | LocalResponseNorm):
            continue
        where = f"{name or 'the model itself'!r}"
        if type(module) not in (MaxPool2d, LocalResponseNorm):
            kind = type(module).__mro__[1].__name__
            raise TypeError(
                f"{where} is a {type(module).__name__}, a subclass of zfcuda.nn.{kind} with a "
                "forward that torch.nn need not have; give it a torch.nn base"
            )
        if isinstance(module, MaxPool2d) and module.return_switches:
            raise ValueError(
                f"{where} returns its switches, which torch.nn.MaxPool2d does not have; make it "
                "with return_indices=True instead"
            )
    twin = copy.deepcopy(model)
    for module in list(twin.modules()):
        if type(module) is LocalResponseNorm:
            module.__class__ = torch.nn.LocalResponseNorm
        elif type(module) is MaxPool2d:
            _to_torch_pool(module)
    return twin


def _to_torch_pool(pool: MaxPool2d) -> None:
    """In place, so that whatever refers to the module goes on doing so; its hooks stay on it."""
    relu = pool.__dict__.pop("relu")
    del pool.return_switches
    pool.__class__ = torch.nn.MaxPool2d
    if not relu:
        return
    settings = {name: pool.__dict__.pop(name) for name in torch.nn.MaxPool2d.__constants__}
    pool.__class__ = torch.nn.Sequential
    pool.add_module("relu", torch.nn.ReLU())
    pool.add_module("pool", torch.nn.MaxPool2d(**settings))
    pool.train(pool.training)
