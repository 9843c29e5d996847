"""Figure 5: any number of images, lines that can be told apart and found again."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from samples import CLASS_NAMES, STUDIED, study
from tidy import assert_tidy

from zfcuda import figures
from zfcuda.data import Preprocessing
from zfcuda.figures.invariance import _LINE, _apart


@pytest.fixture(scope="module")
def drawn():
    """A study of five images and its figure, which takes long and which no test alters."""
    return (result := study()), figures.invariance_study(result)


@pytest.mark.parametrize("count", [1, 2, 7, 9, 12])
def test_any_number_of_images(count):
    result = study(count, ["horizontal translation", "rotation"], STUDIED[:1])
    figure = figures.invariance_study(result, Preprocessing(), CLASS_NAMES, title="a title")
    assert_tidy(figure)
    assert figure.get_figwidth() == 7


def test_lines_are_the_results_numbers(drawn):
    """In every panel, line i is image i, in the colour that frames it along the top."""
    result, figure = drawn
    panels = [ax for ax in figure.axes if any(line.get_gid() for line in ax.lines)]
    assert len(panels) == 4 * 3
    frames = [ax for ax in figure.axes if ax.images and ax.get_title()]
    colours = [to_rgb(ax.spines.left.get_edgecolor()) for ax in frames]
    assert len(set(colours)) == 5
    for number, (family, experiment) in enumerate(result.experiments.items()):
        shown = [experiment.relative_distances(layer) for layer in STUDIED]
        shown.append(experiment.target_probability)
        for ax, curves in zip(panels[3 * number : 3 * number + 3], shown, strict=True):
            lines = [line for line in ax.lines if line.get_gid()]
            assert [line.get_gid() for line in lines] == [str(i + 1) for i in range(5)]
            assert [to_rgb(line.get_color()) for line in lines] == colours, family
            for line, curve in zip(lines, curves, strict=True):
                np.testing.assert_allclose(line.get_ydata(), curve.numpy())


def test_every_line_is_numbered_at_its_end(drawn):
    figure = drawn[1]
    panels = [ax for ax in figure.axes if any(line.get_gid() for line in ax.lines)]
    last = panels[-2]  # rotation, distances at the late layer
    own = {text.get_text(): text for text in last.texts}
    assert set(own) == {"1", "2", "3", "4", "5"}
    ends = {line.get_gid(): line.get_ydata()[-1] for line in last.lines if line.get_gid()}
    by_end = sorted(ends, key=ends.get)
    assert by_end == sorted(own, key=lambda number: own[number].get_position()[1])
    for number, text in own.items():
        line = next(line for line in last.lines if line.get_gid() == number)
        assert text.get_color() == line.get_color()


def test_numbers_stay_near_their_lines_or_have_a_leader(drawn):
    heights = [0.5, 0.505, 0.51, 0.52]
    moved = _apart(heights)
    assert np.diff(moved) == pytest.approx(_LINE)
    assert np.mean(moved) == pytest.approx(np.mean(heights))  # around where they were
    assert _apart([0.0, 0.01, 0.9, 1.0]) == pytest.approx([0, _LINE, 1 - _LINE, 1], abs=0.01)
    figure = drawn[1]
    for ax in figure.axes:
        lines = [line for line in ax.lines if line.get_gid()]
        if not lines:
            continue
        leaders = [line for line in ax.lines if not line.get_clip_on()]
        low, high = ax.get_ylim()
        for line in lines:
            end = (line.get_ydata()[-1] - low) / (high - low)
            (text,) = (t for t in ax.texts if t.get_text() == line.get_gid())
            led = [np.allclose(one.get_ydata(), [end, text.get_position()[1]]) for one in leaders]
            assert abs(text.get_position()[1] - end) <= _LINE / 4 + 1e-9 or any(led)


def test_nothing_drawn_is_cut_off(drawn):
    """Panels of a column share an axis that holds all their values."""
    figure = drawn[1]
    for ax in figure.axes:
        for line in ax.lines:
            if line.get_gid():
                assert np.nanmax(line.get_ydata()) <= ax.get_ylim()[1]


def test_images_are_captioned_with_class_and_probability():
    result = study(2, ["vertical translation", "scale"])
    texts = assert_tidy(figures.invariance_study(result, None, CLASS_NAMES))
    experiment = result.experiments["scale"]
    first = result.experiments["vertical translation"].base_logits.softmax(-1)
    assert any(text.startswith("class 0") and text.endswith(f"{first[0, 0]:.2f}") for text in texts)
    assert experiment.target.tolist() == [0, 1]
    assert {"1  IMG_20240812_1734 0", "2  IMG_20240812_1734 1"} <= set(texts)


def test_colours_are_shown_only_where_they_are_known():
    def greys(figure):
        shown = [ax.images[0].get_array() for ax in figure.axes if ax.images]
        return [bool((p.max(axis=-1) - p.min(axis=-1)).max() < 1e-6) for p in shown]

    own = study(2, ["scale"], STUDIED[:1])
    assert not any(greys(figures.invariance_study(own)))  # three channels: red, green, blue
    two = {family: shown[:, :2] for family, shown in own.examples.items()}
    two = replace(own, images=own.images[:, :2], examples=two)
    assert all(greys(figures.invariance_study(two)))
    assert not any(greys(figures.invariance_study(own, Preprocessing())))
