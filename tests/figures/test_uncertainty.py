"""Uncertainty: four panels, of two classes or a thousand, of one picture or many."""

import numpy as np
import pytest
from samples import LONG, uncertainty
from tidy import assert_clear

from zfcuda import figures
from zfcuda.data import Preprocessing


@pytest.mark.parametrize("settings", [
    {"classes": 2, "bins": 1}, {"classes": 40, "n": 900}, {"n": 1, "most": 1},
    {"classes": 4, "sharp": 40.0}, {"sharp": -4.0},
], ids=str)  # fmt: skip
def test_panels(settings):
    found = uncertainty(**settings)
    names = [LONG if i % 3 == 1 else f"class {i}" for i in range(found.logits.shape[1])]
    images = np.random.default_rng(0).random((len(found.images), 32, 32, 3))
    figure = figures.uncertainty(found, images, names, "Uncertainty: 300 pictures")
    texts = " ".join(assert_clear(figure))
    assert f"calibration error {found.reliability().ece:.3f}" in texts
    assert f"accuracy {found.accuracy:.1%}" in texts
    assert f"entropy {float(found.entropy[found.numbers[0]]):.2f}" in texts
    for letter in "abcd":
        assert f"{letter}  " in texts
    if found.logits.shape[1] == 40:  # rare classes are joined
        (ax,) = [ax for ax in figure.axes if ax.get_xlabel() == "predicted class"]
        assert ax.get_xticklabels()[-1].get_text() == "28 others"
        assert sum(int(text.get_text()) for text in ax.texts) == 900


def test_numbers_of_the_confusion_matrix():
    found = uncertainty(classes=3, sharp=1.0)
    figure = figures.uncertainty(found)
    (ax,) = [ax for ax in figure.axes if ax.get_xlabel() == "predicted class"]
    shown = {
        tuple(map(round, text.get_position()[::-1])): int(text.get_text()) for text in ax.texts
    }
    expected = {
        (row, column): int(count)
        for (row, column), count in np.ndenumerate(found.confusion.numpy())
        if count
    }
    assert shown == expected


def test_true_colours_or_stretched_inputs():
    found = uncertainty(n=20, classes=3, most=1)
    first = found.images[0].movedim(0, -1).numpy()
    stretched = (first - first.min()) / (first.max() - first.min())
    pre = Preprocessing(size=32, resize=None, std=(0.25,) * 3, mean=(0.5,) * 3, channels="bgr")
    for figure, expected in (
        (figures.uncertainty(found, preprocessing=pre), pre.to_display(found.images)[0]),
        (figures.uncertainty(found), stretched),
    ):
        panel = next(ax for ax in figure.axes if ax.get_title("left").startswith("d"))
        picture = panel.child_axes[0].images[0].get_array()
        assert np.allclose(picture, expected, atol=1e-6)
