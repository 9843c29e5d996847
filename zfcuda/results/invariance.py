"""The model's output under a family of transformations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from torch import Tensor

from zfcuda.results.base import ChangedAnswers, Outputs, Result, expect_shape


@dataclass(frozen=True, eq=False)
class InvarianceResult(ChangedAnswers):
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
        norms: per layer [N], Euclidean norm of its output for the untransformed image.
    """

    kind: Literal["rotation", "translation", "scaling"]
    values: Tensor
    logits: Annotated[Tensor, "N M K"]
    base_logits: Annotated[Tensor, "N K"]
    target: Annotated[Tensor, "N"]
    distances: Annotated[dict[str, Tensor], "N M"]
    fill: float | Tensor
    seconds: float
    norms: Annotated[dict[str, Tensor], "N"] = field(default_factory=dict)
    outputs: Outputs = "logits"

    def __post_init__(self) -> None:
        if self.kind not in ("rotation", "translation", "scaling"):
            raise ValueError(
                f"kind must be 'rotation', 'translation' or 'scaling', got {self.kind!r}"
            )
        expect_shape("values", self.values, *((None, 2) if self.kind == "translation" else (None,)))
        expect_shape("logits", self.logits, None, len(self.values), None)
        super().__post_init__()

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

    names: Annotated[tuple[str, ...], "N"]
    images: Annotated[Tensor, "N C H W"]
    layers: tuple[str, ...]
    experiments: dict[str, InvarianceResult]
    examples: Annotated[dict[str, Tensor], "experiments: E C H W"]
    example_values: Annotated[dict[str, Tensor], "experiments: E"]

    def __post_init__(self) -> None:
        super().__post_init__()
        for family, result in self.experiments.items():
            name = f"experiments[{family!r}]"
            expect_shape(f"{name}.logits", result.logits, len(self.names), None, None)
            unknown = {*self.layers} - result.distances.keys()
            if unknown:
                raise ValueError(f"{name} lacks the layers {sorted(unknown)}")


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

    names: Annotated[tuple[str, ...], "N"]
    numbers: Annotated[Tensor, "N"]
    target: Annotated[Tensor, "N"]
    base: Annotated[Tensor, "N"]
    layers: Annotated[tuple[str, ...], "L"]
    values: Annotated[dict[str, Tensor], "M"]
    distances: Annotated[dict[str, Tensor], "values: L M"]
    distance_spread: Annotated[dict[str, Tensor], "values: L M"]
    probabilities: Annotated[dict[str, Tensor], "values: M"]
    probability_spread: Annotated[dict[str, Tensor], "values: M"]
    unchanged: Annotated[dict[str, Tensor], "values: M"]
    undefined: int = 0
    skipped: tuple[str, ...] = ()
    outputs: Outputs = "logits"
