"""How alike hiding a part changes the features of several images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from zfcuda.results.base import Result
from zfcuda.storage.files import text_table


@dataclass(frozen=True, eq=False)
class CorrespondenceResult(Result):
    """How alike hiding a part changes the features of N images (Zeiler & Fergus 2014, table 1).

    R is the number of places a part was hidden at, one after the other: 1, or the draws of a random
    place.

    Attributes:
        parts: the parts' names.
        controls: those of the parts that are none, but random places to compare with.
        boxes: per part int64 [R,N,4], (y0, x0, y1, x1), half open, pixels: what was hidden.
        differing: per layer and part int64 [R,N,N], the number of elements whose change has
            another sign in one image than in the other.
        changed: per layer and part float64 [R,N], the share of elements that changed at all.
        elements: per layer, the number of elements of its output for an image.
        tolerance: changes of at most this share of an image's largest feature have the sign 0.
        fill: what was shown instead, in network input space: a number, [C], or [C,H,W].
    """

    layers: tuple[str, ...]
    parts: tuple[str, ...]
    controls: tuple[str, ...]
    boxes: Annotated[dict[str, Tensor], "parts: R N 4"]
    differing: Annotated[dict[str, dict[str, Tensor]], "layers parts: R N N"]
    changed: Annotated[dict[str, dict[str, Tensor]], "layers parts: R N"]
    elements: dict[str, int]
    tolerance: float
    fill: float | Tensor
    image_size: tuple[int, int]
    seconds: float

    def pairs(self, layer: str, part: str) -> Tensor:
        """float64 [R,N(N-1)/2], each pair's Hamming distance as a share of the elements."""
        counts = self.differing[layer][part]
        first, second = torch.triu_indices(counts.shape[1], counts.shape[2], offset=1)
        return counts[:, first, second].double() / self.elements[layer]

    def mean(self, layer: str, part: str) -> float:
        """Delta per element and pair: the mean of :meth:`pairs`. Lower is more consistent."""
        return float(self.pairs(layer, part).mean())

    def std(self, layer: str, part: str) -> float:
        """The standard deviation of :meth:`pairs` (NaN of a single one)."""
        pairs = self.pairs(layer, part)
        return float(pairs.std()) if pairs.numel() > 1 else math.nan

    def advantage(self, layer: str, part: str, control: str) -> tuple[float, float]:
        """How much more consistent a part is than a control, and the standard error of that.

        The difference of the means, control minus part. Pairs that share an image are not
        independent, so that their spread does not tell how certain a mean is; the error is the
        jackknife's over images: from the differences without each image in turn (NaN below three
        images). Places of a control that are the same for all images count as given.
        """
        shares = [
            self.differing[layer][name].double().mean(0) / self.elements[layer]
            for name in (control, part)
        ]
        gap = shares[0] - shares[1]
        n, total = len(gap), gap.sum()  # every pair twice, and zeros on the diagonal
        difference = float(total / (n * (n - 1)))
        if n < 3:
            return difference, math.nan
        without = (total - 2 * gap.sum(0)) / ((n - 1) * (n - 2))
        error = ((n - 1) / n * (without - without.mean()).square().sum()).sqrt()
        return difference, float(error)

    def table(self, tablefmt: str = "simple") -> str:
        """Table 1 as text: mean ± standard deviation, a row for each part, a column for each
        layer; ``tablefmt`` as tabulate has it."""
        rows = [
            [part, *(f"{self.mean(layer, part):.4f} ± {self.std(layer, part):.4f}" for layer in
                     self.layers)]
            for part in self.parts
        ]  # fmt: skip
        return text_table(rows, ["hidden", *self.layers], tablefmt)
