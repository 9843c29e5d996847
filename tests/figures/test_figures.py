"""Every figure builds from awkward results, keeps its texts apart and within the page, and leaves
matplotlib's global state alone."""

import io
import math
import os
import re
import subprocess
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from samples import CLASS_NAMES, IMAGES, SIDE, invariance, occlusion
from tidy import assert_tidy, drawn_texts

from zfcuda import figures
from zfcuda.data import Preprocessing
from zfcuda.results import Patches, Predictions


def test_a_figure_is_laid_out_once(predictions, monkeypatch):
    laid_out = []
    execute = ConstrainedLayoutEngine.execute
    monkeypatch.setattr(
        ConstrainedLayoutEngine, "execute", lambda *args: laid_out.append(1) or execute(*args)
    )
    figure = figures.prediction(predictions, IMAGES)
    assert len(laid_out) == 1
    for dpi in (50, 100):
        figure.savefig(io.BytesIO(), dpi=dpi)
    assert len(laid_out) == 1
    assert_tidy(figures.occlusion_row(occlusion(), IMAGES))
    assert len(laid_out) == 3  # bars hang below its maps


@pytest.mark.parametrize("with_image", [True, False])
@pytest.mark.parametrize("image", [0, 1])
def test_prediction(predictions, with_image, image):
    shown = IMAGES if with_image else None
    figure = figures.prediction(predictions, shown, CLASS_NAMES, image=image, title="a title")
    texts = {*assert_tidy(figure)}
    top = float(predictions.top(1)[0][image, 0])
    assert f"{top:.3f}" in texts
    assert any(f"{float(predictions.entropy[image]):.2f} nats" in text for text in texts)


def test_projection_grid(projections):
    figure = projections.plot(class_names=CLASS_NAMES, title="a title")
    texts = assert_tidy(figure)
    assert sum("map 131 at (27, 28)" in text for text in texts) == 15


def test_small_projections_are_magnified(projections):
    figure = figures.projection_grid(projections, preprocessing=Preprocessing())
    insets = [len(ax.child_axes) for ax in figure.axes]
    # The inputs; the specks, each above its image patch; the full and the empty layer.
    assert insets == [0] * 5 + [2] * 5 + [0] * 10
    assert len(figures.projection_grid(projections).axes) == 15  # raw inputs are no pictures


@pytest.mark.parametrize("most", [64, 2])
def test_projection_patches(most):
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[0, 0, 3, 3], [2, 1, 9, 8], [0, 0, 0, 0], [0, 0, 32, 32], [5, 5, 12, 9]])
    result = Patches(
        layers=("features.3.squeeze", "classifier"),
        layer=torch.tensor([0, 0, 0, 1, 1]),
        image=torch.tensor([0, 0, 1, 0, 1]),
        units=torch.zeros(5, 3, dtype=torch.int64),
        activations=torch.tensor([1.0, 2.5, 0.0, math.nan, -1.0]),
        boxes=boxes,
        values=torch.randn(3 * (9 + 49 + 1024 + 28), generator=generator),
        images=torch.randn(2, 3, 32, 32, generator=generator),
    )
    for shown in ({}, {"images": IMAGES}, {"preprocessing": Preprocessing()}):
        figure = figures.projection_patches(result, most=most, title="a title", **shown)
        texts = " ".join(assert_tidy(figure))
        assert ("2 of 3 units" if most == 2 else "3 units, strongest activation 2.5") in texts
        assert ("image patches" in texts) == bool(shown)
        assert ("network channels as RGB" in texts) == ("preprocessing" not in shown)


def one_patch(values, image):
    return Patches(
        layers=("a",),
        layer=torch.tensor([0]),
        image=torch.tensor([0]),
        units=torch.zeros(1, 3, dtype=torch.int64),
        activations=torch.ones(1),
        boxes=torch.tensor([[0, 0, *values.shape[1:]]]),
        values=values.flatten(),
        images=image[None],
    )


