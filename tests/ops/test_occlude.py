"""occlude against the reference: bytes are copied, so equality is exact."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import DTYPES, LAYOUTS, image

from zfcuda import ops
from zfcuda.ops import reference

BOXES = torch.tensor(
    [
        [0, 0, 3, 4],
        [5, 7, 9, 12],  # ends at the lower right corner
        [-4, -5, 2, 3],  # hangs over the upper left
        [7, 8, 90, 120],
        [0, 0, 9, 12],  # everything
        [3, 3, 3, 9],  # empty
        [6, 6, 2, 2],  # inside out: empty
        [50, 60, 70, 80],  # beside the image
        [-(2**62), -(2**62), 2**62, 2**62],
    ]
)


def fills(x):
    channels = x.shape[1]
    return {
        "number": torch.full((channels,), 0.5, dtype=x.dtype, device=x.device),
        "per channel": torch.arange(channels, device=x.device).to(x.dtype),
        "image": torch.randn(x.shape[1:], device=x.device).to(x.dtype),
    }


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_equals_reference(place, dtype, layout):
    for channels, size in ((3, (9, 12)), (1, (5, 5)), (16, (9, 12)), (3, (33, 40))):
        x = image(2, channels, size, dtype, layout, device=place.device)
        boxes = BOXES.to(place.device)
        for name, fill in fills(x).items():
            out = place.op("occlude")(x, boxes, fill)
            assert torch.equal(out, reference.occlude(x, boxes, fill)), name
            assert out[0].is_contiguous(memory_format=layout)


@given(
    boxes=st.lists(st.tuples(*[st.integers(-20, 40)] * 4), min_size=1, max_size=5),
    channels=st.sampled_from([1, 3, 4, 8]),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    namespace=st.sampled_from(["zfcuda", "zfcuda_host"]),
    layout=st.sampled_from(list(LAYOUTS.values())),
    seed=st.integers(0, 100),
)
def test_any_boxes(boxes, channels, size, namespace, layout, seed):
    torch.manual_seed(seed)
    x = image(1, channels, size, torch.float32, layout)
    boxes = torch.tensor(boxes)
    for fill in fills(x).values():
        out = getattr(torch.ops, namespace).occlude(x, boxes, fill)
        assert torch.equal(out, reference.occlude(x, boxes, fill))


def test_fill_forms():
    x = image(1, 3, (9, 12), torch.float32)
    expected = reference.occlude(x, BOXES, torch.full((3,), 0.5))
    for fill in (0.5, torch.tensor(0.5), torch.full((3,), 0.5), torch.full((3, 9, 12), 0.5)):
        assert torch.equal(ops.occlude(x, BOXES, fill), expected)


def test_nan_survives_outside_the_box():
    x = torch.full((1, 1, 4, 4), torch.nan)
    out = ops.occlude(x, torch.tensor([[0, 0, 2, 4]]), 1.0)
    assert out[0, 0, 0, :2].eq(1).all() and out[0, 0, 0, 2:].isnan().all()


def test_empty(place):
    x = image(2, 3, (4, 4), torch.float32, device=place.device)
    fill = torch.zeros(3, device=place.device)
    no_boxes = torch.empty(0, 4, dtype=torch.int64, device=place.device)
    assert place.op("occlude")(x, no_boxes, fill).shape == (2, 0, 3, 4, 4)
    assert place.op("occlude")(x[:0], BOXES.to(place.device), fill).shape == (0, 9, 3, 4, 4)
