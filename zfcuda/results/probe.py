"""What linear probes found, as numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from zfcuda.results.base import Result, wilson, with_interval
from zfcuda.storage.files import text_table

PIXELS = "input pixels"  # a row of the result that is no layer: no module's name has a space


@dataclass(frozen=True, eq=False)
class ProbeResult(Result):
    """Linear classifiers on frozen features (Zeiler & Fergus 2014, table 7).

    L layers (the first may be :data:`PIXELS`), R strengths of regularisation.

    Attributes:
        layers: the layers' names, by depth.
        shapes: each layer's output for a picture, (C,H,W).
        pooled: (C,h,w), what of it a classifier was given.
        regularisation: float64 [R], scikit-learn's C, ascending: smaller is stronger.
        chosen: int64 [L], which of them was chosen, by the validation part.
        validation_accuracy: float64 [L,R].
        training_accuracy, accuracy: float64 [L], of the chosen classifier on the training and on
            the test part.
        converged: bool [L,R], whether the fit ended before its limit of steps.
        pictures: of the training, validation and test parts.
        chance: the share of the test part's most frequent class.
        network_accuracy: that of the network itself on the test part; NaN where its classes are not
            those of the data.
        class_names: in label order.
        seconds: wall time.
    """

    layers: Annotated[tuple[str, ...], "L"]
    shapes: tuple[tuple[int, ...], ...]
    pooled: tuple[tuple[int, ...], ...]
    regularisation: Annotated[Tensor, "R"]
    chosen: Annotated[Tensor, "L"]
    validation_accuracy: Annotated[Tensor, "L R"]
    training_accuracy: Annotated[Tensor, "L"]
    accuracy: Annotated[Tensor, "L"]
    converged: Annotated[Tensor, "L R"]
    pictures: tuple[int, ...]
    chance: float
    network_accuracy: float
    class_names: tuple[str, ...]
    seconds: float

    @property
    def features(self) -> list[int]:
        """How many numbers each classifier was given of a picture."""
        return [math.prod(shape) for shape in self.pooled]

    @property
    def interval(self) -> Tensor:
        """float64 [L,2], Wilson's 95 % interval of ``accuracy``, by the number of test pictures."""
        return wilson(self.accuracy, self.pictures[2])

    def table(self, tablefmt: str = "simple") -> str:
        """Table 7 as text; ``tablefmt`` as tabulate has it."""
        rows = [
            [
                layer,
                "×".join(map(str, self.shapes[i])),
                "×".join(map(str, self.pooled[i])),
                f"{float(self.regularisation[self.chosen[i]]):g}",
                f"{self.training_accuracy[i]:.1%}",
                f"{self.validation_accuracy[i, self.chosen[i]]:.1%}",
                with_interval(self.accuracy[i], self.interval[i]),
            ]
            for i, layer in enumerate(self.layers)
        ]
        heads = ["features", "output", "used", "C", "training", "validation", "test (95% interval)"]
        return text_table(rows, heads, tablefmt)
