"""The plateau rule, the budget, the filters' radius."""

import dataclasses

import pytest
import torch
from torch import nn

from zfcuda.data import Preprocessing
from zfcuda.training import Epoch, Recipe
from zfcuda.training.recipe import FilterRadius, next_rate

ROW = Epoch(1, 1e-2, 1.0, 0.5, 1.0, 0.5, 0.0, 50.0, 60.0, 100.0, 1000)
RECIPE = Recipe(rate=1.0, factor=0.5, patience=2, lowerings=1, epochs=50)


def rows(*accuracies):
    return [dataclasses.replace(ROW, validation_accuracy=a) for a in accuracies]


@pytest.mark.parametrize(
    ("accuracies", "rate"),
    [
        ((), 1.0),
        ((0.5,), 1.0),
        ((0.5, 0.4), 1.0),
        ((0.5, 0.4, 0.5), 0.5),  # as good as the best is not better
        ((0.5, 0.4, 0.6), 1.0),
        ((0.5, 0.4, 0.4, 0.6), 0.5),  # what was lowered stays so
        ((0.5, 0.4, 0.4, 0.4), 0.5),  # waits anew
        ((0.5, 0.4, 0.4, 0.4, 0.4), None),
        ((0.5, 0.4, 0.4, 0.6, 0.6, 0.6), None),
    ],
)
def test_plateau(accuracies, rate):
    assert next_rate(rows(*accuracies), RECIPE) == rate


def test_epochs_end():
    better = rows(*(i / 100 for i in range(50)))
    assert next_rate(better[:49], RECIPE) is not None and next_rate(better, RECIPE) is None


@pytest.mark.parametrize(
    ("lowerings", "epochs", "rates"),
    [
        (2, 6, [1, 1, 1, 1, 0.5, 0.25]),
        (2, 3, [1, 1, 0.5]),
        (1, 5, [1, 1, 1, 1, 0.5]),
        (0, 3, [1, 1, 1]),
        (2, 1, [1]),
    ],
)
def test_the_rate_is_lowered_in_time(lowerings, epochs, rates):
    recipe = dataclasses.replace(RECIPE, epochs=epochs, lowerings=lowerings)
    better = rows(*(i / 100 for i in range(epochs)))
    assert [next_rate(better[:done], recipe) for done in range(epochs)] == rates


def test_the_rate_is_lowered_in_time_for_the_last_minute():
    recipe = dataclasses.replace(RECIPE, minutes=6.5)
    better = rows(*(i / 100 for i in range(6)))  # of a minute each
    found = [next_rate(better[:done], recipe) for done in range(7)]
    assert found == [1, 1, 1, 1, 1, 0.5, None]


def test_what_stalled_is_not_lowered_again_at_once():
    recipe = dataclasses.replace(RECIPE, lowerings=2, epochs=9)
    accuracies = (0.5, 0.4, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95)  # stalls after 3, two thirds are 6
    found = [next_rate(rows(*accuracies[:done]), recipe) for done in range(9)]
    assert found == [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25]


def test_no_epoch_is_begun_that_would_end_too_late():
    recipe = dataclasses.replace(RECIPE, minutes=3.5)
    better = rows(0.1, 0.2, 0.3)  # of a minute each
    assert next_rate(better[:2], recipe) is not None and next_rate(better, recipe) is None
    assert next_rate([], dataclasses.replace(RECIPE, minutes=0.01)) == 1.0  # one epoch at least


def test_radius_rescales_with_the_input():
    pre = Preprocessing(size=64, resize=None, mean=(0.5,) * 3, std=(0.25,) * 3)
    assert Recipe().first_radius(pre) == pytest.approx(0.1 * 128 / 2)
    papers = Preprocessing(mean=(128.0,) * 3, std=(1.0,) * 3, scale=255.0)
    assert Recipe().first_radius(papers) == pytest.approx(0.1)


def test_larger_filters_are_scaled_back_and_others_left():
    pre = Preprocessing(mean=(128.0,) * 3, std=(1.0,) * 3, scale=255.0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Linear(5, 5))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.05)
        model[0].weight[1] *= -8
        model[2].weight[0] *= 3
    before = {name: p.clone() for name, p in model.named_parameters()}
    assert int(FilterRadius(model, Recipe(), pre).apply()) == 2
    rms = model[0].weight.square().mean((1, 2, 3)).sqrt()
    assert rms.tolist() == pytest.approx([0.05, 0.1, 0.05, 0.05])
    assert (model[0].weight[1] < 0).all()  # its direction stays
    assert torch.equal(model[2].weight[1], before["2.weight"][1])
    for name in ("0.bias", "2.bias", "3.weight"):
        assert torch.equal(model.get_parameter(name), before[name])


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"epochs": 0}, "epochs 0: expected at least 1"),
        ({"batch": -1}, "batch -1: expected at least 1"),
        ({"rate": 0}, "rate 0: expected a positive number"),
        ({"rate": float("nan")}, "rate nan"),
        ({"momentum": 1.0}, "momentum 1.0: expected 0 to below 1"),
        ({"factor": 1.0}, "factor 1.0"),
        ({"minutes": 0}, "minutes 0: expected a positive number"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_wrong_numbers(wrong, match):
    with pytest.raises(ValueError, match=match):
        Recipe(**wrong)
