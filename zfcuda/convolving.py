"""Convolutions and linear layers over many small batches with the same weights.

torch's stay; on a CPU they are called where oneDNN can do more for us: weights are brought into its
own layout once instead of at every call (worth 1.1 to 2.4 times at batches of 4 to 16 windows). Its
own ReLU, done before the result leaves the registers, turns NaN into zero and saves one percent:
ReLUs are torch's.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from zfcuda.rules import Conv

_KEPT = 2**24  # bytes of copies kept for one convolution, and always one copy: positions come
# ordered by size, so that a shape returns soon or not at all


class Convolution:
    """``rule`` as a function of channels_last maps, followed by a ReLU if ``relu``."""

    def __init__(self, rule: Conv, relu: bool) -> None:
        self.rule, self.relu = rule, relu
        self._packable = with_onednn(rule.weight)
        # By height, width and padding, of which oneDNN makes the layout: on weights laid out for
        # another shape it can be thirty times slower.
        self._packed: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()
        self._seen: set[tuple[int, ...]] = set()
        self._channels_last: Tensor | None = None
        self._matrix: Tensor | None = None

    def __call__(self, x: Tensor, padding: tuple[int, int]) -> Tensor:
        rule = self.rule
        if not self._packable or x.dtype != rule.weight.dtype or 0 in x.shape:
            out = F.conv2d(
                x, rule.weight, rule.bias, rule.stride, padding, rule.dilation, rule.groups
            )
        else:
            out = torch.ops.mkldnn._convolution_pointwise(
                x,
                self._weights_for(x, padding),
                rule.bias,
                list(padding),
                list(rule.stride),
                list(rule.dilation),
                rule.groups,
                "none",
                [],
                "",
            )
        return torch.relu_(out) if self.relu else out

    @property
    def per_pixel(self) -> bool:
        """Whether every pixel is convolved by itself."""
        rule = self.rule
        one = rule.kernel == (1, 1) and rule.stride == (1, 1) and rule.padding == (0, 0)
        return one and rule.groups == 1

    def of_pixels(self, pixels: Tensor) -> Tensor:
        """The same for pixels [n,C], if it is ``per_pixel``."""
        rule = self.rule
        if not self._packable or pixels.dtype != rule.weight.dtype or 0 in pixels.shape:
            out = F.linear(pixels, rule.weight[:, :, 0, 0], rule.bias)
        else:
            if self._matrix is None:
                matrix = rule.weight[:, :, 0, 0].contiguous()
                self._matrix = torch.ops.mkldnn._reorder_linear_weight(matrix, None)
            out = torch.ops.mkldnn._linear_pointwise(
                pixels, self._matrix, rule.bias, "none", [], ""
            )
        return torch.relu_(out) if self.relu else out

    def _weights_for(self, x: Tensor, padding: tuple[int, int]) -> Tensor:
        """Laid out for maps like ``x``; that pays from the second time on that they are seen."""
        rule, key = self.rule, (*x.shape[2:], *padding)
        if key not in self._seen:
            self._seen.add(key)
            if self._channels_last is None:
                self._channels_last = rule.weight.contiguous(memory_format=torch.channels_last)
            return self._channels_last
        if key not in self._packed:
            if (len(self._packed) + 1) * rule.weight.nbytes > _KEPT and self._packed:
                self._packed.popitem(last=False)
            self._packed[key] = torch.ops.mkldnn._reorder_convolution_weight(
                rule.weight, padding, rule.stride, rule.dilation, rule.groups, [1, *x.shape[1:]]
            )
        self._packed.move_to_end(key)
        return self._packed[key]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear``; oneDNN's matrix product, where there is one, is a tenth to a fifth faster here
    than the BLAS that torch calls."""
    if not with_onednn(weight) or x.dtype != weight.dtype or 0 in x.shape or x.dim() != 2:
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def with_onednn(weight: Tensor) -> bool:
    """Whether oneDNN takes these weights, and torch would have called it or a BLAS."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and not torch.is_autocast_enabled("cpu")
    )
