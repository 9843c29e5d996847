"""Every result is drawn by the function that is registered for it."""

import pytest
from matplotlib.figure import Figure

from zfcuda import figures, results
from zfcuda.figures.style import draws


@pytest.mark.parametrize("kind", sorted({*results.__all__} - {"Result", "LayerSums"}))
def test_every_result_has_a_figure(kind):
    function = figures.draw.registry[getattr(results, kind)]
    assert getattr(figures, function.__name__) is function


def test_every_figure_is_that_of_one_result():
    drawn = [function for kind, function in figures.draw.registry.items() if kind is not object]
    assert len({*drawn}) == len(drawn)
    others = {*figures.__all__} - {function.__name__ for function in drawn}
    assert others == {"draw", "show_with_pyplot"}


def test_a_second_figure_of_a_result_is_refused():
    with pytest.raises(ValueError, match="OcclusionResult is drawn by occlusion_row already"):
        draws(results.OcclusionResult)(lambda result: Figure())


def test_what_has_no_figure_is_named():
    with pytest.raises(TypeError, match="there is no figure of a str"):
        figures.draw("words")
