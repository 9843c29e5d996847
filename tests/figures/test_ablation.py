"""Table 3 as a figure."""

import pytest
from samples import ablation
from tidy import assert_clear, assert_tidy

from zfcuda import figures

LONG = ("as it is", "without conv1, conv2, conv3, conv4, conv5 and with fc6: 256, fc7: 1024")


@pytest.mark.parametrize("settings", [
    {}, {"seeds": 3}, {"names": LONG}, {"names": LONG[:1]}, {"step": 0.0},
], ids=str)  # fmt: skip
def test_rows(settings):
    found = ablation(**settings)
    figure = figures.ablation(found, "zfnet_small with layers removed or resized")
    texts = " ".join(assert_tidy(figure))
    for row in range(len(found.variants)):
        error = float(found.test_error[row].mean())
        low, high = (100 * found.interval[row]).tolist()
        assert f"{error:.1%} ({low:.1f}–{high:.1f})" in texts
    assert ("standard error" if len(found.seeds) > 1 else "95% interval") in texts
    assert "4 epochs of 12,000 pictures" in texts


@pytest.mark.parametrize(("first", "step"), [(0.0, 0.002), (1.0, 0.0), (0.5, 0.1)])
def test_marks_and_intervals_are_whole(first, step):
    found = ablation(LONG[:1] * 4, step=step)
    found.test_error[:] = (found.test_error - found.test_error[0] + first).clamp(0, 1)
    figure = figures.ablation(found, "zfnet_small with layers removed or resized")
    assert_clear(figure)
    (low, high), ends = figure.axes[0].get_xlim(), found.interval
    assert low < ends.min() and ends.max() < high


def test_a_mark_stands_at_its_error():
    found = ablation()
    (ax,) = figures.ablation(found).axes
    test = [line for line in ax.lines if line.get_marker() == "o"]
    assert test[0].get_xdata().tolist() == pytest.approx(found.test_error[:, 0].tolist())
