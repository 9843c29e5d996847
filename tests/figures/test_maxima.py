"""Figure 2: every chosen map has a block, whatever the sizes of its windows."""

import pytest
import torch
from matplotlib.colors import to_rgb
from samples import WITH_VECTOR, maxima
from tidy import assert_tidy

from zfcuda import figures
from zfcuda.figures.maxima import mosaic, reduced


@pytest.mark.parametrize("k", [1, 4, 9])
def test_top_activations(k):
    figure = figures.top_activations(maxima(k), title="a title")
    texts = assert_tidy(figure)
    captions = [text for text in texts if text.startswith("map ")]
    assert len(captions) == 15
    assert sum("nothing" in caption for caption in captions) == 1
    assert any("windows of 40×23 px" in text for text in texts)


def test_display_arrays_are_shown_as_they_are():
    own = maxima(4, 2)
    shown = {layer: torch.rand(2, 4, 10, 10, 3).numpy() for layer in WITH_VECTOR}
    figure = figures.top_activations(own, shown, shown, columns=2)
    assert_tidy(figure)
    drawn = figure.subfigs[0].axes[0].images[0].get_array()
    assert (drawn[2:6, 2:6] == shown[WITH_VECTOR[0]][0, 0][0, 0]).all()


def test_a_map_that_never_fires_shows_no_image():
    own = maxima(4, 2, ((3, 3),) * 3)
    own.values[WITH_VECTOR[0]][0] = 0
    own.values[WITH_VECTOR[0]][1] = torch.tensor([2.0, 1.0, 0.0, 0.0])
    figure = figures.top_activations(own)
    axes = figure.subfigs[0].axes
    captions = [ax.get_xlabel() for ax in axes[:2]]
    assert captions[0].endswith("never fires") and captions[1].endswith("2 – 1")
    silent, half = (ax.images[0].get_array() for ax in axes[:2])
    grey = to_rgb("#d9d9d9")
    left = silent.shape[1] // 2 - 2
    cells = (silent[4:-4, 4:left] == grey).all(-1) | (silent[4:-4, 4:left] == 1).all(-1)
    assert cells.all() and not (half[4:30, 4:30] == grey).all()


def test_three_activations_stand_in_a_row():
    figure = figures.top_activations(maxima(3, 2, ((6, 6),) * 3))
    block = figure.subfigs[0].axes[0].images[0].get_array()
    assert block.shape[1] > 5 * block.shape[0]  # twice three cells, one below the other none
    assert_tidy(figure)


def test_a_mosaic_has_a_cell_for_each_picture():
    cells = [torch.full((50, 60, 3), i / 4).numpy() for i in range(3)]
    canvas, grid = mosaic([*cells, None], 2)
    assert [grid.corner(i) for i in range(4)] == [(4, 4), (4, 68), (58, 4), (58, 68)]
    assert canvas.shape == (2 * 50 + 3 * 4, 2 * 60 + 3 * 4, 3)
    assert canvas[4, 4, 0] == 0.0 and canvas[4, 68, 0] == 0.25 and canvas[58, 4, 0] == 0.5
    assert canvas[0, 0, 0] == 1.0 and 0.8 < canvas[58, 68, 0] < 0.9
    assert mosaic([cells[0][:3, :3]], 1)[0].shape == (36 + 4, 36 + 4, 3)


def test_large_pictures_are_reduced_to_means():
    pictures = torch.rand(2, 3, 128, 130)
    small = reduced(pictures)
    assert small.shape == (2, 3, 43, 44)
    assert small[1, 2, 0, 1] == pytest.approx(float(pictures[1, 2, :3, 3:6].mean()))
    assert reduced(pictures[..., :64, :64]).shape == (2, 3, 64, 64)
