"""Entropy, confusion and calibration against values worked out by hand; pictures found again."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from zoo import Model

import zfcuda
from zfcuda.cli.commands.uncertainty import _median
from zfcuda.data import FromDataset, Pictures, Preprocessing
from zfcuda.results.predictions import UncertaintyResult

SMALL = Preprocessing(size=8, resize=None, mean=(0.5,) * 3, std=(0.25,) * 3)
NAMES = tuple("abcde")


@pytest.fixture
def examples():
    images = torch.randint(256, (600, 3, 8, 8), dtype=torch.uint8)
    return Pictures(images, torch.arange(600) % 5, NAMES, SMALL)


@pytest.fixture
def net():
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 5))


def made(probabilities, labels, bins=4):
    logits = torch.tensor(probabilities, dtype=torch.float64).log()
    empty = torch.zeros(0, dtype=torch.int64)
    return UncertaintyResult(
        logits, torch.tensor(labels), empty, torch.empty(0, 3, 8, 8), bins, 0.0
    )


def test_reliability_by_hand():
    result = made(
        [[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.5, 0.3, 0.2], [0.1, 0.5, 0.4], [0.34, 0.33, 0.33]],
        [0, 0, 0, 2, 2],
    )
    curve = result.reliability()
    assert curve.edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert curve.counts.tolist() == [0, 3, 0, 2]  # 0.5 belongs to the bin that ends there
    assert curve.confidence[[1, 3]].tolist() == pytest.approx([(0.5 + 0.5 + 0.34) / 3, 0.85])
    assert curve.accuracy[[1, 3]].tolist() == pytest.approx([1 / 3, 0.5])
    assert curve.confidence[[0, 2]].isnan().all() and curve.accuracy[[0, 2]].isnan().all()
    assert curve.ece == pytest.approx((abs(1 - 1.34) + abs(1 - 1.7)) / 5)
    assert result.accuracy == pytest.approx(0.4)
    assert result.confusion.tolist() == [[2, 1, 0], [0, 0, 0], [1, 1, 0]]
    assert result.cross_entropy == pytest.approx(
        -sum(map(math.log, (0.9, 0.2, 0.5, 0.4, 0.33))) / 5
    )
    assert result.entropy[0].item() == pytest.approx(-0.9 * math.log(0.9) - 0.1 * math.log(0.1))


def test_a_network_that_is_always_certain_and_right_is_calibrated():
    curve = made([[1.0, 0.0], [0.0, 1.0]], [0, 1]).reliability()
    assert curve.ece == 0 and curve.counts.tolist() == [0, 0, 0, 2]


def test_answers_that_are_no_numbers_count_in_no_bin():
    result = made([[0.8, 0.2], [math.nan, math.nan]], [0, 1])
    assert result.reliability().counts.tolist() == [0, 0, 0, 1]
    assert result.reliability().ece == pytest.approx(0.2)


def test_an_answer_that_is_no_number_is_not_right():
    """Its largest logit is that of class 0."""
    result = made([[math.nan, math.nan], [0.8, 0.2], [math.nan, math.nan]], [0, 0, 1])
    assert result.correct.tolist() == [False, True, False]
    assert result.accuracy == pytest.approx(1 / 3)
    assert result.confusion.tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize("max_memory", [None, 1])
def test_all_pictures_are_asked_about(net, examples, max_memory):
    result = zfcuda.uncertainty_of(net, examples, most=7, bins=10, max_memory=max_memory)
    x, labels = examples.batch(torch.arange(600))
    with torch.no_grad():
        logits = net.eval()(x)
    torch.testing.assert_close(result.logits, logits)
    assert torch.equal(result.labels, labels)
    entropy = torch.special.entr(logits.double().softmax(1)).sum(1)
    assert result.numbers.tolist() == entropy.argsort(descending=True)[:7].tolist()
    assert torch.equal(result.images, x[result.numbers])
    assert result.bins == 10


def test_equally_uncertain_pictures_come_in_their_order(examples):
    shrug = Model(lambda m, x: torch.zeros(len(x), 5))
    result = zfcuda.uncertainty_of(shrug, examples, most=3)
    assert result.numbers.tolist() == [0, 1, 2]
    assert result.entropy.tolist() == pytest.approx([math.log(5)] * 600)


def test_any_dataset_and_dtype(net, tmp_path):
    pictures = [(torch.rand(3, 8, 8), i % 5) for i in range(9)]
    result = zfcuda.uncertainty_of(net.double(), FromDataset(pictures, NAMES, SMALL), most=20)
    assert result.logits.dtype == torch.float64 and len(result.images) == 9
    result.save(tmp_path / "u")
    again = UncertaintyResult.load(tmp_path / "u")
    assert again.reliability().ece == result.reliability().ece
    assert torch.equal(again.images, result.images)


def test_the_model_is_left_as_it_was(net, examples):
    net.train()
    zfcuda.uncertainty_of(net, examples)
    assert all(module.training for module in net.modules())


def test_bad_arguments(net, examples):
    with pytest.raises(ValueError, match="most and bins must be at least 1, got 0 and 15"):
        zfcuda.uncertainty_of(net, examples, most=0)
    with pytest.raises(ValueError, match="labels from 0 to 4: the model has 3 classes"):
        zfcuda.uncertainty_of(nn.Sequential(*net[:3], nn.Linear(216, 3)), examples)
    nothing = Pictures(examples.images[:0], examples.labels[:0], NAMES, SMALL)
    with pytest.raises(ValueError, match="must not be empty"):
        zfcuda.uncertainty_of(net, nothing)


def test_there_is_one_median():
    """Of an even number of answers the mean of the two in the middle, in the figure as in words;
    answers that are no numbers are left out."""
    result = made([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4], [0.4, 0.6]], [0] * 5)
    result.logits[2] = math.nan
    result.labels[3] = 1
    entropies = result.entropy
    assert result.median_entropy(True) == pytest.approx(float(entropies[:2].mean()))
    assert result.median_entropy(False) == pytest.approx(float(entropies[3:].mean()))
    assert _median(result, True) == f"{float(entropies[:2].mean()):.2f}"
    labels = [text.get_text() for text in result.plot().axes[0].get_legend().get_texts()]
    assert [label.rpartition(" ")[2] for label in labels] == [
        _median(result, True), _median(result, False),
    ]  # fmt: skip
    assert math.isnan(made([[0.9, 0.1]], [0]).median_entropy(False))
    assert _median(made([[0.9, 0.1]], [0]), False) == "–"
