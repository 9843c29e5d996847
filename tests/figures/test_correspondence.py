"""Table 1 as a figure: a row for each part, whatever it is called and how often it was drawn."""

import numpy as np
import pytest
from samples import IMAGES, PARTS, WITH_VECTOR, correspondence
from tidy import assert_tidy

from zfcuda import figures


@pytest.mark.parametrize("layers", [WITH_VECTOR, WITH_VECTOR[:1]])
@pytest.mark.parametrize("count", [0, 2, 6])
def test_rows_and_columns(layers, count):
    images = np.resize(IMAGES, (count, 32, 32, 3)) if count else None
    found = correspondence(layers=layers)
    figure = figures.correspondence(found, images, "Faces: the same part hidden")
    texts = assert_tidy(figure)
    for layer in layers:
        for part in PARTS:
            assert f"{found.mean(layer, part):.4f} ± {found.std(layer, part):.4f}" in texts
    pictures = [ax for ax in figure.axes if ax.images]
    assert len(pictures) == len(PARTS) * min(count, 5)
    for ax in pictures:  # what was hidden is covered
        (cover,) = ax.patches
        assert (cover.get_x(), cover.get_y()) == (3.5, 2.5)
        assert (cover.get_width(), cover.get_height()) == (8, 6)


def test_a_mark_stands_at_its_mean():
    found = correspondence(layers=WITH_VECTOR[2:])
    (panel,) = [ax for ax in figures.correspondence(found).axes if ax.lines]
    dots = [line for line in panel.lines if line.get_marker() in "oD"]
    means = [found.mean("fc8", part) for part in PARTS]
    assert [line.get_xdata()[0] for line in dots] == pytest.approx(means)
    strokes = [line for line in panel.lines if line.get_marker() == "|"]
    assert strokes[0].get_xdata().tolist() == pytest.approx(
        found.pairs("fc8", PARTS[2]).mean(1).tolist()
    )
