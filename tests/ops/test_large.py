"""Tensors past 2^30 and 2^31 elements, where indices no longer fit 32 bits."""

import pytest
import torch

from zfcuda import reference

pytestmark = pytest.mark.slow


def test_pool_and_unpool_past_int32(place):
    """The far end of the tensor is pooled and unpooled like a small tensor of the same values."""
    rows, width = 2**15 + 4, 2**16  # 2^31 and a few elements, 4 GiB
    x = torch.zeros(1, 1, rows, width, dtype=torch.float16, device=place.device)
    tail = torch.randn(1, 1, 8, width, device=place.device).half()
    x[:, :, -8:] = tail
    window = ([2, 2], [2, 2], [0, 0], [1, 1])
    y, switches = place.op("max_pool2d")(x, *window, False, False)
    expected, expected_switches = reference.max_pool2d(tail, (2, 2), (2, 2))
    assert torch.equal(y[:, :, -4:], expected)
    assert torch.equal(switches[:, :, -4:], expected_switches)
    del x
    out = place.op("max_unpool2d")(y, switches, *window, [rows, width], False, False, False)
    unpooled = reference.max_unpool2d(expected, expected_switches, *map(tuple, window), (8, width))
    assert torch.equal(out[:, :, -8:], unpooled) and not out[:, :, :-8].any()


def test_occlude_past_int32(place):
    x = torch.arange(2**16, dtype=torch.float16, device=place.device).reshape(1, 1, 256, 256)
    count = 2**15 + 1  # copies of 2^16 elements
    boxes = torch.zeros(count, 4, dtype=torch.int64, device=place.device)
    boxes[-1] = torch.tensor([10, 20, 30, 40])
    out = place.op("occlude")(x, boxes, torch.ones(1, dtype=x.dtype, device=place.device))
    assert torch.equal(out[0, -2], x[0])
    assert torch.equal(out[:, -1:], reference.occlude(x, boxes[-1:], 1.0))
