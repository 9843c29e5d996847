"""Table 7 as a figure."""

import dataclasses
import math

import pytest
from samples import probe
from tidy import assert_clear, assert_tidy

from zfcuda import figures
from zfcuda.results.training import PIXELS


@pytest.mark.parametrize("network", [0.9, math.nan])
@pytest.mark.parametrize("layers", [
    (PIXELS, "norm1", "features.3.expand3x3_activation", "fc7"), ("fc7",),
    (PIXELS, *(f"features.{i}" for i in range(12))), (PIXELS,),
], ids=len)  # fmt: skip
def test_accuracies_against_depth(layers, network):
    found = probe(layers, network)
    figure = figures.probe(found, "Linear classifiers on each layer's features")
    texts = " ".join(assert_tidy(figure))
    assert f"{100 * float(found.accuracy[-1]):.1f}" in texts
    assert "4096" in texts and "most frequent class" in texts
    assert ("network: 90.0%" in texts) == (not math.isnan(network))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_nothing_lies_on_the_curves(share):
    found = probe(("conv1", "conv2", "fc7"), share)
    for accuracy in (found.accuracy, found.training_accuracy, found.validation_accuracy):
        accuracy[:] = share
    figure = figures.probe(dataclasses.replace(found, chance=share))
    assert_clear(figure)
    bottom, top = figure.axes[0].get_ylim()
    assert bottom < 0 and top > 1


def test_layers_are_told_apart():
    texts = [
        label.get_text().partition("\n90.0\n")[0]
        for label in figures.probe(
            probe(tuple(f"features.{i}.expand3x3_activation" for i in range(3)))
        ).axes[0].get_xticklabels()
    ]  # fmt: skip
    assert [text.split("\n")[0] for text in texts] == [f"features.{i}." for i in range(3)]
