"""max_unpool2d against the reference, torch, and its own transpose."""

import pytest
import torch
import torch.nn.functional as F
from strategies import DTYPES, LAYOUTS, WINDOWS, fits, has_layout, image, sizes_and_channels

from zfcuda import ops
from zfcuda.ops import reference


def pooled(
    size, window, dtype=torch.float32, layout=torch.contiguous_format, channels=16, device="cpu"
):
    """A signal and real switches of an image of ``size``."""
    x = image(2, channels, size, dtype, layout, device=device)
    y, switches = reference.max_pool2d(x, *window)
    signal = torch.randn(y.shape, dtype=torch.float64).to(dtype).to(device)
    return (
        signal.contiguous(memory_format=layout),
        switches.contiguous(memory_format=layout),
    )


@pytest.mark.parametrize("overwrite", [False, True], ids=["sum", "overwrite"])
@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS.keys())
def test_equals_reference(place, window, overwrite):
    tried = 0
    for size, channels in sizes_and_channels(window, overwrite):
        for name, layout in LAYOUTS.items():
            if fits(size, window):
                y, switches = pooled(
                    size, window, layout=layout, channels=channels, device=place.device
                )
                for relu in (False, True):
                    x = place.op("max_unpool2d")(
                        y, switches, *window[:4], list(size), relu, overwrite, False
                    )
                    expected = reference.max_unpool2d(
                        y, switches, *window[:4], size, relu, "overwrite" if overwrite else "sum"
                    )
                    # Bit for bit: the order in which windows add up is part of the op.
                    assert torch.equal(x, expected), f"{size} {channels} {name} {relu}"
                    assert has_layout(x, layout)
                    tried += 1
    assert tried >= 4


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(place, dtype):
    for window in WINDOWS.values():
        if window[0][0] > 5 or not fits((13, 35), window):
            continue
        for layout in LAYOUTS.values():
            y, switches = pooled((13, 35), window, dtype, layout, device=place.device)
            x = place.op("max_unpool2d")(y, switches, *window[:4], [13, 35], True, False, True)
            expected = reference.max_unpool2d(y, switches, *window[:4], (13, 35), True)
            assert x.dtype == dtype and torch.equal(x, expected)


def test_equals_torch_where_windows_do_not_overlap():
    x = image(2, 8, (24, 36), torch.float32)
    y, switches = ops.max_pool2d(x, 2)
    z, indices = F.max_pool2d(x, 2, return_indices=True)
    assert torch.equal(ops.max_unpool2d(y, switches, 2), F.max_unpool2d(z, indices, 2))


def test_sum_is_the_transpose_of_pooling():
    """<pool(x), s> for fixed switches is linear in x, and unpooling s is its transpose."""
    x = image(2, 8, (24, 35), torch.float64)
    y, switches = ops.max_pool2d(x, 3, 2, 1)
    s = torch.randn_like(y)
    unpooled = ops.max_unpool2d(s, switches, 3, 2, 1, output_size=x.shape[-2:])
    torch.testing.assert_close((unpooled * x).sum(), (s * y).sum())


def test_default_output_size():
    y = torch.ones(1, 1, 4, 5)
    switches = torch.zeros(1, 1, 4, 5, dtype=torch.uint8)
    assert ops.max_unpool2d(y, switches, 3, 2).shape == (1, 1, 9, 11)
    assert ops.max_unpool2d(y, switches, 3, 2, output_size=(1, 1, 10, 12)).shape == (1, 1, 10, 12)


def test_out_of_range_switches(place):
    """On the CPU they raise; in the CUDA path they unpool to nothing unless checked."""
    y, switches = pooled((16, 67), WINDOWS["3/2 overlapping"], device=place.device)
    switches[0, 0, 0, 0] = 200
    arguments = ([3, 3], [2, 2], [0, 0], [1, 1], [16, 67], False, False)
    message = "switch 200 is no tap of a window with 9 taps"
    unpool = place.op("max_unpool2d")
    if place.name == "cpu":
        with pytest.raises(ValueError, match=message):
            unpool(y, switches, *arguments, False)
        return
    with pytest.raises(ValueError, match=message):
        unpool(y, switches, *arguments, True)
    x = unpool(y, switches, *arguments, False)
    y[0, 0, 0, 0] = 0
    switches[0, 0, 0, 0] = 0
    assert torch.equal(x, unpool(y, switches, *arguments, False))


