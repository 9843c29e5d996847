"""TF32 on a CPU: what tensor cores are handed, and which of torch's calls they are handed it by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# By call, which of its arguments are multiplied with each other.
CONVOLUTIONS = {"aten::convolution": (0, 1), "aten::convolution_backward": (0, 1, 2)}
PRODUCTS = {
    "aten::mm": (0, 1),
    "aten::bmm": (0, 1),
    "aten::addmm": (1, 2),
    "aten::baddbmm": (1, 2),
    "mkldnn::_linear_pointwise": (0, 1),
}


def tf32(x: Tensor) -> Tensor:
    """float32 numbers with 10 bits of mantissa, rounded to nearest, as PTX's cvt.rna.tf32.f32."""
    bits = (x.contiguous().view(torch.int32) + (1 << 12)) & -(1 << 13)
    rounded = torch.empty_like(x).copy_(bits.view(torch.float32))
    return torch.where(x.isfinite(), rounded, x)


class Tf32(TorchDispatchMode):
    """Within, convolutions (or products, or both) multiply TF32 numbers.

    Args:
        noise: of every sum, in units of its last bit: as the algorithms differ that a library takes
            for different shapes.

    Attributes:
        products: how many products there were with a matrix of this shape, (outputs, inputs).
    """

    def __init__(
        self, convolutions: bool = True, products: bool = False, noise: float = 0.0
    ) -> None:
        super().__init__()
        self._rounded = (CONVOLUTIONS if convolutions else {}) | (PRODUCTS if products else {})
        self._noise = noise
        self.products: Counter[tuple[int, ...]] = Counter()

    def __torch_dispatch__(
        self,
        function: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = function._schema.name
        given = [*args]
        for place in self._rounded.get(name, ()):
            if given[place].dtype == torch.float32:
                given[place] = tf32(given[place])
        if name in PRODUCTS:
            shape = tuple(args[PRODUCTS[name][1]].shape)
            self.products[shape if name.startswith("mkldnn") else shape[::-1]] += 1
        found = function(*given, **(kwargs or {}))
        if self._noise and isinstance(found, Tensor) and name in (CONVOLUTIONS | PRODUCTS):
            last = torch.finfo(found.dtype).eps / 2
            found = found * (1 + self._noise * last * torch.randn_like(found))
        return found
