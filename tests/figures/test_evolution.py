"""Figure 4: a row for each map, a column for each checkpoint, in a block for each layer."""

import numpy as np
import pytest
import torch
from samples import WITH_VECTOR, evolution
from tidy import assert_tidy

from zfcuda import figures


@pytest.mark.parametrize("names", [("1",), ("1", "2", "5", "10"), tuple(map(str, range(1, 65)))])
def test_feature_evolution(names):
    figure = figures.feature_evolution(evolution(names), title="a title")
    texts = assert_tidy(figure)
    assert texts.count("image") == 3 and texts.count(names[0]) == 3 and texts.count(names[-1]) == 3
    assert texts.count("100") == 3
    columns = {text for text in texts if text in names}
    assert len(columns) == min(len(names), 8)


def test_a_map_that_never_fires_shows_no_image():
    own = evolution(maps=2, layers=WITH_VECTOR[:1])
    own.images[WITH_VECTOR[0]].fill_(3)
    own.values[WITH_VECTOR[0]][:, 0] = 0
    own.values[WITH_VECTOR[0]][:, 1] = 1
    picture = figures.feature_evolution(own).subfigs[0].axes[0].images[0].get_array()
    first, second = picture[6:36], picture[picture.shape[0] // 2 + 6 : -6]
    assert len(np.unique(first[:, 6:36].reshape(-1, 3), axis=0)) <= 2  # grey, and perhaps a line
    assert len(np.unique(second[:, 6:36].reshape(-1, 3), axis=0)) > 2


def test_a_dot_marks_another_image():
    own = evolution(maps=2, layers=WITH_VECTOR[:1])
    numbers = torch.tensor([[0, 7], [0, 7], [1, 7], [1, 7]])
    own.images[WITH_VECTOR[0]].copy_(numbers)
    figure = figures.feature_evolution(own)
    assert sum(line.get_marker() == "o" for line in figure.subfigs[0].axes[0].lines) == 1
