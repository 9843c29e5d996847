"""Diagrams: every arrow from its box to its box, nothing written over."""

import dataclasses

import pytest
import torch
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from samples import EXAMPLE, STEPS, diagram
from tidy import assert_tidy

from zfcuda import figures
from zfcuda.data import Preprocessing
from zfcuda.figures.layer_drawing import arrange
from zfcuda.results.diagram import Source


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("preprocessing", [None, Preprocessing()])
def test_diagrams_of_any_shape(kind, preprocessing):
    figure = figures.diagram(diagram(kind), preprocessing, title="a title")
    assert_tidy(figure)
    assert 7 <= figure.get_figwidth() < 7.2


def test_one_large_window():
    large = dataclasses.replace(
        EXAMPLE,
        kernel=(13, 12),
        stride=(13, 12),
        values=torch.rand(13, 12),
        pooled=torch.ones(1, 1),
        switches=torch.tensor([[155]]),
        unit=(0, 0),
        unpooled=torch.zeros(13, 12),
    )
    figure = figures.diagram(diagram(switch=large))
    assert "switch 155" in assert_tidy(figure)


def test_what_is_written():
    texts = assert_tidy(figures.diagram(diagram()))
    # Shapes on both sides; of the image once on each.
    assert texts.count("96×110×110") == 2 * len(STEPS["chain"]) and texts.count("3×224×224") == 2
    assert "switches" in texts and "same filters" in texts
    assert [t for t in texts if t.startswith("switch ")] == [
        "switch 8",
        "switch 6",
        "switch 2",
        "switch 7",
    ]
    assert "27.4" in texts and texts.count("123") == 3  # below, pooled, unpooled
    assert any("123, of map 131 at (54, 53)" in text for text in texts)
    below = figures.diagram(diagram(sources=(Source("norm1", (48, 15, 15), 7),)))
    assert assert_tidy(below).count("7 calls not drawn") == 2


@pytest.mark.parametrize("kind", STEPS)
def test_every_call_has_a_box_on_either_side(kind):
    figure = figures.diagram(diagram(kind))
    ax = figure.axes[0]
    boxes = [patch for patch in ax.patches if isinstance(patch, FancyBboxPatch)]
    middles = [patch.get_x() + patch.get_width() / 2 for patch in boxes]
    right = [x for x in middles if x > 3.51]
    sources = 2 if kind == "branches" else 0
    assert len(right) == len(STEPS[kind]) + sources
    assert sorted(round(7 - x, 6) for x in right) == sorted(
        round(x, 6) for x in middles if x < 3.49
    )
    for one in boxes:
        assert one.get_x() >= 0 and one.get_x() + one.get_width() <= 7
    for a, b in ((a, b) for a in boxes for b in boxes if a is not b):
        apart = (
            a.get_x() + a.get_width() <= b.get_x()
            or b.get_x() + b.get_width() <= a.get_x()
            or a.get_y() + a.get_height() <= b.get_y()
            or b.get_y() + b.get_height() <= a.get_y()
        )
        assert apart
    assert any(isinstance(patch, FancyArrowPatch) for patch in ax.patches)


def test_boxes_stand_above_what_they_are_made_of():
    inputs = [[], [0], [1], [0], [2, 3], [4, 0]]
    plan = arrange(inputs)
    assert plan.rank == (0, 1, 2, 1, 3, 4)
    for box, sources in enumerate(inputs):
        for source in sources:
            route = plan.routes[source, box]
            assert [rank for _, rank in route] == list(range(plan.rank[source], plan.rank[box] + 1))
            assert route[0][0] == plan.place[source] and route[-1][0] == plan.place[box]


def test_arrows_cross_no_box():
    """A passing arrow has a place of its own beside the boxes of a rank."""
    plan = arrange([[], [0], [1], [2], [3, 0], [4, 1, 0]])
    for route in plan.routes.values():
        for place, rank in route[1:-1]:
            for box, at in enumerate(plan.rank):
                if at == rank:
                    assert abs(plan.place[box] - place) >= 0.5 + 0.3 / 2 - 1e-9


def test_branches_do_not_cross():
    """Two chains that begin in the wrong order are put right."""
    plan = arrange([[], [0], [0], [2], [1], [4, 3]])
    assert (plan.place[1] < plan.place[2]) == (plan.place[4] < plan.place[3])


def test_colours_are_shown_only_where_they_are_known():
    """Without the network's preprocessing no one knows which channel is red."""

    def is_grey(figure):
        (picture,) = (ax.images[0].get_array() for ax in figure.axes[0].child_axes[:1])
        return (picture.max(axis=-1) - picture.min(axis=-1)).max() < 1e-6

    assert not is_grey(figures.diagram(diagram()))  # three channels: red, green, blue
    own = diagram()
    two = dataclasses.replace(own, image=own.image[:2], projection=own.projection[:2])
    assert is_grey(figures.diagram(two))
    assert not is_grey(figures.diagram(diagram(), Preprocessing()))
