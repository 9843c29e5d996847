"""What a GPU would be asked to do by an experiment, counted without one: launches, copies to it,
waits for it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from counted_device import DEVICE, counted

import zfcuda


def test_what_is_counted() -> None:
    with counted() as device:
        x = torch.arange(16.0).view(1, 1, 4, 4).to(DEVICE)
        weight = torch.ones(2, 1, 3, 3, device=DEVICE)
        y = F.conv2d(x, weight)
        assert y.device == DEVICE
        assert device.counts == {"uploads": 1, "convolutions": 1, "launches": 3}
        rows = torch.tensor([[0, -1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 0]]).to(DEVICE)
        zfcuda.ops.gather_windows(x.view(1, 4, 4, 1), [], rows, out := x.new_empty(4, 1), 4)
        assert (device.counts["uploads"], device.counts["gathers"]) == (2, 1)
        assert device.counts["waits"] == 0
        assert out.flatten().tolist() == [0, 1, 4, 5]
        counts = torch.ones(4, dtype=torch.int64).to(DEVICE)
        asking = (
            lambda: x.nonzero(),
            lambda: x[x > 3],
            lambda: float(x.sum()),
            lambda: bool((x > 3).all()),
            lambda: y.cpu(),
            lambda: torch.zeros(4).copy_(x.view(-1)[:4]),
            lambda: x.repeat_interleave(counts, 3),
        )
        for number, ask in enumerate(asking, device.counts["waits"] + 1):
            ask()
            assert device.counts["waits"] == number, device.waited
        y.to("cpu", non_blocking=True)
        x.repeat_interleave(counts, 3, output_size=4)
        assert device.counts["waits"] == 1 + len(asking), device.waited
        device.hollow = True
        assert F.conv2d(x, weight).sum().cpu() == 0