def test_patches_of_a_bgr_network_are_shown_in_colour():
    preprocessing = Preprocessing(channels="bgr", scale=255.0, mean=(104, 117, 123), std=(1, 1, 1))
    red = preprocessing.display_value((1.0, 0.0, 0.0))[:, None, None].expand(3, 3, 3)
    signal = torch.tensor([0.0, 0.0, 0.5])[:, None, None].expand(3, 3, 3)
    figure = one_patch(signal, red).plot(preprocessing=preprocessing)
    projection, image = (ax.images[0].get_array() for ax in figure.axes)
    assert np.allclose(projection, (1.0, 0.5, 0.5)) and np.allclose(image, (1.0, 0.0, 0.0))


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_patches_of_other_than_three_channels_are_grey(channels):
    figure = one_patch(torch.full((channels, 3, 3), 0.5), torch.zeros(channels, 3, 3)).plot()
    (ax,) = figure.axes
    assert ax.get_title() == "projections" and np.allclose(ax.images[0].get_array(), 1.0)


@pytest.mark.parametrize(
    "settings",
    [{}, {"nan": True}, {"rows": 1, "cols": 1, "size": 32}, {"rows": 1, "cols": 4}],
    ids=str,
)
@pytest.mark.parametrize("panels", ["all", "maps only"])
def test_occlusion_row(projections, settings, panels):
    result = occlusion(**settings)
    data = {"images": IMAGES, "projections": projections.projections} if panels == "all" else {}
    figure = figures.occlusion_row(result, class_names=CLASS_NAMES, title="a title", **data)
    labels = {*assert_tidy(figure)}
    assert {"occluder centre, x (px)", "y (px)"} <= labels


def test_a_map_that_is_nearly_flat_is_not_one_slab():
    own = occlusion()
    wanted = torch.linspace(6.8e-5, 7.2e-5, own.logits.shape[1], dtype=torch.float64)
    wanted = torch.stack([wanted, 1 - wanted], -1)[None].log()
    result = replace(own, logits=wanted, base_logits=wanted[:, -1], target=torch.tensor([0]))
    figure = figures.occlusion_row(result, IMAGES, class_names=("tabby", "frog"))
    (mesh,) = next(ax for ax in figure.axes if ax.get_title() == "P(class)").collections
    assert mesh.get_clim() == pytest.approx((6.8e-5, 7.2e-5))
    written = assert_tidy(figure)
    assert any(text.startswith("P(tabby) = 7.2e-05\nwithout occluder\n") for text in written)
    assert any("6.8e-05 to 7.2e-05\n▾ without occluder: 7.2e-05" in text for text in written)


def test_occlusion_maps_lie_at_their_occluders():
    """The value drawn at an occluder's centre is the one computed for that occluder."""
    result = occlusion()
    figure = figures.occlusion_row(result, IMAGES)
    (mesh,) = next(ax for ax in figure.axes if ax.get_title() == "P(class)").collections
    corners = mesh.get_coordinates()
    heat = np.asarray(mesh.get_array()).reshape(result.grid)
    for index, (y0, x0, y1, x1) in enumerate(result.boxes.tolist()):
        row, col = divmod(index, result.grid[1])
        (left, top), (right, bottom) = corners[row, col], corners[row + 1, col + 1]
        assert left <= (x0 + x1) / 2 <= right and top <= (y0 + y1) / 2 <= bottom
        assert heat[row, col] == pytest.approx(float(result.target_probability[0, index]))


