"""Drop-in modules on zfcuda's kernels: torch.nn's constructors and state dicts."""

from __future__ import annotations

import torch
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

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Pool ``x`` [N,C,H,W] or [C,H,W]."""
        batched = x if x.dim() != 3 else x[None]
        y, switches = ops.max_pool2d(
            batched,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            self.relu,
        )
        second = switches
        if self.return_indices:
            second = ops.switches_to_indices(
                switches,
                self.kernel_size,
                self.stride,
                self.padding,
                self.dilation,
                input_size=batched.shape[-2:],
            )
        if x.dim() == 3:
            y, second = y[0], second[0]
        return (y, second) if self.return_switches or self.return_indices else y

    def extra_repr(self) -> str:
        return super().extra_repr() + (", relu=True" if self.relu else "")


class LocalResponseNorm(torch.nn.LocalResponseNorm):
    """``torch.nn.LocalResponseNorm`` on zfcuda's kernel, for [N,C,...] inputs."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` across dimension 1, whatever its rank; as torch does."""
        if x.dim() < 3:
            raise ValueError(f"x must have at least 3 dimensions [N,C,...], got {list(x.shape)}")
        planes = x if x.dim() == 4 else x.flatten(2)[..., None]
        y = ops.local_response_norm(planes, self.size, self.alpha, self.beta, self.k)
        return y.reshape(x.shape)
