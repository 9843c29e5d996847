"""Reading pictures: every kind of file becomes 8-bit RGB or one sentence that names the file."""

import io
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import zfcuda
from zfcuda.data import IMAGE_SUFFIXES, list_images, read_alpha, read_image, to_rgb
from zfcuda.data.reading import FORMATS, opened
from zfcuda.report.page import picture_of


def saved(tmp_path, image, name="picture.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def pixels(image):
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.fixture
def colours():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)


# --- what is read ---------------------------------------------------------------------------------


def test_rgb_is_read_as_it_is(tmp_path, colours):
    path = saved(tmp_path, Image.fromarray(colours))
    np.testing.assert_array_equal(pixels(read_image(path)), colours)
    np.testing.assert_array_equal(pixels(read_image(str(path))), colours)


def palette(*colours):
    image = Image.new("P", (len(colours), 1))
    image.putpalette([value for colour in colours for value in colour])
    image.putdata(range(len(colours)))
    return image


GREY = np.array([[0, 255], [255, 0]], dtype=np.uint8)
WIDE = Image.fromarray(np.array([[0, 256, 257 * 100, 65535]], dtype=np.uint16))
SCALED = [[[0] * 3, [1] * 3, [100] * 3, [255] * 3]]  # not clipped
COLOURS = [(200, 10, 30), (4, 250, 6)]


@pytest.mark.parametrize(
    ("name", "image", "expected"),
    [
        ("bilevel.png", Image.fromarray(GREY).convert("1"), np.stack([GREY] * 3, axis=-1)),
        ("grey.png", Image.fromarray(GREY), np.stack([GREY] * 3, axis=-1)),
        ("palette.png", palette(*COLOURS), [COLOURS]),
        ("16 bits.png", WIDE, SCALED),
        ("16 bits.tif", WIDE, SCALED),
    ],
)
def test_other_modes_become_eight_bit_rgb(tmp_path, name, image, expected):
    np.testing.assert_array_equal(pixels(read_image(saved(tmp_path, image, name))), expected)


def test_wide_grey_modes():
    integer = Image.fromarray(np.array([[0, 65535]], dtype=np.int32))
    real = Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
    assert (integer.mode, real.mode) == ("I", "F")
    assert pixels(to_rgb(integer))[0, :, 1].tolist() == [0, 255]
    assert pixels(to_rgb(real))[0, :, 2].tolist() == [0, 128, 255]


@pytest.mark.parametrize("value", [-1.0, 1.5, np.nan])
def test_float_grey_outside_the_unit_range_is_refused(tmp_path, value):
    image = Image.fromarray(np.array([[0.5, value]], dtype=np.float32))
    path = saved(tmp_path, image, "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif.* in mode F: expected 0 to 1$"):
        read_image(path)


def test_cmyk(tmp_path):
    path = saved(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "red.jpg")
    red, green, blue = pixels(read_image(path)).mean(axis=(0, 1))
    assert red > 245 and green < 10 and blue < 10


@pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA", "La"])
def test_alpha_is_composited_on_white(mode):
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 51))
    image.putpixel((2, 0), (0, 0, 0, 0))
    if mode != "RGBA":
        image = image.convert("LA").convert("La") if mode == "La" else image.convert(mode)
    assert image.mode == mode
    assert pixels(to_rgb(image))[0, :, 0].tolist() == [0, 204, 255]


@pytest.mark.parametrize(("mode", "key"), [("P", 0), ("L", 10), ("RGB", (10, 10, 10))])
def test_transparent_colour_becomes_white(tmp_path, mode, key):
    image = Image.new(mode, (2, 1), key)
    if mode == "P":
        image.putpalette([10, 10, 10, 90, 90, 90])
    image.putpixel((1, 0), {"P": 1, "L": 90, "RGB": (90, 90, 90)}[mode])
    path = saved(tmp_path, image, transparency=key)
    assert pixels(read_image(path))[0, :, 0].tolist() == [255, 90]
    assert np.asarray(read_alpha(path)).tolist() == [[0, 255]]


