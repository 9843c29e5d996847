"""The small ZF network, and what the networks share: fused pools, arguments that are refused."""

import pytest
import torch
from torch import nn

from zfcuda.models import squeezenet1_1, zfnet, zfnet_small

BUILDS = (zfnet, zfnet_small)


@pytest.fixture
def x():
    return torch.randn(2, 3, 64, 64, dtype=torch.float64)


def test_shape_is_the_papers():
    model = zfnet_small()
    assert sum(p.numel() for p in model.parameters()) <= 1.5e6
    assert list(dict(model.named_children())) == list(dict(zfnet().named_children()))
    assert model.conv1.kernel_size == (7, 7) and model.conv1.stride == (2, 2)
    sides, y = {}, torch.zeros(1, 3, 64, 64)
    for name, layer in model.named_children():
        y = layer(y)
        sides[name] = tuple(y.shape[1:])
    assert [sides[n][1:] for n in ("conv1", "pool1", "conv2", "pool2", "conv5", "pool5")] == [
        (30, 30), (15, 15), (13, 13), (6, 6), (6, 6), (3, 3)
    ]  # fmt: skip
    assert sides["fc8"] == (10,)
    assert all(p.kernel_size == 3 and p.stride == 2 for p in (model.pool1, model.pool5))
    assert model.drop6.p == model.drop7.p == 0.5


@torch.no_grad()
def test_signals_neither_vanish_nor_explode(x):
    y = 8 * x.float()  # the range of its inputs
    for name, layer in zfnet_small(lrn=False).eval().named_children():
        y = layer(y)
        if name.startswith(("conv", "fc")):
            assert 0.1 < float(y.std()) < 10, name


@pytest.mark.parametrize("lrn", [True, False])
def test_fused_torch_and_plain_are_one_network(x, lrn):
    """The same weights give the same output and the same gradients, whoever's ops compute them."""
    kinds = {"plain": {}, "fused": {"fused": True}, "torch": {"ops": "torch"}}
    found = {}
    for kind, settings in kinds.items():
        torch.manual_seed(1)
        model = zfnet_small(lrn=lrn, **settings).double().eval()
        y = model(x)
        gradients = torch.autograd.grad(y.square().sum(), list(model.parameters()))
        found[kind] = [y, *gradients]
    for kind in ("fused", "torch"):
        for a, b in zip(found["plain"], found[kind], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("build", BUILDS)
def test_fused_loads_into_plain(build):
    with torch.device("meta"):
        fused, plain = build(fused=True), build()
    assert fused.state_dict().keys() == plain.state_dict().keys()
    assert isinstance(fused.relu1, nn.Identity) and isinstance(fused.relu3, nn.ReLU)
    assert isinstance(plain.relu1, nn.ReLU)


CAFFE = "ops 'caffe': expected 'zfcuda' or 'torch'"


@pytest.mark.parametrize(
    ("build", "arguments", "match"),
    [
        *(
            (b, {"num_classes": 0}, "num_classes 0: .* at least 1")
            for b in (*BUILDS, squeezenet1_1)
        ),
        *((build, {"ops": "caffe"}, CAFFE) for build in BUILDS),
        *((b, {"ops": "torch", "fused": True}, "torch's pooling does not rectify") for b in BUILDS),
    ],
)
def test_impossible_arguments(build, arguments, match):
    with pytest.raises(ValueError, match=match), torch.device("meta"):
        build(**arguments)
