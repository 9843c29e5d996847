"""How often experiments wait for a GPU, counted without one: for batches of images, not for each of
their units, layers and answers."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pytest
import torch
from counted_device import DEVICE, CountedDevice, counted
from torch import Tensor, nn
from zoo import Model

import zfcuda
from zfcuda.experiments.maxima.scanning import Spotter
from zfcuda.inference.checks import evaluating


def plain_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, 2, 1), nn.ReLU(), nn.MaxPool2d(3, 2), nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(12, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 10),
    ).eval()  # fmt: skip


def branching_net() -> nn.Module:
    """With a sum, a concatenation, a shuffle, and a pooling as a branch."""

    def forward(m: Model, x: Tensor) -> Tensor:
        x = m.first(x).relu()
        y = torch.cat([m.one(x), m.two(m.pool(x))], 1)
        y = y.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
        y = m.join(y + m.last(y).relu())
        return y.mean((2, 3))

    torch.manual_seed(0)
    return Model(
        forward,
        first=nn.Conv2d(3, 8, 3, 2),
        pool=nn.MaxPool2d(3, 1, 1),
        one=nn.Conv2d(8, 4, 1),
        two=nn.Conv2d(8, 4, 3, padding=1),
        last=nn.Conv2d(8, 8, 3, padding=1),
        join=nn.Identity(),
    ).eval()


NETS = {
    "plain": (plain_net, ["1", "2", "6", "7", "9"]),
    "branching": (branching_net, ["first", "pool", "two", "last", "join"]),
}


def moved(net: nn.Module) -> nn.Module:
    """A copy on the counted device, which parameters cannot be moved to."""
    net = copy.deepcopy(net)
    for module in net.modules():
        for held in (module._parameters, module._buffers):
            held.update({name: t.detach().to(DEVICE) for name, t in held.items() if t is not None})
    return net


def waits(device: CountedDevice, experiment) -> tuple[int, object]:
    """How often an experiment waits, when the model is known, and what it answers."""
    experiment()
    device.counts.clear()
    device.waited.clear()
    found = experiment()
    return device.counts["waits"], found


@pytest.mark.parametrize("name", NETS)
def test_projections_of_many_units(name):
    make, layers = NETS[name]
    net, x = make(), torch.randn(3, 3, 40, 40)
    with counted() as device:
        there, images = moved(net), x.to(DEVICE)

        def project(of: list[str], units: str) -> tuple[int, object]:
            return waits(device, lambda: zfcuda.project(there, images, of, units=units))

        few, _ = project(layers[:1], "top-1")
        many, found = project(layers, "strongest")
    assert many == few <= 4, device.waited
    expected = zfcuda.project(net, x, layers, units="strongest")
    assert torch.equal(found.units, expected.units)
    assert torch.equal(found.boxes, expected.boxes)
    torch.testing.assert_close(found.values, expected.values)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("more", [{}, {"rule": "gradient"}, {"overlap": "overwrite"}])
def test_pictures(name, more):
    make, layers = NETS[name]
    net, x = make(), torch.randn(3, 3, 40, 40)
    with counted() as device:
        there, images = moved(net), x.to(DEVICE)
        one, _ = waits(device, lambda: zfcuda.deconv(there, images, layers[-1], **more))
        nine, found = waits(device, lambda: zfcuda.deconv(there, images, layers[-1], k=4, **more))
        found = found.cpu()
        several, _ = waits(device, lambda: zfcuda.projections(there, images, layers, k=2, **more))
    assert one == nine <= 2, device.waited
    assert several <= 3, device.waited
    torch.testing.assert_close(found, zfcuda.deconv(net, x, layers[-1], k=4, **more))


def test_whole_maps():
    net, x = plain_net(), torch.randn(2, 3, 40, 40)
    with counted() as device:
        there, images = moved(net), x.to(DEVICE)
        units = ("map", range(6))
        found = waits(device, lambda: zfcuda.project(there, images, "9", units=units))
    assert found[0] <= 4, device.waited
    torch.testing.assert_close(found[1].values, zfcuda.project(net, x, "9", units=units).values)


def test_by_autograd():
    """One wait a layer and batch, whatever the number of units."""
    net = nn.Sequential(plain_net()[:8], Model(lambda m, x: x * (1 + 0 * float(x.sum() > -1e9))))
    net, x = net.eval(), torch.randn(2, 3, 40, 40)
    with counted() as device:
        there, images = moved(net), x.to(DEVICE)
        one, _ = waits(device, lambda: zfcuda.project(there, images, "1", units="top-1"))
        many, _ = waits(device, lambda: zfcuda.project(there, images, "1", units="top-6"))
    assert many == one, device.waited


@pytest.mark.parametrize("name", NETS)
def test_the_strongest_activations(name):
    make, layers = NETS[name]
    net, x = make(), torch.randn(12, 3, 40, 40)

    def strongest(model: nn.Module, maps: object, layers: list[str]):
        return zfcuda.top_activations(model, x, layers, k=3, maps=maps, batch=12)

    with counted() as device:
        there = moved(net)
        few, _ = waits(device, lambda: strongest(there, [0], layers))
        many, found = waits(device, lambda: strongest(there, "all", layers))
    assert many == few <= 6, device.waited
    _compare(found.projections, strongest(net, "all", layers).projections)
    _compare(found.patches, strongest(net, "all", layers).patches)
    _compare(found.values, strongest(net, "all", layers).values)


def _compare(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for layer, own in found.items():
        torch.testing.assert_close(own, expected[layer])


def test_the_pass_over_a_data_set_never_waits():
    net, x = plain_net(), torch.randn(8, 3, 40, 40)
    layers = NETS["plain"][1]
    with counted() as device:
        there, images = moved(net), x.to(DEVICE)
        with evaluating(there):
            spotter = Spotter.of(there, layers, images[:1].clone(), 2**20, most=2)
            tops = spotter.tops(3, 2)
            device.counts.clear()
            spotter.take(images, tops, 0)
    assert device.counts["waits"] == 0, device.waited
    assert device.counts["convolutions"] >= 8


def test_numbers_of_all_layers_come_together():
    net, x = plain_net(), torch.randn(1, 3, 40, 40)
    layers = NETS["plain"][1]
    with counted() as device:
        there, images = moved(net), x.to(DEVICE)

        def turned(of: list[str]) -> tuple[int, object]:
            return waits(
                device, lambda: zfcuda.rotation(there, images, values=range(0, 360, 40), layers=of)
            )

        assert turned(layers)[0] == turned(layers[:1])[0], device.waited
