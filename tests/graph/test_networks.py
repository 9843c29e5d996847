"""Graphs of whole networks."""

import pytest
import torch
from traces import traced, values_of
from zoo import TORCHVISION

import zfcuda
from zfcuda.graph import trace
from zfcuda.graph.rules import Opaque


@pytest.mark.parametrize("make", [zfcuda.models.zfnet, zfcuda.models.squeezenet1_1])
def test_our_networks(make):
    net = make().eval()
    size = 224 if make is zfcuda.models.zfnet else 64
    graph = traced(net, torch.randn(1, 3, size, size))
    opaque = [node.name for node in graph.nodes if node.rule == Opaque()]
    assert opaque[0] == "flatten"
    assert {name for name, _ in net.named_modules() if graph.layer(name) is None} <= {"classifier"}


FEW = {  # the first call past which no cone leads
    "alexnet": "flatten",
    "resnet18": "flatten",
    "squeezenet1_0": "flatten",
    "densenet121": "flatten",
    "googlenet": "flatten",
    "mobilenet_v2": "flatten",
    "mobilenet_v3_small": "mul",
    "convnext_tiny": "classifier_1",
    "shufflenet_v2_x0_5": "fc",
}


def check_torchvision(net, size=64):
    x = torch.randn(1, 3, size, size)
    graph = trace(net, x)
    with torch.no_grad():
        assert torch.equal(values_of(graph, x)[graph.output], net(x))
    return graph


@pytest.mark.parametrize("name", FEW)
def test_torchvision(torchvision_model, name):
    graph = check_torchvision(torchvision_model(name))
    assert next(node.name for node in graph.nodes if node.rule == Opaque()) == FEW[name]


def test_torchvision_with_its_own_normalisation(torchvision_model):
    graph = check_torchvision(torchvision_model("googlenet", transform_input=True))
    assert next(node.name for node in graph.nodes if node.rule == Opaque()) == "flatten"


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TORCHVISION, "maxvit_t", "swin_t", "swin_v2_t", "vit_b_16"])
def test_more_of_torchvision(torchvision_model, name):
    sizes = {"inception_v3": 96, "maxvit_t": 224, "vit_b_16": 224}
    check_torchvision(torchvision_model(name), sizes.get(name, 64))
