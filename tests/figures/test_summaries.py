"""Figures of whole data sets: occlusion and invariance in a few numbers an image."""

import itertools
import math

import pytest
import torch
from tidy import assert_clear, assert_tidy

from zfcuda import figures
from zfcuda.results.invariance import InvarianceSummary
from zfcuda.results.occlusion import OcclusionSummary

LONG = "paper towel, kitchen roll, absorbent and $disposable$ sheet of cellulose & more"
FAMILIES = ("vertical translation", "horizontal translation", "scale", "rotation")


def occlusion(count=12, classes=4, shown=(5, 5), size=(64, 64), outputs="logits"):
    rng = torch.Generator().manual_seed(0)
    rows, columns = (side // 8 for side in size)
    boxes = [(8 * y, 8 * x, 8 * y + 8, 8 * x + 8) for y in range(rows) for x in range(columns)]
    labels = torch.arange(count) % classes
    drop = torch.rand(count, generator=rng, dtype=torch.float64)
    total = sum(shown)
    return OcclusionSummary(
        names=tuple(f"part/a_very_long_name_of_a_photo_{i:04d}.jpeg" for i in range(count)),
        numbers=torch.arange(count), labels=labels, class_names=(LONG,) * classes, target=labels,
        probability=torch.ones(count).double(), mean=drop / 4, largest=drop,
        strongest=torch.tensor(boxes)[torch.arange(count)], changed=drop, localisation=drop,
        shown=torch.arange(total), most=shown[0], telling=0.1,
        maps=torch.rand(total, rows, columns, generator=rng),
        images=torch.randn(total, 3, *size, generator=rng), boxes=torch.tensor(boxes),
        grid=(rows, columns), size=(8, 8), stride=(8, 8), image_size=size, outputs=outputs,
    )  # fmt: skip


@pytest.mark.parametrize("settings", [
    {"count": 60, "classes": 30, "outputs": "value"}, {"count": 1, "classes": 1, "shown": (1, 0)},
    {"size": (48, 192), "outputs": "probability"}, {"size": (192, 48), "shown": (2, 0)},
], ids=str)  # fmt: skip
def test_maps_lie_under_their_images(settings):
    found = occlusion(**settings)
    figure = figures.occlusion_summary(found, None, (LONG,) * 30, "Occlusion")
    assert_tidy(figure)
    images = [ax for ax in figure.axes if ax.images]
    maps = [ax for ax in figure.axes if ax.get_aspect() == 1 and not ax.images]
    assert len(images) == len(maps) == len(found.shown)
    for image, own in zip(images, maps, strict=True):
        assert image.bbox.x0 == pytest.approx(own.bbox.x0, abs=1)
        assert image.bbox.x1 == pytest.approx(own.bbox.x1, abs=1)
        assert image.bbox.height == pytest.approx(own.bbox.height, abs=1)
        assert 0 < image.bbox.y0 - own.bbox.y1 < 0.6 * figure.dpi
    names = [ax.get_title() for ax in images]
    assert all(a != b for a, b in itertools.combinations(names, 2))


def invariance(layers=("conv1", "conv3", "fc7"), answers=None, spread=0.2, outputs="logits"):
    x = torch.linspace(0, 1, 9, dtype=torch.float64)
    answer = 1 - x if answers is None else 0 * x + answers
    distances = torch.stack([x] * len(layers))
    return InvarianceSummary(
        names=("a", "b"), numbers=torch.arange(2), target=torch.zeros(2).long(),
        base=torch.ones(2).double(), layers=layers,
        values=dict.fromkeys(FAMILIES, 1 + x),
        distances=dict.fromkeys(FAMILIES, distances),
        distance_spread=dict.fromkeys(FAMILIES, 0 * distances + spread),
        probabilities=dict.fromkeys(FAMILIES, answer),
        probability_spread=dict.fromkeys(FAMILIES, 0 * x + spread),
        unchanged=dict.fromkeys(FAMILIES, answer), outputs=outputs,
    )  # fmt: skip


@pytest.mark.parametrize("settings", [
    {}, {"answers": 0.0, "outputs": "probability"}, {"answers": 1.0, "spread": math.nan},
    {"layers": tuple(f"features.{i}.expand3x3_activation" for i in range(7))},
], ids=str)  # fmt: skip
def test_curves_and_bands_are_free(settings):
    found = invariance(**settings)
    figure = figures.invariance_summary(found, title="Invariance")
    assert_clear(figure)
    bottom, top = figure.axes[len(found.layers)].get_ylim()
    spread = found.probability_spread["scale"].nan_to_num()
    assert bottom <= float((found.probabilities["scale"] - spread).min())
    assert top >= float((found.probabilities["scale"] + spread).max())
    assert figure.axes[0].get_ylim()[0] <= min(0, float(-spread[0]))
    titles = [ax.get_title() for ax in figure.axes[: len(found.layers)]]
    assert all(a != b for a, b in itertools.combinations(titles, 2))
