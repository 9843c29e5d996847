"""`zfcuda background`: where the object is told from."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from zfcuda import cli
from zfcuda.cli.commands.background import cut_out
from zfcuda.results import BackgroundResult

pytestmark = pytest.mark.usefixtures("tiny")


def run(*arguments):
    return cli.main(["background", "--model", "tiny", "--layer", "2", *map(str, arguments)])


def square(low=0, high=255):
    """A mask of 40 x 48 pixels."""
    mask = np.full((40, 48), low, dtype=np.uint8)
    mask[10:30, 14:34] = high
    return mask


@pytest.fixture
def transparent(photo):
    """A picture whose alpha channel is that square."""
    path = photo("cut.png")
    picture = Image.open(path).convert("RGB")
    picture.putalpha(Image.fromarray(square()))
    picture.save(path)
    return path


def expected():
    """The square as the network's input of 32 pixels shows it: the middle 40, resized."""
    box = (4, 0, 44, 40)
    fitted = Image.fromarray(square()).resize((32, 32), Image.Resampling.BILINEAR, box=box)
    return np.asarray(fitted, dtype=np.float32) / 255


def test_the_alpha_channel_tells(transparent, tmp_path, capsys):
    assert run("--image", transparent, "--out", tmp_path / "out", "--target", "dog") == 0
    captured = capsys.readouterr()
    assert "the object is told by its alpha channel" in captured.err
    result = BackgroundResult.load(tmp_path / "out" / "cut-background")
    assert result.variants == ("original", "on black", "on white", "on blue", "cut-out")
    assert result.target == 1 and [*result.projections] == ["2"]
    np.testing.assert_allclose(result.mask.numpy(), expected(), atol=1e-6)
    about = json.loads((tmp_path / "out" / "cut-background.json").read_text())
    assert about["provenance"]["settings"]["object"] == "its alpha channel"


@pytest.mark.parametrize("transparent", [False, True])
def test_a_mask_file_tells(photo, tmp_path, transparent):
    """What is transparent in it is no object: as programs save a white object on nothing."""
    mask = Image.fromarray(square())
    if transparent:
        mask = Image.new("LA", (48, 40), (255, 0))
        mask.putalpha(Image.fromarray(square()))
    mask.save(tmp_path / "mask.png")
    arguments = ["--image", photo(), "--mask", tmp_path / "mask.png", "--quiet"]
    assert run(*arguments, "--colour", "red", "#00ff00", "--out", tmp_path / "out") == 0
    result = BackgroundResult.load(tmp_path / "out" / "photo-background")
    assert result.variants == ("original", "on red", "on #00ff00", "cut-out")
    np.testing.assert_allclose(result.mask.numpy(), expected(), atol=1e-6)


def test_a_box_tells(tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 60, (40, 48, 3))
    pixels[square() > 0] += 180
    path = tmp_path / "thing.png"
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    for where, source in (
        (["--box", "8,4,42,36"], "its colours and edges in the box"),
        ([], "what stands out in the middle"),
    ):
        assert run("--image", path, *where, "--out", tmp_path / "out") == 0
        assert source in capsys.readouterr().err
        found = BackgroundResult.load(tmp_path / "out" / "thing-background").mask.numpy() > 0.5
        assert (found & (expected() > 0.5)).sum() / (found | (expected() > 0.5)).sum() > 0.9


# --- objects cut out of a box ---------------------------------------------------------------------


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
    mask = cut_out(picture, box)
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
    assert overlap(cut_out(Image.fromarray(picture)), truth) == 1


def test_the_same_picture_gives_the_same_mask():
    picture, _ = scene()
    box = (30, 15, 130, 105)
    first = np.random.get_state()[1].copy()
    assert cut_out(picture, box).tobytes() == cut_out(picture, box).tobytes()
    assert (np.random.get_state()[1] == first).all()


def test_any_mode_is_read():
    picture, truth = scene()
    assert overlap(cut_out(picture.convert("P"), (30, 15, 130, 105)), truth) > 0.8


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
        cut_out(scene()[0], box)


def test_a_box_without_an_object():
    with pytest.raises(ValueError, match="no object stands out in the box"):
        cut_out(Image.new("RGB", (60, 50), (90, 90, 90)), (10, 10, 50, 40))


def test_without_opencv_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "zfcuda\[demo\]"'):
        cut_out(scene()[0])