# size, kernel, stride, padding, dilation, output_size; all lose values in their last row or column.
SHORT = [
    ((8, 8), 3, 2, 1, 1, None),
    ((9, 8), 3, 2, 1, 1, None),
    ((8, 9), 3, 2, 1, 1, None),
    ((112, 112), 3, 2, 1, 1, None),
    ((10, 10), 4, 3, 2, 1, None),
    ((12, 12), 5, 2, 2, 1, None),
    ((9, 9), 3, 3, 1, 1, None),
    ((12, 12), 3, 2, 1, 2, None),
    ((4, 4), 2, 2, 0, 1, (3, 3)),
    ((4, 4), 2, 2, 0, 1, (4, 3)),
    ((44, 44), 16, 8, 8, 1, None),
]


@pytest.mark.parametrize("case", SHORT, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_an_output_too_small_for_the_switches_is_refused(place, layout, case):
    """As torch refuses it: what they point to would be lost."""
    size, kernel, stride, padding, dilation, short = case
    window = [[v, v] for v in (kernel, stride, padding, dilation)]
    x = 1 + image(2, 20, size, torch.float32, layout, device=place.device).abs()
    y, switches = place.op("max_pool2d")(x, *window, False, False)
    if short is None:
        short = [(n - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1 for n in y.shape[2:]]
    unpool = place.op("max_unpool2d")
    sentence = r"points to (row|column) \d+ of an output of size \[.*; give output_size"
    with pytest.raises(ValueError, match=sentence):
        unpool(y, switches, *window, short, False, False, True)
    if place.name == "cpu":
        with pytest.raises(ValueError, match=sentence):
            unpool(y, switches, *window, short, False, False, False)
    kept = unpool(y, switches, *window, size, False, False, True)
    torch.testing.assert_close(kept.sum(), y.sum())
    none = torch.full_like(switches, -1 if switches.dtype == torch.int32 else 255)
    assert unpool(y, none, *window, short, False, False, True).eq(0).all()


@pytest.mark.parametrize("wrong", [-2, -(2**31), 256, 2**31 - 1])
def test_wide_switches_out_of_range_carry_no_gradient(place, wrong):
    window = WINDOWS["16x16: more taps than a byte"]
    y, switches = pooled((16, 67), window, channels=1, device=place.device)
    grad = torch.randn(2, 1, 16, 67, device=place.device)
    switches = torch.full_like(switches, wrong)
    ours = place.op("max_unpool2d_backward")(grad, switches, None, *window[:4], False)
    assert ours.shape == y.shape and ours.eq(0).all()


def test_tampered_switches_never_write_outside(place):
    """Any tap numbers at all: those that point outside the image raise, or unpool to nothing."""
    y, _ = pooled((16, 67), WINDOWS["3/2 padded ceil"], device=place.device)
    switches = torch.randint(0, 9, y.shape, dtype=torch.uint8, device=place.device)
    arguments = ([3, 3], [2, 2], [1, 1], [1, 1], [16, 67], False, False)
    unpool = place.op("max_unpool2d")
    with pytest.raises(ValueError, match="a switch points to row -1 of an output of size"):
        unpool(y, switches, *arguments, True)
    if place.name == "cpu":
        return
    x = unpool(y, switches, *arguments, False)
    expected = reference.max_unpool2d(y, switches, (3, 3), (2, 2), (1, 1), (1, 1), (16, 67))
    assert torch.equal(x, expected)


def test_nan_in_the_signal_stays_in_its_place(place):
    y, switches = pooled((16, 67), WINDOWS["3/2 overlapping"], device=place.device)
    y[0, 0, 2, 3] = torch.nan
    x = place.op("max_unpool2d")(
        y, switches, [3, 3], [2, 2], [0, 0], [1, 1], [16, 67], True, False, False
    )
    assert x.isnan().sum() == 1


@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize("overlap", ["sum", "overwrite"])
@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS.keys())
def test_backward(place, window, overlap, relu):
    """Against autograd through the reference, which scatters where the kernels gather."""
    for layout in LAYOUTS.values():
        y, switches = pooled((19, 24), window, torch.float64, layout, 5, place.device)
        y.requires_grad_()
        x = reference.max_unpool2d(y, switches, *window[:4], (19, 24), relu, overlap)
        grad = torch.randn_like(x).contiguous(memory_format=layout)
        (expected,) = torch.autograd.grad(x, y, grad)
        ours = place.op("max_unpool2d_backward")(
            grad,
            switches,
            x.detach() if relu else None,
            *window[:4],
            overlap == "overwrite",
        )
        torch.testing.assert_close(ours, expected, rtol=0, atol=0)
        assert has_layout(ours, layout)
