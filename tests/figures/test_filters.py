"""Figure 6: filters on one scale, dead ones marked, numbers beside them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle
from tidy import assert_tidy
from torch import nn

from zfcuda import figures
from zfcuda.experiments.filters import compare_filters, first_layer_filters
from zfcuda.figures.filters import DEAD


def network(count=10, kernel=5, stride=2, channels=3):
    model = nn.Sequential(
        nn.Conv2d(channels, count, kernel, stride), nn.ReLU(), nn.Conv2d(count, 4, 3)
    )
    with torch.no_grad():
        model[0].weight[1] *= 0.001
        model[0].bias.fill_(0.1)
        model[0].bias[2] = -1e3
    return model


@pytest.fixture
def pictures():
    return torch.randn(4, 3, 40, 40)


def outlines(ax):
    return [p for p in ax.patches if isinstance(p, Rectangle) and not p.get_fill()]


@pytest.mark.parametrize("with_images", [False, True])
def test_first_layer_filters(pictures, with_images):
    result = first_layer_filters(network(), pictures if with_images else None)
    figure = figures.first_layer_filters(result, title="a title")
    texts = " ".join(" ".join(assert_tidy(figure)).split())
    assert ("2 dead (1 below 5% of the largest, 1 never active)" in texts) == with_images
    assert ("1 dead (below 5% of the largest)" in texts) != with_images
    assert "10 filters 5×5, stride 2" in texts and "white noise" in texts
    assert len(outlines(figure.subfigs[0].axes[0])) == 1 + with_images


def test_filters_are_not_clipped_and_share_a_scale():
    result = first_layer_filters(network())
    figure = figures.first_layer_filters(result)
    drawn = figure.subfigs[0].axes[0].images[0].get_array()
    inside = np.unique(np.asarray(drawn))
    weights = result.filters.double().numpy()
    expected = np.sort(0.5 + 0.5 * weights / np.abs(weights).max(), None)
    nearest = inside[np.searchsorted(inside, expected - 1e-9).clip(max=len(inside) - 1)]
    assert np.abs(nearest - expected).max() < 1e-6
    rectangle = outlines(figure.subfigs[0].axes[0])[0]
    assert rectangle.get_edgecolor()[:3] == pytest.approx(
        [int(DEAD[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    )


def test_a_filter_that_is_no_number_leaves_the_others(pictures):
    model = network()
    with torch.no_grad():
        model[0].weight[4] = torch.nan
    figure = figures.first_layer_filters(first_layer_filters(model, pictures))
    sizes = figure.subfigs[1].axes[0].lines[0].get_ydata()
    assert len(sizes) == 9 and sizes[0] == 1 and np.isfinite(sizes).all()


def test_names_and_marks_of_the_sizes_can_be_read(pictures):
    name = "a model's whole name of 39 letters, here"
    result = compare_filters({name: network(), "other": network(6)}, pictures, maps=2)
    zero = [replace(own, aliasing=0 * own.aliasing + 5.6e-17) for own in result.filters]
    figure = figures.first_layers(replace(result, filters=tuple(zero)))
    sizes, aliasing = figure.subfigs[-1].axes
    figure.canvas.draw()
    legend = sizes.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [name, "other"]
    (mark,) = sizes.texts
    box = legend.get_window_extent()
    assert box.y0 >= sizes.bbox.y1 - 1 > mark.get_window_extent().y1
    assert [text.get_text() for text in aliasing.texts][:1] == ["0"]


def test_a_layer_of_grey_images():
    assert_tidy(figures.first_layer_filters(first_layer_filters(network(channels=1))))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_first_layers(pictures, count):
    kinds = [network(12, 11, 4), network(30, 7, 2), network(5, 3, (1, 2))]
    names = ["11×11, stride 4", "a very long name of a model with its file, in words", "third"]
    models = dict(zip(names[:count], kinds[:count], strict=True))
    result = compare_filters(models, pictures, maps=7)
    figure = figures.first_layers(result, title="a title")
    texts = " ".join(" ".join(assert_tidy(figure)).split())
    assert "12 filters 11×11, stride 4" in texts and "7 maps" in texts
    shown = [
        {layer: torch.rand(len(top.channels[layer]), 1, 6, 6, 3).numpy() for layer in top.layers}
        for top in result.tops
    ]
    flipped = [own.filters.flip(1).numpy() for own in result.filters]
    assert_tidy(figures.first_layers(result, flipped, shown))