@pytest.mark.parametrize("times", [1, 3, 0.5])
def test_boxes_lie_where_they_are_on_pictures_of_another_size(projections, times):
    def rectangle(figure, index):
        (drawn,) = {(p.get_x(), p.get_y(), p.get_width()) for p in figure.axes[index].patches[:2]}
        return np.add(drawn, (0.5, 0.5, 0)) / (SIDE * times)

    images = np.zeros((5, int(SIDE * times), int(SIDE * times), 3))
    images[:, int(3 * times) : int(8 * times)] = 1
    figure = figures.occlusion_row(occlusion(), images)
    assert rectangle(figure, 0) * SIDE == pytest.approx((10, 10, 12))
    figure = figures.projection_grid(projections, images)
    left, top, side = rectangle(figure, 0) * SIDE
    assert 17 <= left <= 20 and 0 <= top <= 3 and 5 <= side <= 8
    inset = figure.axes[5].child_axes[1].images[0].get_array()
    assert inset.shape[0] == pytest.approx(side * times, abs=1) and inset.mean() > 0.5


def test_pictures_of_other_proportions_are_refused(projections, background):
    wide = np.zeros((5, SIDE, 2 * SIDE, 3))
    for draw, result in (
        (figures.occlusion_row, occlusion()),
        (figures.projection_grid, projections),
        (figures.background_effect, background),
        (figures.projection_patches, one_patch(torch.ones(3, 3, 3), torch.zeros(3, SIDE, SIDE))),
    ):
        with pytest.raises(ValueError, match=f"images of {SIDE}×{2 * SIDE} pixels: expected"):
            draw(result, wide)


def test_uint8_pictures_are_shown_as_they_are():
    image = np.full((1, SIDE, SIDE, 3), 100, np.uint8)
    image[0, 0] = 120  # stretched, this would be white and all else black
    shown = figures.occlusion_row(occlusion(), image).axes[0].images[0].get_array()
    assert np.allclose(shown[0], 120 / 255) and np.allclose(shown[1:], 100 / 255)


def test_where_the_model_says_nan_no_class_is_shown():
    """The argmax of NaN logits is a class nobody predicted: its place is grey in map and strip."""
    result = occlusion(nan=True)
    figure = figures.occlusion_row(result, class_names=CLASS_NAMES)
    titles = [ax.get_title() for ax in figure.axes]
    colours = np.asarray(
        figure.axes[titles.index("most probable label")].collections[0].get_array()
    )
    grey = to_rgb("#d9d9d9")
    assert (colours.reshape(-1, 3) == grey).all(-1).tolist() == [True] + [False] * 19
    assert "5% not a number" in [text.get_text() for text in drawn_texts(figure)]
    figure = figures.invariance_curve(invariance(nan=True), class_names=CLASS_NAMES)
    strip = next(ax for ax in figure.axes if ax.get_ylabel() == "label").collections[0]
    assert (np.asarray(strip.get_array()).reshape(-1, 3) == grey).all(-1).sum() == 1


def test_occlusion_of_an_unknown_layer():
    with pytest.raises(KeyError, match=r"'nope'.*features\.3"):
        figures.occlusion_row(occlusion(), layer="nope")


def test_predicted_labels_along_the_angle():
    """The strip's colour changes exactly where the predicted label does."""
    result = invariance(count=9, classes=8)
    figure = figures.invariance_curve(result, class_names=CLASS_NAMES)
    strip = next(ax for ax in figure.axes if ax.get_ylabel() == "label")
    colours = np.asarray(strip.collections[0].get_array()).reshape(-1, 3)
    labels = result.labels[0].numpy()
    same_colour = (colours[:, None] == colours[None]).all(-1)
    assert (same_colour == (labels[:, None] == labels[None])).all()


def test_squares_mark_what_a_unit_saw(projections):
    """The square drawn in the input surrounds exactly the speck that is the early projection."""
    figure = figures.projection_grid(projections)
    x, y, size = 20, 3, 5  # of the speck
    square = figure.axes[0].patches[0]
    left, top, side = (round(v + 0.5) for v in (*square.get_xy(), square.get_width()))
    assert x - 2 <= left <= x and y - 2 <= top <= y
    assert x + size <= left + side <= x + size + 2 and y + size <= top + side <= y + size + 2


