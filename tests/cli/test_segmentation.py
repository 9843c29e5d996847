"""Objects cut out of a box: pictures whose objects are known."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
from PIL import Image

from zfcuda.cli.segmentation import segment

pytest.importorskip("skimage")


def scene(height=120, width=160, seed=0):
    """A striped ellipse with a hole on a mottled background, and where it is."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    ellipse = ((y - height / 2) / (0.3 * height)) ** 2 + ((x - width / 2) / (0.25 * width)) ** 2
    truth = (ellipse < 1) & ~((abs(y - height / 2) < 0.06 * height) & (abs(x - width / 2) < 8))
    stripes = np.where((x // 5 % 2 == 0)[..., None], [200, 60, 40], [240, 220, 120])
    ground = np.where((y > height * 0.6)[..., None], [90, 110, 80], [110, 140, 190])
    picture = np.where(truth[..., None], stripes, ground) + random.normal(0, 8, (height, width, 3))
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8)), truth


def overlap(mask, truth):
    """Intersection over union."""
    found = np.asarray(mask) > 127
    return (found & truth).sum() / (found | truth).sum()


@pytest.mark.parametrize(
    ("size", "box"),
    [((120, 160), (30, 15, 130, 105)), ((120, 160), None), ((480, 700), (120, 60, 580, 420)),
     ((60, 64), (4, 4, 60, 56))],
)  # fmt: skip
def test_an_object_is_found_in_its_box(size, box):
    picture, truth = scene(*size)
    mask = segment(picture, box)
    assert mask.mode == "L" and mask.size == picture.size
    assert overlap(mask, truth) > 0.9
    if box:
        outside = np.asarray(mask).copy()
        outside[box[1] : box[3], box[0] : box[2]] = 0
        assert not outside.any()


def test_plain_colours():
    """A picture without any noise: clusters of one colour, no differences to scale by."""
    picture = np.full((40, 50, 3), (20, 90, 200), dtype=np.uint8)
    picture[10:30, 15:35] = (250, 240, 230)
    truth = np.zeros((40, 50), dtype=bool)
    truth[10:30, 15:35] = True
    assert overlap(segment(Image.fromarray(picture)), truth) == 1


def test_the_same_picture_gives_the_same_mask():
    picture, _ = scene()
    box = (30, 15, 130, 105)
    first = np.random.get_state()[1].copy()
    assert segment(picture, box).tobytes() == segment(picture, box).tobytes()
    assert (np.random.get_state()[1] == first).all()


def test_any_mode_is_read():
    picture, truth = scene()
    assert overlap(segment(picture.convert("P"), (30, 15, 130, 105)), truth) > 0.8


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((0, 0, 160, 120), "must leave some background of the 160×120 picture"),
        ((10, 10, 10, 50), "expected left, top, right, bottom, in pixels within the 160×120"),
        ((-1, 0, 20, 20), r"box \(-1, 0, 20, 20\): expected"),
        ((0, 0, 20, 121), "expected left, top, right, bottom"),
    ],
)
def test_boxes_that_make_no_sense(box, message):
    with pytest.raises(ValueError, match=message):
        segment(scene()[0], box)


def test_a_box_without_an_object():
    with pytest.raises(ValueError, match="no object stands out in the box"):
        segment(Image.new("RGB", (60, 50), (90, 90, 90)), (10, 10, 50, 40))


def test_without_scikit_image_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **settings):
        if name.partition(".")[0] == "skimage":
            raise ModuleNotFoundError(name)
        return real(name, *arguments, **settings)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "zfcuda\[demo\]"'):
        segment(scene()[0])
