"""The model's output under a family of transformations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Self

from torch import Tensor

from zfcuda.results.base import (
    Outputs,
    Result,
    check_outputs,
    expect_shape,
    of_target,
    probabilities_of,
    same_answers,
)


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


@dataclass(frozen=True, eq=False)
class InvarianceStudy(Result):
    """Several images under several families of transformations (Zeiler & Fergus 2014, figure 5).

    Attributes:
        names: N, one for each image.
        images: [N,C,H,W], the network inputs.
        layers: whose features are compared, early ones first.
        experiments: by family ("vertical translation", ...), what the model says and how far the
            features move; each of all N images.
        examples: by family [E,C,H,W], the first image under some of the transformations.
        example_values: by family [E], which ones: pixels down or right, factors, degrees.
    """

    names: tuple[str, ...]
    images: Tensor
    layers: tuple[str, ...]
    experiments: dict[str, InvarianceResult]
    examples: dict[str, Tensor]
    example_values: dict[str, Tensor]

    def __post_init__(self) -> None:
        expect_shape("images", self.images, len(self.names), None, None, None)
        for family, result in self.experiments.items():
            expect_shape(
                f"experiments[{family!r}].logits", result.logits, len(self.names), None, None
            )
            expect_shape(
                f"examples[{family!r}]", self.examples[family], None, *self.images.shape[1:]
            )
            expect_shape(
                f"example_values[{family!r}]",
                self.example_values[family],
                len(self.examples[family]),
            )
            unknown = {*self.layers} - result.distances.keys()
            if unknown:
                raise ValueError(f"experiments[{family!r}] lacks the layers {sorted(unknown)}")

    @classmethod
    def _restore(cls, settings: dict[str, Any]) -> Self:
        experiments = {
            family: InvarianceResult(**result) for family, result in settings["experiments"].items()
        }
        return cls(**{**settings, "experiments": experiments})


@dataclass(frozen=True, eq=False)
class InvarianceSummary(Result):
    """How far features and answers move when N images are transformed: the mean over the images and
    its spread, the standard deviation over the images (n - 1; NaN of a single one).

    L is the number of layers, M of a family's transformations.

    Attributes:
        names: N, of the images.
        numbers: int64 [N], their places in the data set.
        target: int64 [N], the classes that the probabilities are about.
        base: float64 [N], P(target) of the untransformed images.
        layers: whose features are compared, early ones first.
        values: by family ("vertical translation", ...) float64 [M], pixels down or right, factors,
            degrees counter-clockwise.
        distances: by family float64 [L,M], mean Euclidean distance of a layer's features to those
            of the untransformed image, as a share of the latter's norm.
        distance_spread: likewise, its spread.
        probabilities: by family float64 [M], mean of P(target).
        probability_spread: likewise, its spread.
        unchanged: by family float64 [M], share of the images whose most probable class stays.
        undefined: number of images left out of some distance, since their features' norm is 0.
        skipped: what is wrong with the images that could not be read, a sentence each.
        outputs: what the network's outputs are (:class:`zfcuda.Predictions`); of a regression's
            values ``unchanged`` is NaN.
    """

    names: tuple[str, ...]
    numbers: Tensor
    target: Tensor
    base: Tensor
    layers: tuple[str, ...]
    values: dict[str, Tensor]
    distances: dict[str, Tensor]
    distance_spread: dict[str, Tensor]
    probabilities: dict[str, Tensor]
    probability_spread: dict[str, Tensor]
    unchanged: dict[str, Tensor]
    undefined: int = 0
    skipped: tuple[str, ...] = ()
    outputs: Outputs = "logits"

    def __post_init__(self) -> None:
        for name in ("numbers", "target", "base"):
            expect_shape(name, getattr(self, name), len(self.names))
        for family, values in self.values.items():
            expect_shape(f"values[{family!r}]", values, None)
            for name in ("distances", "distance_spread"):
                shape = (len(self.layers), len(values))
                expect_shape(f"{name}[{family!r}]", getattr(self, name)[family], *shape)
            for name in ("probabilities", "probability_spread", "unchanged"):
                expect_shape(f"{name}[{family!r}]", getattr(self, name)[family], len(values))