def test_alpha_of_an_opaque_picture_is_none(tmp_path, colours):
    assert read_alpha(saved(tmp_path, Image.fromarray(colours))) is None


def test_exif_orientation_is_applied_to_picture_and_alpha(tmp_path, colours):
    image = Image.fromarray(colours).convert("RGBA")
    image.putalpha(Image.fromarray(colours[..., 0]))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    path = saved(tmp_path, image, exif=exif)
    assert read_image(path).size == (6, 9)
    np.testing.assert_array_equal(np.asarray(read_alpha(path)), np.rot90(colours[..., 0], -1))


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    path = saved(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:])
    assert pixels(read_image(path))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_suffix_is_of_a_format_that_is_read(tmp_path, suffix):
    mode = "L" if suffix == ".pgm" else "RGB"
    path = saved(tmp_path, Image.new(mode, (16, 16), "white"), f"a{suffix}")
    assert read_image(path).getpixel((3, 3)) == (255, 255, 255)
    assert list_images(tmp_path) == [path]


# --- what is refused ------------------------------------------------------------------------------


def refused(path, match):
    for read in (read_image, read_alpha):
        with pytest.raises(ValueError, match=match) as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_what_is_no_image(tmp_path):
    refused(tmp_path / "no.png", "does not exist")
    refused(tmp_path, "is a folder: expected an image file")
    for content in (b"", b"hello", b"\x89PNG\r\n\x1a\n"):
        (tmp_path / "a.png").write_bytes(content)
        refused(tmp_path / "a.png", "is not an image")


def test_no_other_program_is_started(tmp_path, monkeypatch):
    """Pillow goes by a file's first bytes and gives EPS to Ghostscript."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'called'}\necho 10.0\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    path = tmp_path / "cat.png"
    path.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    )
    refused(path, rf"is not an image of a format that is read here \({', '.join(FORMATS)}\)")
    assert picture_of(path, tmp_path, small=False).thumbnail == ""
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize("kind", ["ico", "tga", "psd", "pcx", "icns", "dds"])
def test_other_formats_are_not_decoded(tmp_path, kind):
    path = tmp_path / "a.png"
    if kind == "psd":
        path.write_bytes(b"8BPS\0\1" + bytes(20))
    else:
        Image.new("RGB", (16, 16)).save(path, kind)
    refused(path, "is not an image")
    with pytest.raises(Image.UnidentifiedImageError), opened(path):
        pass


def test_nothing_is_opened_by_any_format():
    """Every Image.open names the formats that it takes."""
    package = Path(zfcuda.__file__).parent
    for file in package.rglob("*.py"):
        for call in re.findall(r"\b(?:Image\.open|imread)\((.*)", file.read_text("utf-8")):
            assert "formats=" in call, file


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp", "tiff", "webp"])
@pytest.mark.parametrize("part", [0.25, 0.6, 0.9])
def test_truncated_image(tmp_path, kind, part):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, kind)
    path = tmp_path / f"a.{kind}"
    path.write_bytes(buffer.getvalue()[: int(part * buffer.tell())])
    refused(path, "cannot be read as an image|is not an image")


def test_decompression_bomb(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("1", (100, 100)))
    for limit in (9_999, 4_000):  # Pillow warns above its limit and raises above twice of it
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        refused(path, rf"more than {limit:,} pixels \(PIL.Image.MAX_IMAGE_PIXELS\)")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    assert read_image(path).size == (100, 100)


# --- folders --------------------------------------------------------------------------------------


def test_list_images(tmp_path):
    for name in ("b.PNG", "a.jpeg", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.jpeg", "b.PNG"]
    with pytest.raises(ValueError, match="does not exist: expected a folder"):
        list_images(tmp_path / "no")
    with pytest.raises(ValueError, match="is a file: expected a folder"):
        list_images(tmp_path / "notes.txt")
