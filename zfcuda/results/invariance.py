"""The model's output under a family of transformations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from zfcuda.results.base import Result
from zfcuda.results.checks import expect_shape
from zfcuda.results.scores import Outputs, check_outputs, of_target, probabilities_of, same_answers


@dataclass(frozen=True, eq=False)
class InvarianceResult(Result):
    """The model's output under a family of transformations (Zeiler & Fergus 2014, section 4.1,
    figure 5).

    Attributes:
        kind: "rotation", "translation" or "scaling".
        values: [M] counter-clockwise degrees or scale factors, or [M,2] shifts (down, right) in
            pixels.
        logits: [N,M,K].
        base_logits: [N,K], of the untransformed images.
        target: int64 [N], the class the probabilities are about.
        distances: per layer [N,M], Euclidean distance of its output to the untransformed image's.
        fill: what shows outside the image, in network input space: a number or [C].
        seconds: wall time.
        norms: per layer [N], Euclidean norm of its output for the untransformed image.
        outputs: what the network's outputs are, as in :class:`Predictions`.
    """

    kind: Literal["rotation", "translation", "scaling"]
    values: Tensor
    logits: Tensor
    base_logits: Tensor
    target: Tensor
    distances: dict[str, Tensor]
    fill: float | Tensor
    seconds: float
    norms: dict[str, Tensor] = field(default_factory=dict)
    outputs: Outputs = "logits"
    _figure = "invariance_curve"

    def __post_init__(self) -> None:
        if self.kind not in ("rotation", "translation", "scaling"):
            raise ValueError(
                f"kind must be 'rotation', 'translation' or 'scaling', got {self.kind!r}"
            )
        expect_shape("values", self.values, *((None, 2) if self.kind == "translation" else (None,)))
        expect_shape("logits", self.logits, None, len(self.values), None)
        n, count, classes = self.logits.shape
        expect_shape("base_logits", self.base_logits, n, classes)
        expect_shape("target", self.target, n)
        check_outputs(self.outputs, classes)
        for layer, distances in self.distances.items():
            expect_shape(f"distances[{layer!r}]", distances, n, count)
        for layer, norms in self.norms.items():
            expect_shape(f"norms[{layer!r}]", norms, n)

    @property
    def probabilities(self) -> Tensor:
        """[N,M,K]: the softmax of the logits, the sigmoid of one logit, or as the model gives them;
        a regression's values as they are."""
        return probabilities_of(self.logits, self.outputs)

    @property
    def base_probabilities(self) -> Tensor:
        """[N,K], likewise, of the untransformed images."""
        return probabilities_of(self.base_logits, self.outputs)

    @property
    def labels(self) -> Tensor:
        """int64 [N,M], the most probable class under every transformation."""
        return self.logits.argmax(-1)

    @property
    def unchanged(self) -> Tensor:
        """bool [N,M], whether the most probable class is the one of the untransformed image; where
        there is only one, whether its probability stays on its side of one half."""
        return same_answers(self.logits, self.labels, self.base_logits, self.outputs)

    @property
    def target_probability(self) -> Tensor:
        """[N,M], probability of the target class under every transformation."""
        return of_target(self.probabilities, self.target)

    def relative_distances(self, layer: str) -> Tensor:
        """[N,M], the layer's distances over the norm of its output for the untransformed image:
        images and layers compare, whatever the scale of their features.

        Raises:
            ValueError: the layer was not recorded.
        """
        if layer not in self.norms:
            raise ValueError(f"layer {layer!r} was not recorded; recorded: {sorted(self.norms)}")
        return self.distances[layer] / self.norms[layer][:, None]
