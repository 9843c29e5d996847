"""Preprocessing: pixels to network input and back."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from zfcuda.data import Preprocessing

IMAGENET = Preprocessing(size=8, resize=10)
CAFFE = Preprocessing(
    size=8, resize=None, mean=(104, 117, 123), std=(1, 1, 1), scale=255, channels="bgr"
)
BOTH = pytest.mark.parametrize("pre", [IMAGENET, CAFFE], ids=["imagenet", "caffe"])


def noise(height, width):
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


# --- geometry -------------------------------------------------------------------------------------


def test_centre_square_is_resized_whole():
    # Left and right thirds are lost; the middle, black above white, fills the result.
    image = Image.new("L", (24, 8), 128)
    image.paste(0, (8, 0, 16, 4))
    image.paste(255, (8, 4, 16, 8))
    fitted = np.asarray(CAFFE.fit(image))
    np.testing.assert_array_equal(fitted, np.repeat([[0], [255]], 4, axis=0).repeat(8, axis=1))


def test_shorter_side_is_resized_then_the_centre_cut_out():
    image = noise(10, 15)  # already at the size: only the crop remains
    cropped = np.asarray(image)[1:9, 4:12]  # (15 - 8) / 2 = 3.5 rounds to even
    np.testing.assert_array_equal(np.asarray(IMAGENET.fit(image)), cropped)


@given(st.integers(1, 60), st.integers(1, 60))
def test_any_picture_gives_the_size(height, width):
    for pre in (IMAGENET, CAFFE):
        x = pre.to_input(Image.new("RGB", (width, height)))
        assert x.shape == (1, 3, 8, 8) and x.dtype == torch.float32 and x.is_contiguous()


def test_shrinking_is_antialiased():
    stripes = np.zeros((64, 64), dtype=np.uint8)
    stripes[:, ::2] = 255
    for name in ("bilinear", "bicubic"):
        fitted = Preprocessing(size=8, resize=None, interpolation=name).fit(
            Image.fromarray(stripes)
        )
        assert np.abs(np.asarray(fitted).astype(int) - 127).max() <= 8


# --- values ---------------------------------------------------------------------------------------


def test_known_values():
    """Caffe's are blue first."""
    image = Image.new("RGB", (8, 8), (255, 0, 51))
    expected = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    torch.testing.assert_close(IMAGENET.to_input(image)[0, :, 3, 3], torch.tensor(expected))
    assert CAFFE.to_input(image)[0, :, 3, 3].tolist() == [51 - 104, 0 - 117, 255 - 123]


@BOTH
def test_values_are_those_of_the_formula_to_the_bit(pre):
    image = noise(37, 31)
    values = np.asarray(pre.fit(image), dtype=np.float32) / 255
    values = values if pre.channels == "rgb" else values[..., ::-1]
    values = (values * np.float32(pre.scale) - np.float32(pre.mean)) / np.float32(pre.std)
    x = pre.to_input(image)
    assert x.dtype == torch.float32 and x.is_contiguous() and x.shape == (1, 3, 8, 8)
    assert np.array_equal(x.numpy()[0], values.transpose(2, 0, 1))


@BOTH
def test_display_is_the_inverse(pre):
    image = noise(12, 9)
    shown = pre.to_display(pre.to_input(image))
    assert shown.shape == (1, 8, 8, 3) and shown.dtype == np.float32
    np.testing.assert_allclose(shown[0], np.asarray(pre.fit(image)) / 255, atol=1e-6)


@BOTH
def test_display_is_clipped_and_free_of_nan(pre):
    x = torch.full((1, 3, 1, 3), 1e4)
    x[..., 1], x[..., 2] = -1e4, float("nan")
    assert pre.to_display(x)[0, 0].tolist() == [[1, 1, 1], [0, 0, 0], [0, 0, 0]]


@BOTH
def test_plain_colour_equals_the_input_of_a_plain_picture(pre):
    value = pre.display_value((1.0, 0.0, 0.2))
    assert value.shape == (3,) and value.dtype == torch.float32
    torch.testing.assert_close(
        value, pre.to_input(Image.new("RGB", (8, 8), (255, 0, 51)))[0, :, 0, 0]
    )


# --- signals --------------------------------------------------------------------------------------


@BOTH
def test_signal_is_grey_at_zero_and_keeps_its_sign(pre):
    signal = torch.zeros(2, 3, 8, 8)
    signal[1, 0, 2, 5], signal[1, 2, 6, 1] = -4.0, 4.0
    shown = pre.signal_to_display(signal)
    assert (shown[0] == 0.5).all()  # no signal: no division by zero
    first, last = (0, 2) if pre.channels == "rgb" else (2, 0)
    assert shown[1, 2, 5, first] == 0 and shown[1, 6, 1, last] == 1
    assert (shown[1] == 0.5).sum() == 8 * 8 * 3 - 2


def test_signal_is_shown_in_proportion():
    signal = torch.zeros(1, 3, 1, 402)
    signal[0, 0, 0, 1:] = torch.linspace(0, 1, 401)  # its zeros do not count; 99.5 %: 0.995
    shown = IMAGENET.signal_to_display(signal)[0, 0, :, 0]
    np.testing.assert_allclose(shown[[1, 201, 301]], [0.5, 0.75126, 0.87689], atol=1e-4)


