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


BETTER = [i / 100 for i in range(50)]  # after every epoch


@pytest.mark.parametrize(
    ("changes", "accuracies", "rates"),
    [
        # Lowered in time for the end.
        ({"lowerings": 2, "epochs": 6}, BETTER, [1, 1, 1, 1, 0.5, 0.25, None]),
        ({"lowerings": 2, "epochs": 3}, BETTER, [1, 1, 0.5, None]),
        ({"lowerings": 1, "epochs": 5}, BETTER, [1, 1, 1, 1, 0.5, None]),
        ({"lowerings": 0, "epochs": 3}, BETTER, [1, 1, 1, None]),
        ({"lowerings": 2, "epochs": 1}, BETTER, [1, None]),
        # No epoch, of a minute each, is begun that would end too late; one at least is.
        ({"minutes": 6.5}, BETTER, [1, 1, 1, 1, 1, 0.5, None]),
        ({"minutes": 3.5}, BETTER, [1, 1, 1, None]),
        ({"minutes": 0.01}, BETTER, [1, None]),
        # What stalled, after three epochs, is not lowered again at once: two thirds are six.
        (
            {"lowerings": 2, "epochs": 9},
            [0.5, 0.4, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95],
            [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25],
        ),
    ],
)
def test_rates_of_a_whole_training(changes, accuracies, rates):
    recipe = dataclasses.replace(RECIPE, **changes)
    assert [next_rate(rows(*accuracies[:done]), recipe) for done in range(len(rates))] == rates


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
