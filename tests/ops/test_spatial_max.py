"""spatial_max against the reference: nothing is computed, so equality is exact."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import DTYPES, LAYOUTS, image

from zfcuda.ops import reference


def same(found, expected):
    (values, places), (wanted, wanted_places) = found, expected
    assert values.dtype == wanted.dtype and places.dtype == torch.int64
    assert torch.equal(places, wanted_places)
    assert torch.equal(values.isnan(), wanted.isnan())
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()]
    there = ~values.isnan()
    assert torch.equal(values[there].view(bits), wanted[there].view(bits)), "zeros keep their sign"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_equals_reference(place, dtype, layout):
    """Around the sizes at which stretches and blocks of channels change."""
    cases = [(1, (1, 1)), (3, (5, 7)), (37, (13, 13)), (64, (7, 3)), (70, (17, 15)), (130, (2, 2))]
    for channels, size in [*cases, (2, (91, 91)), (5, (40, 33)), (16, (16, 16))]:
        for ties in (False, True):
            x = image(2, channels, size, dtype, layout, ties=ties, device=place.device)
            same(place.op("spatial_max")(x), reference.spatial_max(x))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_the_first_nan_wins_over_everything(place, layout):
    for channels in (2, 20):
        x = image(3, channels, (30, 31), torch.float32, layout, device=place.device)
        x[0, 1, 20, 5] = x[0, 1, 29, 30] = torch.nan
        x[1, 0, 0, 0] = x[1, 1, 29, 30] = torch.nan
        x[2, 0, 3, 3] = torch.inf
        x[2, 0, 4, 4] = x[2, 1, 12, 1] = torch.nan
        x[2, 0, 2, 2] = -torch.inf
        values, places = place.op("spatial_max")(x)
        same((values, places), reference.spatial_max(x))
        assert places[:, :2].tolist() == [
            [int(x[0, 0].argmax()), 20 * 31 + 5],
            [0, 29 * 31 + 30],
            [4 * 31 + 4, 12 * 31 + 1],
        ]


def test_one_value_everywhere(place):
    for value in (0.0, -torch.inf, torch.inf, torch.nan):
        for layout in LAYOUTS.values():
            x = torch.full((2, 17, 9, 40), value, device=place.device)
            values, places = place.op("spatial_max")(x.contiguous(memory_format=layout))
            assert not places.any()
            torch.testing.assert_close(values, x[..., 0, 0], rtol=0, atol=0, equal_nan=True)


def test_zeros_are_equal_whatever_their_sign(place):
    for layout in LAYOUTS.values():
        x = torch.zeros(1, 16, 4, 5, device=place.device).contiguous(memory_format=layout)
        x[:, ::2, 0, 0] = -0.0
        values, places = place.op("spatial_max")(x)
        assert not places.any() and torch.equal(values.signbit(), x[..., 0, 0].signbit())


@given(
    channels=st.sampled_from([1, 3, 4, 8, 16, 31, 65]),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    namespace=st.sampled_from(["zfcuda", "zfcuda_host"]),
    layout=st.sampled_from(list(LAYOUTS.values())),
    dtype=st.sampled_from(DTYPES),
    nans=st.integers(0, 5),
    seed=st.integers(0, 100),
)
def test_any_maps(channels, size, namespace, layout, dtype, nans, seed):
    torch.manual_seed(seed)
    x = image(2, channels, size, dtype, layout, ties=True)
    for _ in range(nans):
        x[tuple(torch.randint(0, length, ()) for length in x.shape)] = torch.nan
    same(getattr(torch.ops, namespace).spatial_max(x), reference.spatial_max(x))


def test_any_strides(place):
    x = image(2, 6, (9, 24), torch.float32, device=place.device)
    for view in (x[..., ::2], x.transpose(2, 3), x[:, 1:4], x.expand(2, 6, 9, 24)[:1]):
        same(place.op("spatial_max")(view), reference.spatial_max(view))


def test_empty(place):
    x = image(2, 3, (4, 4), torch.float32, device=place.device)
    assert [t.shape for t in place.op("spatial_max")(x[:0])] == [(0, 3), (0, 3)]
    assert [t.shape for t in place.op("spatial_max")(x[:, :0])] == [(2, 0), (2, 0)]
    with pytest.raises(ValueError, match="without elements"):
        place.op("spatial_max")(x[:, :, :0])
