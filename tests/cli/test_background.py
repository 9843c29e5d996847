"""`zfcuda background`: where the object is told from."""

import json

import numpy as np
import pytest
from PIL import Image

from zfcuda import cli
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
def cut_out(photo):
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


def test_the_alpha_channel_tells(cut_out, tmp_path, capsys):
    assert run("--image", cut_out, "--out", tmp_path / "out", "--target", "dog") == 0
    captured = capsys.readouterr()
    assert "the object is told by its alpha channel" in captured.err
    result = BackgroundResult.load(tmp_path / "out" / "cut-background")
    assert result.variants == ("original", "on black", "on white", "on blue", "cut-out")
    assert result.target == 1 and [*result.projections] == ["2"]
    np.testing.assert_allclose(result.mask.numpy(), expected(), atol=1e-6)
    about = json.loads((tmp_path / "out" / "cut-background.json").read_text())
    assert about["provenance"]["settings"]["object"] == "its alpha channel"


def test_a_mask_file_tells(photo, tmp_path):
    mask = tmp_path / "mask.png"
    Image.fromarray(square()).save(mask)
    arguments = ["--image", photo(), "--mask", mask, "--colour", "red", "#00ff00", "--quiet"]
    assert run(*arguments, "--out", tmp_path / "out") == 0
    result = BackgroundResult.load(tmp_path / "out" / "photo-background")
    assert result.variants == ("original", "on red", "on #00ff00", "cut-out")
    np.testing.assert_allclose(result.mask.numpy(), expected(), atol=1e-6)


def test_what_is_transparent_in_a_mask_file_is_no_object(photo, tmp_path):
    """As programs save a white object on nothing."""
    mask = Image.new("LA", (48, 40), (255, 0))
    mask.putalpha(Image.fromarray(square()))
    mask.save(tmp_path / "mask.png")
    arguments = ["--image", photo(), "--mask", tmp_path / "mask.png", "--quiet"]
    assert run(*arguments, "--out", tmp_path / "out") == 0
    result = BackgroundResult.load(tmp_path / "out" / "photo-background")
    np.testing.assert_allclose(result.mask.numpy(), expected(), atol=1e-6)


def test_a_box_tells(tmp_path, capsys):
    pytest.importorskip("skimage")
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


def test_what_is_wrong_is_said_in_one_line(photo, cut_out, tmp_path, capsys):
    small, empty = tmp_path / "small.png", tmp_path / "empty.png"
    Image.new("L", (7, 9), 255).save(small)
    Image.fromarray(np.zeros((40, 48), dtype=np.uint8)).save(empty)
    image = photo()
    for arguments, message in (
        (["--image", image, "--mask", small], "has 7×9 pixels, "),
        (["--image", image, "--mask", empty], "the mask leaves nothing"),
        (["--image", image, cut_out, "--mask", small], "--mask is that of one image, 2 are given"),
        (["--image", image, "--mask", small, "--box", "1,2,3,4"], "not allowed with argument"),
        (["--image", image, "--box", "1,2,3"], "expected LEFT,TOP,RIGHT,BOTTOM"),
        (["--image", image, "--box", "0,0,90,10"], "within the 48×40 picture"),
        (["--image", cut_out, "--colour", "reddish"], "--colour 'reddish': expected a colour"),
        ([], "background needs --image FILE"),
    ):
        assert run(*arguments, "--out", tmp_path / "out", "--quiet") == 2
        assert message in capsys.readouterr().err
    assert not [*tmp_path.glob("out/*")]
