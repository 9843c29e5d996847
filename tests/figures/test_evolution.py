"""Figure 4: a row for each map, a column for each checkpoint, in a block for each layer."""

import numpy as np
import pytest
import torch
from tidy import assert_tidy, drawn_texts

from zfcuda import figures
from zfcuda.results.maxima import EvolutionResult

LAYERS = ("features.3.expand3x3_activation", "a.very.deeply.nested.module.named.conv", "fc8")


@pytest.fixture
def result():
    def make(names=("1", "2", "5", "10"), maps=3, layers=LAYERS):
        generator = torch.Generator().manual_seed(0)
        shape = (len(names), maps)
        numbers = torch.randint(0, 3, shape, generator=generator)
        numbers[0, :1] = -1
        sizes = dict(zip(LAYERS, ((3, 3), (20, 13), (90, 90)), strict=True))
        pictures = {
            layer: torch.randn(*shape, 3, *sizes[layer], generator=generator) for layer in layers
        }
        return EvolutionResult(
            checkpoints=names,
            layers=layers,
            channels=dict.fromkeys(layers, torch.arange(maps) * 100),
            values=dict.fromkeys(layers, torch.rand(shape, generator=generator)),
            images=dict.fromkeys(layers, numbers),
            positions=dict.fromkeys(layers, torch.zeros(*shape, 2).long()),
            boxes=dict.fromkeys(layers, torch.zeros(*shape, 4).long()),
            projections=pictures,
            patches=pictures,
            difference=dict.fromkeys(layers, 0.0),
            count=100,
            image_size=(90, 90),
            seconds=1.0,
        )

    return make


@pytest.mark.parametrize("names", [("1",), ("1", "2", "5", "10"), tuple(map(str, range(1, 65)))])
def test_feature_evolution(result, names):
    figure = figures.feature_evolution(result(names), title="a title")
    assert_tidy(figure)
    texts = [text.get_text() for text in drawn_texts(figure)]
    assert texts.count("image") == 3 and texts.count(names[0]) == 3 and texts.count(names[-1]) == 3
    assert texts.count("100") == 3
    columns = {text for text in texts if text in names}
    assert len(columns) == min(len(names), 8)


def test_a_map_that_never_fires_shows_no_image(result):
    own = result(maps=2, layers=LAYERS[:1])
    own.images[LAYERS[0]].fill_(3)
    own.values[LAYERS[0]][:, 0] = 0
    own.values[LAYERS[0]][:, 1] = 1
    picture = figures.feature_evolution(own).subfigs[0].axes[0].images[0].get_array()
    first, second = picture[6:36], picture[picture.shape[0] // 2 + 6 : -6]
    assert len(np.unique(first[:, 6:36].reshape(-1, 3), axis=0)) <= 2  # grey, and perhaps a line
    assert len(np.unique(second[:, 6:36].reshape(-1, 3), axis=0)) > 2


def test_a_dot_marks_another_image(result):
    own = result(maps=2, layers=LAYERS[:1])
    numbers = torch.tensor([[0, 7], [0, 7], [1, 7], [1, 7]])
    own.images[LAYERS[0]].copy_(numbers)
    figure = figures.feature_evolution(own)
    assert sum(line.get_marker() == "o" for line in figure.subfigs[0].axes[0].lines) == 1


def test_display_arrays_and_long_names(result):
    own = result(("epoch-0001-of-a-run", "epoch-0002-of-a-run", "last"))
    shown = {layer: torch.rand(3, 3, 8, 8, 3).numpy() for layer in LAYERS}
    assert_tidy(figures.feature_evolution(own, shown, shown, columns=3))


def test_no_maps(result):
    assert_tidy(figures.feature_evolution(result(maps=0), title="nothing"))
