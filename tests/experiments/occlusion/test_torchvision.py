"""Occlusion of torchvision's networks, as they are: inside cones against full passes."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from zoo import TORCHVISION

import zfcuda

FEW = ["alexnet", "resnet18", "squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5"]


@torch.no_grad()
def initialise(net: nn.Module, x: torch.Tensor) -> None:
    """Batch norms that standardise these images: with statistics drawn at random the deepest
    networks amplify a last bit ten thousand million times, in torch as well."""
    norms = [module for module in net.eval().modules() if isinstance(module, nn.BatchNorm2d)]
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    net(x)
    net.eval()


@torch.no_grad()
def rounding(net: nn.Module, x: torch.Tensor) -> float:
    """How far torch's own answers in its two layouts are apart, as a share of the answer."""
    last = {"memory_format": torch.channels_last}
    one, other = net(x), copy.deepcopy(net).to(**last)(x.contiguous(**last))
    return float(((one - other).norm(dim=1) / one.norm(dim=1)).max())


def check(net: nn.Module, size: int) -> None:
    """Every kind of position, with weights that let signals through all layers."""
    torch.set_num_threads(1)
    x = torch.randn(1, 3, size, size, dtype=torch.float64)
    initialise(net.double(), torch.cat([x, torch.randn_like(x)]))
    positions = torch.tensor([[0, 0, 8, 8], [27, 17, 43, 33], [size - 5, 30, size, 41]])
    arguments = {"positions": positions, "fill": torch.randn(x.shape[1:]).double()}
    dense = zfcuda.occlusion(net, x, method="dense", **arguments).logits
    occluded = zfcuda.ops.occlude(x, positions, arguments["fill"])[0]
    tolerance = max(1e-9, 16 * rounding(net, occluded))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in ("auto", "cone"):
            found = zfcuda.occlusion(net, x, method=method, **arguments)
            assert (found.logits - dense).norm() / dense.norm() < tolerance
    assert found.method == "cone"


@pytest.mark.parametrize("name", FEW)
def test_some(torchvision_model, name):
    check(torchvision_model(name), 64)


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_all(torchvision_model, name):
    check(torchvision_model(name), 80 if name == "inception_v3" else 64)
