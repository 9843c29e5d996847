"""A module that is called at several sizes: its last call counts, for features and for depth."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from zoo import Model

import zfcuda
from zfcuda.experiments.invariance.experiment import early_and_late
from zfcuda.experiments.probing import layers_by_depth

LAST = {"pool": "pool2", "relu": "relu4"}  # by module that is called throughout: its last call's


class Tutorial(nn.Module):
    """PyTorch's network for CIFAR-10: one pool and one ReLU throughout, or one for each call."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 12), nn.Linear(12, 8), nn.Linear(8, 5)
        self.pool = nn.MaxPool2d(2)
        self.relu = nn.ReLU()
        self.pool2 = self.pool if shared else nn.MaxPool2d(2)
        self.relu2, self.relu3, self.relu4 = (self.relu if shared else nn.ReLU() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.conv1(x)))
        x = self.pool2(self.relu2(self.conv2(x)))
        x = self.relu3(self.fc1(x.flatten(1)))
        return self.fc3(self.relu4(self.fc2(x)))


@pytest.fixture(scope="module")
def shared() -> nn.Module:
    torch.manual_seed(0)
    return Tutorial(shared=True).eval()


@pytest.fixture(scope="module")
def separate(shared) -> nn.Module:
    net = Tutorial(shared=False).eval()
    net.load_state_dict(shared.state_dict())
    return net


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", LAST)
@pytest.mark.parametrize(
    ("kind", "values"), [("rotation", [0, 30]), ("translation", [-4, 4]), ("scaling", [1.2])]
)
def test_distances_are_those_of_the_last_call(shared, separate, x, kind, values, name):
    experiment = getattr(zfcuda, kind)
    found = experiment(shared, x, values, layers=name)
    wanted = experiment(separate, x, values, layers=LAST[name])
    assert torch.equal(found.distances[name], wanted.distances[LAST[name]])
    assert torch.equal(found.norms[name], wanted.norms[LAST[name]])


def test_a_study_runs_with_its_defaults(shared, x):
    study = zfcuda.invariance_study(shared, x, transformations={"rotation": [0, 45]})
    assert study.layers == ("pool", "relu")


@pytest.mark.parametrize("method", ["cone", "dense"])
@pytest.mark.parametrize("name", LAST)
def test_occlusion_records_the_last_call(shared, separate, x, method, name):
    found = zfcuda.occlusion(shared, x, size=9, stride=9, layers=name, method=method)
    wanted = zfcuda.occlusion(separate, x, size=9, stride=9, layers=LAST[name], method=method)
    assert torch.equal(found.layers[name].sums, wanted.layers[LAST[name]].sums)


def test_layers_lie_where_they_are_called_last(shared, x, tmp_path):
    assert early_and_late(shared, x) == ["pool", "relu"]
    assert layers_by_depth(shared, x) == ["conv1", "pool", "fc1", "relu"]
    stored = zfcuda.record_activations(
        tmp_path, shared, x, ["pool", "relu", "conv2", "conv1"], k=1, maps=1
    )
    assert stored.layers == ("conv1", "conv2", "pool", "relu")


def test_a_pool_before_the_classifier_is_the_late_layer_and_not_the_early_one(x):
    def forward(m, x):
        x = m.pool(m.c1(x).relu())
        return m.fc(m.pool(m.c2(x).relu()).flatten(1))

    layers = {"c1": nn.Conv2d(3, 4, 3), "c2": nn.Conv2d(4, 4, 3), "pool": nn.MaxPool2d(2)}
    net = Model(forward, **layers, fc=nn.Linear(4 * 36, 5)).eval()
    assert early_and_late(net, x) == ["c1", "pool"]


def test_an_earlier_call_need_not_give_maps(x):
    def forward(m, x):
        x = m.conv(m.act(x.flatten(2)).view_as(x))
        return m.fc(m.act(x).mean((2, 3)))

    net = Model(forward, act=nn.ReLU(), conv=nn.Conv2d(3, 4, 3), fc=nn.Linear(4, 5)).eval()
    found = zfcuda.rotation(net, x, [0, 90], layers="act")
    assert found.distances["act"].shape == (2, 2)


def test_a_last_call_that_gives_no_maps_is_named(x):
    layers = {"act": nn.ReLU(), "fc": nn.Linear(3, 5)}
    net = Model(lambda m, x: m.fc(m.act(m.act(x).flatten(2)).mean(2)), **layers).eval()
    with pytest.raises(ValueError, match=r"layer 'act' must give maps .* it gives \[1, 3, 1024\]"):
        zfcuda.rotation(net, x, [0], layers="act")
