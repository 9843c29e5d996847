"""Table 7 as a figure."""

import dataclasses
import math

import pytest
import torch
from tidy import assert_clear, assert_tidy, drawn_texts

from zfcuda import figures
from zfcuda.results.probe import PIXELS, ProbeResult


@pytest.fixture
def result():
    def make(layers=(PIXELS, "norm1", "features.3.expand3x3_activation", "fc7"), network=0.9):
        count = len(layers)
        accuracy = torch.linspace(0.3, 0.9, count, dtype=torch.float64)
        return ProbeResult(
            layers=layers,
            shapes=((96, 27, 27),) * count,
            pooled=((128, 2, 2),) * (count - 1) + ((4096, 1, 1),),
            regularisation=torch.tensor([1e-4, 1e-2], dtype=torch.float64),
            chosen=torch.arange(count) % 2,
            validation_accuracy=torch.stack([accuracy - 0.01, accuracy], 1),
            training_accuracy=accuracy + 0.08,
            accuracy=accuracy,
            converged=torch.ones(count, 2, dtype=torch.bool),
            pictures=(50_000, 5000, 10_000),
            chance=0.1,
            network_accuracy=network,
            class_names=("a",) * 10,
            seconds=1.0,
        )

    return make


@pytest.mark.parametrize("network", [0.9, math.nan])
@pytest.mark.parametrize("layers", [
    (PIXELS, "norm1", "features.3.expand3x3_activation", "fc7"), ("fc7",),
    (PIXELS, *(f"features.{i}" for i in range(12))), (PIXELS,),
], ids=len)  # fmt: skip
def test_accuracies_against_depth(result, layers, network):
    found = result(layers, network)
    figure = figures.probe(found, "Linear classifiers on each layer's features")
    assert_tidy(figure)
    texts = " ".join(text.get_text() for text in drawn_texts(figure))
    assert f"{100 * float(found.accuracy[-1]):.1f}" in texts
    assert "4096" in texts and "most frequent class" in texts
    assert ("network: 90.0%" in texts) == (not math.isnan(network))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_nothing_lies_on_the_curves(result, share):
    found = result(("conv1", "conv2", "fc7"), share)
    for accuracy in (found.accuracy, found.training_accuracy, found.validation_accuracy):
        accuracy[:] = share
    figure = figures.probe(dataclasses.replace(found, chance=share))
    assert_clear(figure)
    bottom, top = figure.axes[0].get_ylim()
    assert bottom < 0 and top > 1


def test_layers_are_told_apart(result):
    texts = [
        label.get_text().partition("\n90.0\n")[0]
        for label in figures.probe(
            result(tuple(f"features.{i}.expand3x3_activation" for i in range(3)))
        ).axes[0].get_xticklabels()
    ]  # fmt: skip
    assert [text.split("\n")[0] for text in texts] == [f"features.{i}." for i in range(3)]


def test_a_result_plots_itself(result):
    assert result().plot().axes
