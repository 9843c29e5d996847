"""Whether a network takes a part of different objects for the same thing (Zeiler & Fergus 2014,
section 4.4, table 1)."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from zfcuda import ops
from zfcuda._running import (
    base_pass,
    check_input,
    evaluating,
    fill_setting,
    find_layers,
    memory_limit,
    progress_bar,
    spans,
)
from zfcuda.results import Result
from zfcuda.results.checks import expect_shape

__all__ = ["CorrespondenceResult", "correspondence", "random_places"]

_ROUNDING = 64  # in machine epsilons of the largest feature; see `correspondence`
_EXACT = 2**20  # elements whose signs float32 sums count exactly


@dataclasses.dataclass(frozen=True, eq=False)
class CorrespondenceResult(Result):
    """How alike hiding a part changes the features of N images (Zeiler & Fergus 2014, table 1).

    R is the number of places a part was hidden at, one after the other: 1, or the draws of a random
    place.

    Attributes:
        layers: the layers' names.
        parts: the parts' names.
        controls: those of the parts that are none, but random places to compare with.
        boxes: per part int64 [R,N,4], (y0, x0, y1, x1), half open, pixels: what was hidden.
        differing: per layer and part int64 [R,N,N], the number of elements whose change has
            another sign in one image than in the other.
        changed: per layer and part float64 [R,N], the share of elements that changed at all.
        elements: per layer, the number of elements of its output for an image.
        tolerance: changes of at most this share of an image's largest feature have the sign 0.
        fill: what was shown instead, in network input space: a number, [C], or [C,H,W].
        image_size: (H, W).
        seconds: wall time.
    """

    layers: tuple[str, ...]
    parts: tuple[str, ...]
    controls: tuple[str, ...]
    boxes: dict[str, Tensor]
    differing: dict[str, dict[str, Tensor]]
    changed: dict[str, dict[str, Tensor]]
    elements: dict[str, int]
    tolerance: float
    fill: float | Tensor
    image_size: tuple[int, int]
    seconds: float
    _figure = "correspondence"

    def __post_init__(self) -> None:
        for part in self.parts:
            expect_shape(f"boxes[{part!r}]", self.boxes[part], None, None, 4)
            places, n, _ = self.boxes[part].shape
            for layer in self.layers:
                where = f"[{layer!r}][{part!r}]"
                expect_shape(f"differing{where}", self.differing[layer][part], places, n, n)
                expect_shape(f"changed{where}", self.changed[layer][part], places, n)

    def pairs(self, layer: str, part: str) -> Tensor:
        """float64 [R,N(N-1)/2], each pair's Hamming distance as a share of the elements."""
        counts = self.differing[layer][part]
        first, second = torch.triu_indices(*counts.shape[1:], offset=1)
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
        from tabulate import tabulate

        rows = [
            [part, *(f"{self.mean(layer, part):.4f} ± {self.std(layer, part):.4f}" for layer in
                     self.layers)]
            for part in self.parts
        ]  # fmt: skip
        return tabulate(rows, ["hidden", *self.layers], tablefmt, disable_numparse=True)


@torch.inference_mode(False)  # nothing made here is an inference tensor
def correspondence(
    model: nn.Module,
    images: Tensor,
    parts: Mapping[str, Tensor],
    layers: str | Sequence[str],
    controls: Sequence[str] = (),
    fill: float | Sequence[float] | Tensor = 0.0,
    tolerance: float | None = None,
    max_memory: int | None = None,
    progress: bool = False,
) -> CorrespondenceResult:
    """Table 1 of the paper: does hiding the same part change every image's features alike?

    Of each image i, a part is hidden and the change of a layer's output eps_i = x_i - x~_i taken,
    original minus occluded; the measure is the mean over pairs i != j of the Hamming distance
    between sign(eps_i) and sign(eps_j), divided by the number of elements.

    Signs are -1, 0 and +1, and two elements differ where these do: 0 against +1 counts as much as
    -1 against +1. Zeros are frequent, since a part reaches only its forward cone and a ReLU's
    output stays 0 outside its range; elements that change in neither image count as alike. A change
    of at most ``tolerance`` times the largest magnitude among x_i's elements has the sign 0: two
    passes over equal values may round differently.

    Places differ in what can change at all: two parts hidden at different places change different
    elements of an early layer, whatever the network knows about parts. Where the images are
    aligned, compare with random places that are the same for all images, too
    (:func:`random_places`).

    Args:
        model: returns logits [N,K]; runs in eval mode and is left as it was.
        images: [N,C,H,W], at least two, on the model's device and of its dtype.
        parts: name -> what hides it, int64 boxes (y0, x0, y1, x1), half open, pixels: [4] at the
            same place in all images, [N,4] at each image's own, or [R,N,4] at R places in turn,
            over whose pairs the measure is taken together.
        layers: names of ``model.named_modules()``.
        controls: those of ``parts`` that are random places.
        fill: what is shown instead, in network input space: a number (0 is usually the mean
            colour), one per channel [C], or an image [C,H,W].
        tolerance: see above; None takes 64 machine epsilons (of float32 for 16-bit types).
        max_memory: bytes that the activations of one batch may take. The layers' outputs of all
            images are kept as well, 5 bytes an element.
        progress: show a progress bar.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or out of range, or a layer whose
            output is not finite.
    """
    start = time.perf_counter()
    check_input(model, images)
    if len(images) < 2:
        raise ValueError("images must be at least two: parts are compared between them, got 1")
    size = (images.shape[2], images.shape[3])
    boxes = {str(name): _boxes(name, box, len(images), size) for name, box in parts.items()}
    unknown = [name for name in controls if name not in boxes]
    if unknown or not boxes:
        raise ValueError(f"controls must be among the parts {[*boxes]}, got {unknown or 'no part'}")
    names = [*find_layers(model, layers)]
    if not names:
        raise ValueError("layers must name at least one layer")
    tolerance = _tolerance(tolerance, images.dtype)
    fill = fill_setting(fill, images, with_image=True)
    limit = memory_limit(max_memory, images.device)

    differing: dict[str, dict[str, Tensor]] = {layer: {} for layer in names}
    changed: dict[str, dict[str, Tensor]] = {layer: {} for layer in names}
    with evaluating(model):
        _, received, fitting = base_pass(
            model, images.detach(), names, lambda _, maps: maps.flatten(1).clone(), limit
        )
        features = {layer: torch.cat(received[layer]) for layer in names}
        change = _Change(model, images.detach(), features, fill, tolerance, limit, fitting)
        passes = sum(len(places) for places in boxes.values())
        with progress_bar(passes * len(images), progress, "correspondence") as advance:
            for part, places in boxes.items():
                found = [change.signs(place, advance) for place in places]
                for layer in names:
                    differing[layer][part] = torch.stack([each[layer][0] for each in found])
                    changed[layer][part] = torch.stack([each[layer][1] for each in found])
    return CorrespondenceResult(
        layers=tuple(names),
        parts=tuple(boxes),
        controls=tuple(controls),
        boxes=boxes,
        differing=differing,
        changed=changed,
        elements={layer: features[layer].shape[1] for layer in names},
        tolerance=tolerance,
        fill=fill,
        image_size=size,
        seconds=time.perf_counter() - start,
    )


