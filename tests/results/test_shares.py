"""How certain a share of right answers is, and what commands say of it."""

from __future__ import annotations

import math

import pytest
import torch

from zfcuda.cli.commands.probe import _findings
from zfcuda.results.base import differ, wilson, with_interval
from zfcuda.results.training import ProbeResult

Z = 1.959963984540054


@pytest.mark.parametrize(
    ("right", "count"), [(0, 10), (10, 10), (1, 10), (9121, 10_000), (3, 7), (1, 1)]
)
def test_at_its_ends_the_score_is_on_the_edge(right, count):
    """Wilson's interval are the shares p for which right/count is z deviations away."""
    found = right / count
    low, high = wilson(found, count).tolist()
    assert low <= found <= high and 0 <= low < high <= 1
    for p in (low, high):
        if 1e-9 < p < 1 - 1e-9:
            assert abs(found - p) == pytest.approx(Z * math.sqrt(p * (1 - p) / count))
    assert (low == pytest.approx(0, abs=1e-12)) == (right == 0)
    assert (high == pytest.approx(1)) == (right == count)


def test_known_values_and_shapes():
    assert wilson(1.0, 10).tolist() == pytest.approx([0.7225, 1], abs=1e-4)
    assert wilson(math.nan, 0).tolist() == [0, 1]
    shares, counts = torch.tensor([0.5, 1.0, math.nan]), torch.tensor([4, 100, 0])
    found = wilson(shares, counts)
    assert found.shape == (3, 2) and found[2].tolist() == [0, 1]
    assert torch.equal(found[1], wilson(1.0, 100))
    assert with_interval(0.9121, wilson(0.9121, 10_000)) == "91.2% (90.6 to 91.7)"


def test_it_holds_the_true_share_in_95_of_100_cases():
    rng = torch.Generator().manual_seed(0)
    for p, count in ((0.97, 60), (0.5, 60), (0.9, 12)):
        right = torch.full((20_000, count), p).bernoulli(generator=rng).sum(1)
        low, high = wilson(right / count, count).unbind(-1)
        assert ((low <= p) & (p <= high)).double().mean() > 0.925


def test_two_shares_differ_where_chance_does_not_explain_it():
    assert not differ(1.0, 0.99, 100) and differ(1.0, 0.9, 100)
    assert not differ(0.5, 0.5, 10) and differ(0.2, 0.8, 30)
    # Newcombe 1998, table II, case (a): 56/70 and 48/80 cannot be had with one count; of 70 each
    # 0.8 and 0.6 differ by 0.2 (0.05 to 0.34).
    assert differ(56 / 70, 42 / 70, 70)


def probed(*accuracy, count=100):
    layers = tuple(f"layer{i}" for i in range(len(accuracy)))
    found = torch.tensor(accuracy, dtype=torch.float64)
    return ProbeResult(
        layers, ((1, 1, 1),) * len(layers), ((1, 1, 1),) * len(layers), torch.ones(1).double(),
        torch.zeros(len(layers), dtype=torch.int64), found[:, None], found, found,
        torch.ones(len(layers), 1, dtype=torch.bool), (500, 50, count), 0.5, math.nan, ("a", "b"),
        1.0,
    )  # fmt: skip


def test_probe_does_not_take_one_picture_of_a_hundred_for_a_fall():
    """At 100 % the standard error by itself is 0."""
    text = _findings(probed(0.9, 1.0, 0.99))
    assert "layer1 is best with 100.0% (95% interval 96.3 to 100.0%)" in text
    assert "With depth accuracy falls nowhere by more than chance among 100 test pictures" in text
    assert "falls from layer1 to layer2 by more" in _findings(probed(0.9, 1.0, 0.8))
    assert "With depth" not in _findings(probed(0.9))
