"""Occlusion of torchvision's networks, as they are: inside cones against full passes."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import zfcuda

FEW = ["alexnet", "resnet18", "squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5"]
FAMILIES = {
    "alexnet": "",
    "convnext": "tiny small base large",
    "densenet": "121 161 169 201",
    "efficientnet": "b0 b1 b2 b3 b4 b5 b6 b7 v2_s v2_m v2_l",
    "googlenet": "",
    "inception": "v3",
    "mnasnet": "0_5 0_75 1_0 1_3",
    "mobilenet": "v2 v3_large v3_small",
    "regnet_x": "400mf 800mf 1_6gf 3_2gf 8gf 16gf 32gf",
    "regnet_y": "400mf 800mf 1_6gf 3_2gf 8gf 16gf 32gf",
    "resnet": "18 34 50 101 152",
    "resnext": "50_32x4d 101_32x8d 101_64x4d",
    "shufflenet_v2": "x0_5 x1_0 x1_5 x2_0",
    "squeezenet1": "0 1",
    "vgg": "11 11_bn 13 13_bn 16 16_bn 19 19_bn",
    "wide_resnet": "50_2 101_2",
}
_GLUED = ("densenet", "mnasnet", "resnet", "resnext", "vgg", "wide_resnet")
ALL = [
    (family if not kind else f"{family}{'' if family in _GLUED else '_'}{kind}")
    for family, kinds in FAMILIES.items()
    for kind in kinds.split(" ")
]


def check(net: nn.Module, size: int) -> None:
    """Every kind of position, with weights that let signals through all layers."""
    torch.set_num_threads(1)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    x = torch.randn(1, 3, size, size, dtype=torch.float64)
    positions = torch.tensor([[0, 0, 8, 8], [27, 17, 43, 33], [size - 5, 30, size, 41]])
    arguments = {"positions": positions, "fill": torch.randn(x.shape[1:]).double()}
    net = net.double()
    dense = zfcuda.occlusion(net, x, method="dense", **arguments).logits
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in ("auto", "cone"):
            found = zfcuda.occlusion(net, x, method=method, **arguments)
            assert (found.logits - dense).norm() / dense.norm() < 1e-9
    assert found.method == "cone"


@pytest.mark.parametrize("name", FEW)
def test_some(torchvision_model, name):
    check(torchvision_model(name), 64)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_all(torchvision_model, name):
    check(torchvision_model(name), 80 if name == "inception_v3" else 64)
