"""Graphs of whole networks."""

import pytest
import torch
from traces import traced, values_of

import zfcuda
from zfcuda.graph import trace
from zfcuda.graph.nodes import Opaque


@pytest.mark.parametrize("make", [zfcuda.models.zfnet, zfcuda.models.squeezenet1_1])
def test_our_networks(make):
    net = make().eval()
    size = 224 if make is zfcuda.models.zfnet else 64
    graph = traced(net, torch.randn(1, 3, size, size))
    opaque = [node.name for node in graph.nodes if node.rule == Opaque()]
    assert opaque[0] == "flatten"
    assert {name for name, _ in net.named_modules() if graph.layer(name) is None} <= {"classifier"}


FEW = {  # the first call past which no cone leads
    "alexnet": "avgpool",
    "resnet18": "flatten",
    "squeezenet1_0": "flatten",
    "densenet121": "flatten",
    "googlenet": "flatten",
    "mobilenet_v2": "flatten",
    "mobilenet_v3_small": "mul",
    "convnext_tiny": "classifier_1",
    "shufflenet_v2_x0_5": "mean",
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


MORE = [
    "convnext_small",
    "densenet161",
    "densenet169",
    "densenet201",
    "efficientnet_b0",
    "efficientnet_b4",
    "efficientnet_v2_s",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v3_large",
    "regnet_x_400mf",
    "regnet_y_400mf",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnext50_32x4d",
    "shufflenet_v2_x1_0",
    "swin_t",
    "swin_v2_t",
    "vgg11",
    "vgg11_bn",
    "vgg16",
    "vit_b_16",
    "wide_resnet50_2",
]


def test_torchvision_with_its_own_normalisation(torchvision_model):
    graph = check_torchvision(torchvision_model("googlenet", transform_input=True))
    assert next(node.name for node in graph.nodes if node.rule == Opaque()) == "flatten"


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_more_of_torchvision(torchvision_model, name):
    sizes = {"inception_v3": 96, "maxvit_t": 224, "vit_b_16": 224}
    check_torchvision(torchvision_model(name), sizes.get(name, 64))