def test_units_of_vectors_are_no_maps_and_have_names(projections):
    one, two, _ = projections.layers
    own = replace(projections, sizes={one: (150, 1, 1), two: (140, 1, 1)})
    figure = figures.projection_grid(own, class_names=tuple(f"kind {i}" for i in range(140)))
    captions = [ax.get_xlabel().split("\n")[0] for ax in figure.axes[::5]][:3]
    assert captions == ["unit 131", "unit 131: kind 131", "map 131 at (27, 28)"]


def test_outlines_at_the_edge_are_whole(projections):
    figure = figures.projection_grid(projections)
    squares = [patch for ax in figure.axes for patch in ax.patches]
    assert squares and not any(patch.get_clip_on() for patch in squares)


@pytest.mark.parametrize(
    ("outputs", "shown"),
    [("logits", ""), ("probabilities", "(the network's own)"), ("logit", "(sigmoid)"),
     ("probability", "(the network's own)"), ("value", "value")],
)  # fmt: skip
def test_figures_say_what_the_outputs_are(predictions, background, outputs, shown):
    """One output has no label to show; only probabilities end at 1; values are called values."""
    single = outputs in ("logit", "probability", "value")

    def of(result, **more):
        logits = result.logits.sigmoid() if outputs.startswith("prob") else result.logits
        logits = logits[..., 7:8] if single else logits
        target = {"target": torch.tensor([0])} if single and hasattr(result, "target") else {}
        return replace(result, logits=logits, outputs=outputs, **{**target, **more})

    row, curve = occlusion(), invariance()
    results = [
        of(predictions),
        of(row, base_logits=of(Predictions(row.base_logits)).logits),
        of(curve, base_logits=of(Predictions(curve.base_logits)).logits),
        of(background, **({"target": 0} if single else {})),
    ]
    for result in results:
        figure = result.plot()
        text = " ".join(t.get_text() for t in figure.findobj(Text)).replace("\n", " ")
        assert shown in text, type(result)
        assert ("probable" in text) <= (not single), type(result)
        assert ("P(" in text) <= (outputs != "value"), type(result)
        assert_tidy(figure)
        if single:  # it stands for the second of two classes, and for none where none is named
            assert not re.search(r"class 0|equally likely|\(\)", text), type(result)
            named = result.plot(class_names=("cat", "dog")).findobj(Text)
            text = " ".join(t.get_text() for t in named)
            assert "dog" in text and "cat" not in text, type(result)


SHOWING = """
import sys, torch
from zfcuda.results import Predictions
result = Predictions(torch.tensor([[1.0, 2.0]]))
first = result.plot()
import matplotlib.pyplot as plt
second = result.plot()
assert [plt.figure(n) for n in plt.get_fignums()] == [first, second]
plt.show()
plt.close("all")
own = plt.figure()  # takes the first one's number
for _ in range(21):
    result.plot()
assert len(plt.get_fignums()) == 20
assert plt.fignum_exists(own.number)
"""
BACKEND = """
from matplotlib.backend_bases import FigureManagerBase
from matplotlib.backends.backend_agg import FigureCanvasAgg

class Manager(FigureManagerBase):
    @classmethod
    def pyplot_show(cls, block=None):
        from matplotlib import pyplot
        print("shown", len(pyplot.get_fignums()))

class FigureCanvas(FigureCanvasAgg):
    manager_class = Manager
"""


def test_pyplot_shows_what_plot_draws_and_holds_few(tmp_path):
    (tmp_path / "screen.py").write_text(BACKEND)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", SHOWING],
        env=os.environ | {"MPLBACKEND": "module://screen", "PYTHONPATH": path},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "shown 2\n"), done.stderr


def test_nothing_is_shown_where_nothing_can_be(predictions, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert predictions.plot().canvas.manager is None  # and pyplot is not imported, see above


def test_a_notebook_shows_a_cells_figure_once(predictions, monkeypatch):
    shown = []
    display = types.SimpleNamespace(Image=bytes, display=shown.append)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    figures.prediction(predictions)._ipython_display_()
    assert [picture[:4] for picture in shown] == [b"\x89PNG"]
