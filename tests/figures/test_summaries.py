"""Figures of whole data sets: occlusion and invariance in a few numbers an image."""

import itertools
import math

import pytest
from samples import LONG, invariance_summary, occlusion_summary
from tidy import assert_clear, assert_tidy

from zfcuda import figures


@pytest.mark.parametrize("settings", [
    {"count": 60, "classes": 30, "outputs": "value"}, {"count": 1, "classes": 1, "shown": (1, 0)},
    {"size": (48, 192), "outputs": "probability"}, {"size": (192, 48), "shown": (2, 0)},
], ids=str)  # fmt: skip
def test_maps_lie_under_their_images(settings):
    found = occlusion_summary(**settings)
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


@pytest.mark.parametrize("settings", [
    {}, {"answers": 0.0, "outputs": "probability"}, {"answers": 1.0, "spread": math.nan},
    {"layers": tuple(f"features.{i}.expand3x3_activation" for i in range(7))},
], ids=str)  # fmt: skip
def test_curves_and_bands_are_free(settings):
    found = invariance_summary(**settings)
    figure = figures.invariance_summary(found, title="Invariance")
    assert_clear(figure)
    bottom, top = figure.axes[len(found.layers)].get_ylim()
    spread = found.probability_spread["scale"].nan_to_num()
    assert bottom <= float((found.probabilities["scale"] - spread).min())
    assert top >= float((found.probabilities["scale"] + spread).max())
    assert figure.axes[0].get_ylim()[0] <= min(0, float(-spread[0]))
    titles = [ax.get_title() for ax in figure.axes[: len(found.layers)]]
    assert all(a != b for a, b in itertools.combinations(titles, 2))