def test_signal_is_scaled_per_image_and_robustly():
    signal = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    signal[1] = 1000 * signal[0]
    signal[1, 0, 0, 0] = 1e9  # one outlier must not flatten the rest
    shown = IMAGENET.signal_to_display(signal)
    np.testing.assert_allclose(shown[1, 1:], shown[0, 1:], atol=1e-2)
    assert shown[1, 1:].std() > 0.1
    assert shown.min() == 0 and shown.max() == 1


def test_signal_that_is_not_finite_is_shown_as_zero():
    signal = torch.tensor([float("nan"), float("inf"), 1.0]).view(1, 3, 1, 1)
    assert IMAGENET.signal_to_display(signal)[0, 0, 0].tolist() == [0.5, 0.5, 1.0]


def test_displays_take_other_dtypes_and_leave_the_tensor_alone():
    x = torch.randn(1, 3, 4, 4, dtype=torch.bfloat16, requires_grad=True)
    before = x.detach().clone()
    assert IMAGENET.to_display(x).dtype == IMAGENET.signal_to_display(x).dtype == np.float32
    assert torch.equal(x.detach(), before)


# --- refusals -------------------------------------------------------------------------------------


def test_a_picture_that_would_become_too_large_is_refused(monkeypatch):
    """Resizing the shorter side of a thin one to 10 multiplies the other."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10 * 10 * 20)
    assert IMAGENET.fit(Image.new("L", (20, 1))).size == (8, 8)
    with pytest.raises(ValueError, match="a picture of 1×21 pixels is too narrow: with 10 on its"):
        IMAGENET.to_input(Image.new("RGB", (1, 21)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert IMAGENET.fit(Image.new("L", (1, 21))).size == (8, 8)


def test_an_array_is_not_a_picture():
    with pytest.raises(TypeError, match=r"expected a PIL image, got ndarray .*fromarray"):
        IMAGENET.to_input(np.zeros((8, 8, 3), dtype=np.uint8))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 8, 8, 3)])
def test_wrong_shapes_are_named(shape):
    for show in (IMAGENET.to_display, IMAGENET.signal_to_display):
        with pytest.raises(ValueError, match=r"expected \[N, 3, H, W\]") as caught:
            show(torch.zeros(shape))
        assert str(list(shape)) in str(caught.value)


@pytest.mark.parametrize(
    "colour", [(1.0, 0.0), (0.0, 0.0, 1.1), (-0.1, 0, 0), (0, float("nan"), 0)]
)
def test_colours_outside_the_unit_range_are_refused(colour):
    with pytest.raises(ValueError, match="expected three numbers"):
        IMAGENET.display_value(colour)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 0),
        ("resize", 223),
        ("std", (1, 0, 1)),
        ("mean", (0, 0)),
        ("scale", 0),
        ("channels", "gbr"),
        ("interpolation", "lanczos"),
    ],
)
def test_impossible_settings_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field}.*expected"):
        Preprocessing(**{field: value})


# --- inputs that are not square -------------------------------------------------------------------


def test_a_pair_is_height_and_width():
    wide = Preprocessing(size=(8, 32), resize=None)
    assert (wide.shape, wide.height, wide.width) == ((8, 32), 8, 32)
    assert wide.to_input(noise(40, 50)).shape == (1, 3, 8, 32)
    assert Preprocessing(size=(8, 8), resize=None) == Preprocessing(size=8, resize=None)
    assert Preprocessing(size=np.int64(8), resize=None).size == 8
    with pytest.raises(ValueError, match="size 8x32: expected a square input"):
        _ = wide.side
    assert Preprocessing(size=8, resize=None).side == 8


@pytest.mark.parametrize(("height", "width"), [(10, 60), (60, 10), (20, 80), (1, 1)])
def test_the_largest_centred_part_of_its_proportions(height, width):
    wide = Preprocessing(size=(8, 32), resize=None, interpolation="nearest")
    ramp = np.linspace(0, 255, width).round().astype(np.uint8)
    fitted = np.asarray(wide.fit(Image.fromarray(np.tile(ramp, (height, 1)))))
    assert fitted.shape == (8, 32)
    used = min(width, height * 4)  # columns
    middle = (width - used) // 2
    assert abs(int(fitted[0, 0]) - int(ramp[middle])) <= 255 / max(width - 1, 1) * (used / 32 + 1)
    assert fitted[0, 0].astype(int) + fitted[0, -1] == pytest.approx(
        255 if width > 1 else 0, abs=30
    )


def test_resized_first_a_part_that_is_not_square_is_cut_out():
    wide = Preprocessing(size=(4, 8), resize=10)
    image = noise(10, 15)  # already at the size
    assert np.array_equal(np.asarray(wide.fit(image)), np.asarray(image)[3:7, 4:12])
    with pytest.raises(ValueError, match="resize 7: expected at least the size 8"):
        Preprocessing(size=(4, 8), resize=7)


def test_sizes_are_bounded():
    with pytest.raises(ValueError, match="size 20000x20000: expected at most 89,478,485 pixels"):
        Preprocessing(size=20000, resize=None)
