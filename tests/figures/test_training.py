"""The figure of the curves: what it says, and runs of odd length."""

import dataclasses
import io

import pytest
import torch
from samples import training
from tidy import assert_clear


@pytest.mark.parametrize("epochs", [1, 2, 29, 70])
def test_any_number_of_epochs(epochs):
    figure = training(epochs, best=epochs).plot(title="$5 & <b>")
    figure.savefig(io.BytesIO(), format="png")
    loss, error = figure.axes
    assert loss.get_ylabel() == "cross-entropy (nats)" and error.get_ylabel() == "error"
    learnt, validation, test = error.lines[:3]
    assert learnt.get_ydata()[0] == pytest.approx(0.48)
    assert validation.get_ydata()[0] == pytest.approx(0.49)
    assert test.get_xdata() == [epochs] and test.get_ydata()[0] == pytest.approx(0.09)
    label = figure.legends[0].get_texts()[2].get_text()
    assert label == f"test of epoch {epochs}, read at least once"  # as in old files


def test_lowered_rates_are_marked():
    rates = torch.tensor([1e-2] * 5 + [1e-3] * 3 + [1e-4] * 2, dtype=torch.float64)
    figure = training(10, rates=rates).plot()
    for ax in figure.axes:
        assert [text.get_text() for text in ax.texts] == ["rate 0.001", "rate 0.0001"]
        assert [line.get_xdata()[0] for line in ax.lines[3:]] == [5.5, 8.5]


@pytest.mark.parametrize("epochs", [1, 4, 90])
def test_nothing_lies_on_the_curves(epochs):
    rates = 0.1 / torch.arange(1, epochs + 1, dtype=torch.float64)  # lowered after every epoch
    perfect = dataclasses.replace(training(epochs, epochs, rates), test_accuracy=1.0, test_loss=0.0)
    failed = dataclasses.replace(training(epochs, epochs, rates), test_accuracy=0.0)
    failed.training_loss[:] = failed.validation_loss[:] = 3.0
    for one in (training(epochs, rates=rates), perfect, failed):
        figure = one.plot(title="zfnet_small on garments")
        assert_clear(figure)
        ends = 1 - one.test_interval.numpy()
        bottom, top = figure.axes[1].get_ylim()
        assert bottom < ends.min() and ends.max() < top


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"rate": torch.ones(3)}, r"rate must have shape \[4\], got \[3\]"),
        ({"best": 5}, "best must be between 1 and 4 epochs, got 5"),
        ({"confusion": torch.zeros(3, 3)}, r"confusion must have shape \[2, 2\]"),
    ],
)
def test_wrong_shapes(change, match):
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(training(4), **change)
