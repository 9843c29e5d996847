"""The signs of what hiding a part changes, and how many of them differ between images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zfcuda import ops
from zfcuda.inference.passes import base_pass, spans

_EXACT = 2**20  # elements whose signs float32 sums count exactly


@dataclass(frozen=True)
class Change:
    """What hiding something changes.

    Attributes:
        images: [N,C,H,W].
        features: by layer [N,F], those of all images as they are.
        fill: what is shown instead; see :func:`zfcuda.correspondence`.
        tolerance: changes of at most this share of an image's largest feature count as none.
        limit, fitting: so many images at a time fit in so many bytes.
    """

    model: nn.Module
    images: Tensor
    features: dict[str, Tensor]
    fill: float | Tensor
    tolerance: float
    limit: int
    fitting: int

    def signs(
        self, boxes: Tensor, advance: Callable[[int], Any]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Of each layer, how many signs differ between two images, int64 [N,N], and the share of
        elements that changed, float64 [N], where each image's box [N,4] is hidden.

        ``advance`` is called with the number of images that are done.

        Raises:
            ValueError: a layer gives values that are not finite.
        """
        signs = {
            layer: torch.empty(x.shape, dtype=torch.int8, device=x.device)
            for layer, x in self.features.items()
        }
        for some in spans(0, len(self.images), self.fitting):
            hidden = torch.cat(
                [
                    ops.occlude(image[None], box[None], self.fill)[:, 0]
                    for image, box in zip(self.images[some], boxes[some], strict=True)
                ]
            )
            _, received, _ = base_pass(
                self.model, hidden, [*signs], lambda _, maps: maps.flatten(1).clone(), self.limit
            )
            for layer, parts in received.items():
                signs[layer][some] = self._sign(layer, some, torch.cat(parts))
            advance(len(hidden))
        return {layer: _compared(each) for layer, each in signs.items()}

    def _sign(self, layer: str, some: slice, occluded: Tensor) -> Tensor:
        original = self.features[layer][some]
        change = original - occluded
        if not bool(change.isfinite().all()):
            raise ValueError(f"layer {layer!r} gives values that are not finite: none has a sign")
        zero = change.abs() <= self.tolerance * original.abs().amax(1, keepdim=True)
        return change.sign().masked_fill_(zero, 0).to(torch.int8)


def _compared(signs: Tensor) -> tuple[Tensor, Tensor]:
    """How many elements of ``signs`` int8 [N,F] differ between each two rows, int64 [N,N], and the
    share of each row's that are not 0, float64 [N].

    As matrix products: of the elements that are non-zero in both rows, (both - product) / 2 differ,
    and of the others those that are non-zero in one.
    """
    n, elements = signs.shape
    differing = torch.zeros(n, n, dtype=torch.float64)
    for columns in spans(0, elements, _EXACT):
        sign = signs[:, columns].float()
        some = sign.abs()
        both, product = (some @ some.T).cpu().double(), (sign @ sign.T).cpu().double()
        own = both.diagonal()
        differing += (both - product) / 2 + own[:, None] + own - 2 * both
    changed = (signs != 0).sum(1).cpu().double() / elements
    return differing.long(), changed
