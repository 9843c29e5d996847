"""Table 3 as a figure."""

import pytest
import torch
from tidy import assert_clear, assert_tidy, drawn_texts

from zfcuda import figures
from zfcuda.experiments.ablations import TABLE_3
from zfcuda.results.ablation import AblationResult


@pytest.fixture
def result():
    def make(names=tuple(variant.name for variant in TABLE_3), seeds=1, step=0.01):
        count = len(names)
        error = (0.2 + step * torch.arange(count, dtype=torch.float64))[:, None]
        error = error + 0.004 * torch.arange(seeds)
        return AblationResult(
            variants=names,
            parameters=1_000_000 + 98_765_432 * torch.arange(count),
            multiplications=40_000_000 + 987_654_321 * torch.arange(count),
            seeds=torch.arange(seeds),
            training_error=error + 0.1,
            validation_error=error - 0.01,
            test_error=error,
            epoch=torch.ones(count, seeds, dtype=torch.int64),
            seconds=torch.ones(count, seeds, dtype=torch.float64),
            pictures=(12_000, 5000, 10_000),
            data="IDX files, coloured backgrounds",
            recipe={"epochs": 4},
            threads=2,
        )

    return make


LONG = ("as it is", "without conv1, conv2, conv3, conv4, conv5 and with fc6: 256, fc7: 1024")


@pytest.mark.parametrize("settings", [
    {}, {"seeds": 3}, {"names": LONG}, {"names": LONG[:1]}, {"step": 0.0},
], ids=str)  # fmt: skip
def test_rows(result, settings):
    found = result(**settings)
    figure = figures.ablation(found, "zfnet_small with layers removed or resized")
    assert_tidy(figure)
    texts = " ".join(text.get_text() for text in drawn_texts(figure))
    for row in range(len(found.variants)):
        error = float(found.test_error[row].mean())
        low, high = (100 * found.interval[row]).tolist()
        assert f"{error:.1%} ({low:.1f}–{high:.1f})" in texts
    assert ("standard error" if len(found.seeds) > 1 else "95% interval") in texts
    assert "4 epochs of 12,000 pictures" in texts


@pytest.mark.parametrize(("first", "step"), [(0.0, 0.002), (1.0, 0.0), (0.5, 0.1)])
def test_marks_and_intervals_are_whole(result, first, step):
    found = result(LONG[:1] * 4, step=step)
    found.test_error[:] = (found.test_error - found.test_error[0] + first).clamp(0, 1)
    figure = figures.ablation(found, "zfnet_small with layers removed or resized")
    assert_clear(figure)
    (low, high), ends = figure.axes[0].get_xlim(), found.interval
    assert low < ends.min() and ends.max() < high


def test_a_mark_stands_at_its_error(result):
    found = result()
    (ax,) = figures.ablation(found).axes
    test = [line for line in ax.lines if line.get_marker() == "o"]
    assert test[0].get_xdata().tolist() == pytest.approx(found.test_error[:, 0].tolist())
    assert found.plot().axes
