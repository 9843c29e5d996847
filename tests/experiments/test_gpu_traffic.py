"""What a GPU would be asked to do by an experiment, counted without one: launches, copies to it,
waits for it."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from counted_device import DEVICE, counted
from networks import own_vgg16
from torch import Tensor, nn

import zfcuda
from zfcuda.experiments.occlusion.engines import Request, engine_for


def test_what_is_counted() -> None:
    with counted() as device:
        x = torch.arange(16.0).view(1, 1, 4, 4).to(DEVICE)
        weight = torch.ones(2, 1, 3, 3, device=DEVICE)
        y = F.conv2d(x, weight)
        assert y.device == DEVICE
        assert device.counts == {"uploads": 1, "waits": 1, "convolutions": 1, "launches": 3}
        rows = torch.tensor([[0, -1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 0]])
        rows = rows.to(DEVICE, non_blocking=True)
        zfcuda.ops.gather_windows(x.view(1, 4, 4, 1), [], rows, out := x.new_empty(4, 1), 4)
        assert (device.counts["uploads"], device.counts["gathers"]) == (2, 1)
        assert device.counts["waits"] == 1
        assert out.flatten().tolist() == [0, 1, 4, 5]
        counts = torch.ones(4, dtype=torch.int64, device=DEVICE)
        asking = (
            lambda: x.nonzero(),
            lambda: x[x > 3],
            lambda: float(x.sum()),
            lambda: bool((x > 3).all()),
            lambda: y.cpu(),
            lambda: torch.zeros(4).copy_(x.view(-1)[:4]),
            lambda: torch.zeros(4).to(DEVICE),
            lambda: x[..., np.arange(2)],
            lambda: x[..., torch.arange(2)],
            lambda: x.view(-1).__setitem__(np.arange(2), 1.0),
            lambda: x.view(-1)[:4].copy_(torch.zeros(4)),
            lambda: x.repeat_interleave(counts, 3),
        )
        for number, ask in enumerate(asking, device.counts["waits"] + 1):
            ask()
            assert device.counts["waits"] == number, device.waited
        y.to("cpu", non_blocking=True)
        x.repeat_interleave(counts, 3, output_size=4)
        x.view(-1)[:4].copy_(torch.zeros(4), non_blocking=True)
        assert device.counts["waits"] == 2 + len(asking), device.waited
        with pytest.raises(RuntimeError, match="of the host"):
            x + torch.ones(4)
        device.hollow = True
        assert F.conv2d(x, weight).sum().cpu() == 0


# --- occlusion ------------------------------------------------------------------------------------

# As an H200 might be, in float32.
LARGE = zfcuda.DeviceProfile(
    "large",
    byte=16.0,
    depthwise=16.0,
    windowed=1.0,
    call=2e9,
    cone_call=5e9,
    convolution_call=5e9,
    windows=2**32,
    cached=0,
    positions=3000,
)


def counts_of_images(
    model: nn.Module,
    x: Tensor,
    hollow: bool,
    size: int,
    stride: int,
    profile: zfcuda.DeviceProfile = LARGE,
    **arguments: Any,
) -> list[Counter[str]]:
    """What each image of ``x`` asks of a GPU that is planned for already."""
    found = []
    with counted() as device, torch.no_grad():
        model, x = copy.deepcopy(model).to(DEVICE), x.to(DEVICE)
        engine = engine_for(model, x, Request(size, stride, profile=profile, **arguments))
        device.hollow = hollow
        for image in x.split(1):
            device.counts.clear()
            engine(image, classes=[0])
            found.append(Counter(device.counts))
    return found


def test_vgg16_leaves_the_host_out_of_the_way() -> None:
    first, *further = counts_of_images(own_vgg16(), torch.randn(3, 3, 224, 224), True, 16, 4)
    assert first["convolutions"] <= 120
    assert first["waits"] <= 4
    for image in further:
        assert image["convolutions"] == first["convolutions"]
        assert image["uploads"] <= 5
        assert image["waits"] <= 4


@pytest.mark.parametrize("fill", [0.5, [0.5, 0.4, 0.3]])
def test_no_batch_of_positions_is_waited_for(fill: Any) -> None:
    """However many there are, nor for what all of them need."""
    net, x = own_vgg16(), torch.randn(2, 3, 224, 224)
    waits = []
    for positions in (3000, 50):
        few = replace(LARGE, positions=positions)
        _, image = counts_of_images(net, x, True, 50, 16, few, fill=fill)
        waits.append(image["waits"])
    assert waits[0] == waits[1] <= 2


class Everything(nn.Module):
    """A step of every kind that makes tables of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2)
        self.last = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(self.first(x).relu(), 3, 2, 1)
        x = self.up(x)
        pooled, switches = self.pool(x)
        x = x + self.unpool(pooled, switches)
        x = F.pad(x, (1, 2, 1, 2), mode="reflect")
        x = F.interpolate(x, scale_factor=2, mode="bilinear")
        x = F.pixel_unshuffle(x, 2)[:, ::4] * x[:, :, ::2, ::2]
        x = torch.cat([x, F.max_pool2d(x, 3, 1, 1)], 1)
        return self.last(x.mean((2, 3)))


def test_further_images_need_no_tables() -> None:
    torch.manual_seed(0)
    net, x = Everything().eval(), torch.randn(3, 3, 24, 24)
    arguments = {"method": "cone", "layers": ["first", "up"]}
    first, *further = counts_of_images(net, x, False, 5, 4, **arguments)
    assert first["gathers"] > 9 < first["uploads"]
    for image in further:
        assert image["uploads"] <= 5, image
        assert image["waits"] <= 4
        assert image["gathers"] == first["gathers"]


def test_dense_batches_find_their_positions_on_the_device() -> None:
    net, x = Everything().eval(), torch.randn(2, 3, 24, 24)
    few, many = (
        counts_of_images(net, x, False, 5, 4, method="dense", max_memory=memory)[1]
        for memory in (2**26, 2**16)
    )
    assert 3 * few["launches"] < many["launches"]
    assert many["uploads"] <= few["uploads"] <= 1


def test_the_counted_device_finds_what_the_cpu_does() -> None:
    torch.manual_seed(0)
    net, x = Everything().double().eval(), torch.randn(2, 3, 24, 24).double()
    arguments = {"size": 5, "stride": 4, "method": "cone", "layers": ["first"]}
    wanted = zfcuda.occlusion(net, x, **arguments)
    with counted():
        found = zfcuda.occlusion(
            copy.deepcopy(net).to(DEVICE), x.to(DEVICE), profile=LARGE, **arguments
        )
    torch.testing.assert_close(found.logits, wanted.logits)
    torch.testing.assert_close(found.layers["first"].sums, wanted.layers["first"].sums)
