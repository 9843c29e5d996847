"""Invariance over a data set: the results, their mean and spread."""

from __future__ import annotations

import csv
import math

import pytest
import torch
from small_runs import images, network

import zfcuda
from zfcuda.experiments.invariance.over import Moments
from zfcuda.results.invariance import InvarianceSummary

FAMILIES = {
    "vertical translation": [-4.0, 0.0, 3.0],
    "horizontal translation": [2.0],
    "scale": [1.0, 1.4],
    "rotation": [0.0, 40.0],
}
LAYERS = ["2", "5"]


@pytest.fixture
def net():
    return network()


@pytest.fixture
def x():
    return images()


@pytest.fixture
def study(net, x):
    return zfcuda.invariance_study(net.double(), x.double(), LAYERS, 1, None, FAMILIES)


def test_mean_and_spread_are_those_of_the_study(net, x, study, tmp_path):
    net, x = net.double(), x.double()
    found = zfcuda.invariance_over(net, x, tmp_path, LAYERS, 1, FAMILIES)
    assert found.layers == ("2", "5") and found.target.tolist() == [1] * len(x)
    assert found.numbers.tolist() == [*range(len(x))] and not found.undefined
    assert list(found.values) == list(FAMILIES)
    for family, one in study.experiments.items():
        assert found.values[family].tolist() == FAMILIES[family]
        for index, layer in enumerate(LAYERS):
            distances = one.relative_distances(layer)
            torch.testing.assert_close(found.distances[family][index], distances.mean(0))
            torch.testing.assert_close(found.distance_spread[family][index], distances.std(0))
        probability = one.target_probability
        torch.testing.assert_close(found.probabilities[family], probability.mean(0))
        torch.testing.assert_close(found.probability_spread[family], probability.std(0))
        same = one.labels == one.base_logits.argmax(1)[:, None]
        torch.testing.assert_close(found.unchanged[family], same.double().mean(0))
    torch.testing.assert_close(found.base, study.experiments["scale"].target_probability[:, 0])
    again = InvarianceSummary.load(tmp_path / "summary")
    assert torch.equal(again.distances["rotation"], found.distances["rotation"])
    with (tmp_path / "curves.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert len(rows) == 8 * 4
    rows = [row for row in rows if (row["family"], row["of"]) == ("scale", "probability")]
    assert [float(row["mean"]) for row in rows] == found.probabilities["scale"].tolist()


def test_every_image_has_its_own_result(net, x, study, tmp_path):
    zfcuda.invariance_over(net.double(), x.double(), tmp_path, LAYERS, 1, FAMILIES)
    one = InvarianceSummary.load(tmp_path / "images" / "0000" / "0000004-image-4")
    assert one.names == ("image 4",) and one.numbers.tolist() == [4]
    for family, found in study.experiments.items():
        for index, layer in enumerate(LAYERS):
            expected = found.relative_distances(layer)[4]
            torch.testing.assert_close(one.distances[family][index], expected)
        torch.testing.assert_close(one.probabilities[family], found.target_probability[4])
        assert one.probability_spread[family].isnan().all()
    assert one.plot() and zfcuda.invariance_over is not None


def test_moments_leave_out_what_is_no_number():
    values = torch.randn(9, 2, dtype=torch.float64) * 1e-3 + 1e6
    values[3, 0] = math.nan
    values[4, 0] = math.inf
    moments = Moments.like(values[0])
    for one in values:
        moments.add(one)
    kept = values[[0, 1, 2, 5, 6, 7, 8], 0]
    torch.testing.assert_close(moments.average(), torch.stack([kept.mean(), values[:, 1].mean()]))
    torch.testing.assert_close(moments.spread(), torch.stack([kept.std(), values[:, 1].std()]))
    none = Moments.like(values[0])
    none.add(torch.full((2,), math.nan, dtype=torch.float64))
    assert none.average().isnan().all() and none.spread().isnan().all()
