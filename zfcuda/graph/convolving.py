"""Convolutions and linear layers over many small batches with the same weights.

torch's stay; on a CPU they are called where oneDNN does most for us. Laying the weights out in
oneDNN's own formats beforehand was tried and left out: formats differ from shape to shape of the
windows, so that copies pile up, and batches of windows are large enough to pay for it at each call.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zfcuda.graph.rules import Conv


class Convolution:
    """``rule`` as a function of channels_last maps, followed by a ReLU if ``relu``."""

    def __init__(self, rule: Conv, relu: bool) -> None:
        self.rule, self.relu = rule, relu
        self._weight: Tensor | None = None

    def __call__(self, x: Tensor, padding: tuple[int, int]) -> Tensor:
        rule = self.rule
        if self._weight is None:  # in the layout of the maps: one reordering less at every call
            self._weight = rule.weight.contiguous(memory_format=torch.channels_last)
        return self._rectified(
            F.conv2d(x, self._weight, rule.bias, rule.stride, padding, rule.dilation, rule.groups)
        )

    @property
    def per_pixel(self) -> bool:
        """Whether every pixel is convolved by itself."""
        rule = self.rule
        one = rule.kernel == (1, 1) and rule.stride == (1, 1) and rule.padding == (0, 0)
        return one and rule.groups == 1

    def of_pixels(self, pixels: Tensor) -> Tensor:
        """The same for pixels [n,C], if it is ``per_pixel``."""
        # A BLAS, since oneDNN would compile, and keep, code for every number of pixels.
        return self._rectified(F.linear(pixels, self.rule.weight.flatten(1), self.rule.bias))

    def _rectified(self, out: Tensor) -> Tensor:
        # oneDNN could do this before the result leaves the registers, but turns NaN into zero.
        return torch.relu_(out) if self.relu else out


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
    """``F.linear``, followed by ``F.gelu`` if ``gelu``. oneDNN's matrix product, where there is
    one, is a tenth to a fifth faster here than the BLAS that torch calls, and a GELU comes with it.

    It compiles, and keeps, code for every number of rows: only for few different ones.
    """
    if not _with_onednn(weight) or x.dtype != weight.dtype or 0 in x.shape or x.requires_grad:
        out = F.linear(x, weight, bias)
        return F.gelu(out) if gelu else out
    bias = None if bias is None else bias.contiguous()  # taken for that, whatever its strides
    return torch.ops.mkldnn._linear_pointwise(
        x, weight, bias, "gelu" if gelu else "none", [], "none" if gelu else ""
    )


def _with_onednn(weight: Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and not torch.is_autocast_enabled("cpu")
        and not (torch.is_grad_enabled() and weight.requires_grad)
    )
