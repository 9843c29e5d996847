"""What every figure owes its reader: texts that can be read."""

import itertools
from unittest import mock

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.transforms import Bbox


def assert_tidy(figure):
    """No two visible texts overlap, and none leaves the figure; returns what they say."""
    return [text for text, _ in _tidy_boxes(figure)]


def _tidy_boxes(figure):
    drawn = drawn_texts(figure)
    renderer = figure.canvas.get_renderer()
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in drawn]
    page = figure.bbox
    for text, box in boxes:
        inside = page.x0 - 1 <= box.x0 and box.x1 <= page.x1 + 1
        inside = inside and page.y0 - 1 <= box.y0 and box.y1 <= page.y1 + 1
        assert inside, f"{text!r} leaves the page: {box} of {page}"
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        width = min(a.x1, b.x1) - max(a.x0, b.x0)
        height = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert width <= 1 or height <= 1, f"{one!r} overlaps {other!r}"
    return boxes


def drawn_texts(figure):
    """The text artists that a draw really reaches: ticks outside the view limits are not drawn."""
    drawn = []
    draw = Text.draw

    def record(text, renderer):
        if text.get_visible() and text.get_text().strip():
            drawn.append(text)
        draw(text, renderer)

    with mock.patch.object(Text, "draw", record):
        figure.canvas.draw()
    assert drawn
    return drawn


def assert_clear(figure):
    """A tidy figure, no text of which lies on a bar, a line or an error bar, and none of these
    reaches past its axes; returns what its texts say."""
    boxes = _tidy_boxes(figure)
    renderer = figure.canvas.get_renderer()
    for ax in all_axes(figure):
        frame = ax.get_window_extent(renderer)
        for points in _strokes(ax):
            for text, box in boxes:
                assert not _inside(points, box).any(), f"{text!r} lies on a line"
        for points in _strokes(ax, data=True):
            room = Bbox.from_extents(*(frame.min - 2), *(frame.max + 2))
            assert _inside(points, room).all(), f"a line leaves its axes, {room}"
        bars = [one for one in ax.patches if isinstance(one, Rectangle) and one.get_zorder() > 0]
        for bar in bars:  # what lies behind everything shades a row
            box = bar.get_window_extent(renderer)
            for text, own in boxes:
                width = min(box.x1, own.x1) - max(box.x0, own.x0)
                height = min(box.y1, own.y1) - max(box.y0, own.y0)
                assert width <= 1 or height <= 1, f"{text!r} lies on a bar"
    return [text for text, _ in boxes]


def all_axes(figure):
    """The figure's axes and those set into them."""
    return [one for ax in figure.axes for one in (ax, *ax.child_axes)]


def _strokes(ax, data=False):
    """Points along the lines and error bars, pixels; `data` leaves out those that mark a value
    from one end of the axes to the other."""
    paths = []
    for line in ax.lines:
        if line.get_linestyle() == "None" or (data and line.get_transform() != ax.transData):
            continue
        paths.append(line.get_transform().transform(line.get_xydata()))
    for lines in ax.collections:
        if isinstance(lines, LineCollection):
            paths += [lines.get_transform().transform(own) for own in lines.get_segments()]
    for path in paths:
        if len(path := path[np.isfinite(path).all(1)]) > 1:
            steps = np.linspace(0, len(path) - 1, 100 * len(path))
            yield np.stack([np.interp(steps, range(len(path)), own) for own in path.T], 1)


def _inside(points, box):
    return ((points > box.min + 1) & (points < box.max - 1)).all(1)