def random_places(
    count: int,
    images: int,
    image_size: tuple[int, int],
    size: tuple[int, int],
    seed: int = 0,
    together: bool = False,
) -> Tensor:
    """Boxes int64 [count,images,4] of one size, uniformly anywhere inside the image.

    Args:
        count: how many draws.
        images: number of images.
        image_size: (H, W), pixels.
        size: (height, width) of the boxes.
        seed: of the draws.
        together: draw one place for all images instead of each its own.

    Raises:
        ValueError: boxes larger than the image.
    """
    if not (0 < size[0] <= image_size[0] and 0 < size[1] <= image_size[1]):
        raise ValueError(f"size must be within the image's {image_size}, got {size}")
    rng = torch.Generator().manual_seed(seed)
    shape = (count, 1 if together else images)
    corners = [
        torch.randint(whole - part + 1, shape, generator=rng)
        for whole, part in zip(image_size, size, strict=True)
    ]
    corner = torch.stack(corners, -1).expand(count, images, 2)
    return torch.cat([corner, corner + torch.tensor(size)], -1)


# --- arguments ------------------------------------------------------------------------------------


def _boxes(name: str, boxes: Tensor, n: int, size: tuple[int, int]) -> Tensor:
    """A part's boxes as int64 [R,N,4], clipped to the image."""
    if not isinstance(boxes, Tensor) or boxes.dtype != torch.int64:
        got = boxes.dtype if isinstance(boxes, Tensor) else type(boxes).__name__
        raise TypeError(f"parts[{name!r}] must be an int64 tensor of (y0, x0, y1, x1), got {got}")
    if tuple(boxes.shape) not in ((4,), (n, 4)) and (
        boxes.dim() != 3 or tuple(boxes.shape[1:]) != (n, 4) or len(boxes) == 0
    ):
        raise ValueError(
            f"parts[{name!r}] must have shape [4], [{n}, 4] or [R, {n}, 4], got {list(boxes.shape)}"
        )
    limits = torch.tensor([*size, *size])
    placed = boxes.detach().cpu().expand(boxes.shape[0] if boxes.dim() == 3 else 1, n, 4)
    placed = placed.clamp_min(0).minimum(limits)
    empty = (placed[..., :2] >= placed[..., 2:]).any(-1)
    if bool(empty.any()):
        image = int(empty.nonzero()[0, 1])
        raise ValueError(
            f"parts[{name!r}] hides nothing of image {image}, which has {size[0]}x{size[1]} pixels"
        )
    return placed


def _tolerance(value: float | None, dtype: torch.dtype) -> float:
    if value is None:
        return (
            _ROUNDING * torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
        )
    if not 0 <= value < 1:
        raise ValueError(f"tolerance must be a share from 0 to below 1, got {value!r}")
    return float(value)


# --- the measure ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Change:
    """What hiding something changes: the model, and the features [N,F] of all images as they are.

    ``fitting`` images at a time fit in ``limit`` bytes.
    """

    model: nn.Module
    images: Tensor
    features: dict[str, Tensor]
    fill: float | Tensor
    tolerance: float
    limit: int
    fitting: int

    def signs(self, boxes: Tensor, advance: object) -> dict[str, tuple[Tensor, Tensor]]:
        """Of each layer, how many signs differ between two images, int64 [N,N], and the share of
        elements that changed, float64 [N], where each image's box [N,4] is hidden."""
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
            advance(len(hidden))  # type: ignore[operator]
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
