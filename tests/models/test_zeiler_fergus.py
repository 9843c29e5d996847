"""The ZF network against the paper's table, the small one, and what they share."""

import pytest
import torch
from torch import nn

import zfcuda.nn
from zfcuda.models import squeezenet1_1, zfnet, zfnet_small

NAMES = [
    *("conv1", "relu1", "pool1", "norm1", "conv2", "relu2", "pool2", "norm2"),
    *("conv3", "relu3", "conv4", "relu4", "conv5", "relu5", "pool5", "flatten"),
    *("fc6", "relu6", "drop6", "fc7", "relu7", "drop7", "fc8"),
]
# PAPER.md's table: maps, pixels a side.
OUTPUTS = {
    "conv1": (96, 110),
    "pool1": (96, 55),
    "norm1": (96, 55),
    "conv2": (256, 26),
    "pool2": (256, 13),
    "conv3": (384, 13),
    "conv4": (384, 13),
    "conv5": (256, 13),
    "pool5": (256, 6),
}


@pytest.fixture(scope="module")
def pair():
    """The same small network on zfcuda's and on torch's ops."""
    models = {}
    for ops in ("zfcuda", "torch"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            models[ops] = zfnet(num_classes=4, ops=ops).eval()
    return models


def test_layers_are_named_and_ordered_as_in_the_paper():
    with torch.device("meta"):
        assert [name for name, _ in zfnet().named_children()] == NAMES
        without = [name for name, _ in zfnet(lrn=False).named_children()]
    assert without == [name for name in NAMES if not name.startswith("norm")]


def test_sizes_are_those_of_the_table(pair):
    x = torch.zeros(1, 3, 224, 224)
    for name, layer in pair["zfcuda"].named_children():
        x = layer(x)
        if name in OUTPUTS:
            maps, side = OUTPUTS[name]
            assert x.shape == (1, maps, side, side), name
    assert x.shape == (1, 4)


def test_parameters_are_as_many_as_the_layers_say():
    with torch.device("meta"):
        model = zfnet()
    shapes = [(96, 3, 7, 7), (256, 96, 5, 5), (384, 256, 3, 3), (384, 384, 3, 3), (256, 384, 3, 3)]
    shapes += [(4096, 9216), (4096, 4096), (1000, 4096)]
    assert [p.shape for name, p in model.named_parameters() if name.endswith("weight")] == shapes
    assert (model.drop6.p, model.drop7.p) == (0.5, 0.5)


def test_weights_are_drawn_as_in_the_paper(pair):
    for name, parameter in pair["zfcuda"].named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        else:
            assert parameter.std().item() == pytest.approx(1e-2, rel=0.03), name
            assert abs(parameter.mean().item()) < 3e-4, name


def test_both_kinds_of_ops_have_the_same_weights_and_answers(pair):
    ours, theirs = (pair[ops].state_dict() for ops in ("zfcuda", "torch"))
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    x = 60 * torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(pair["zfcuda"](x), pair["torch"](x))


def test_ops_decides_whose_modules_are_used():
    with torch.device("meta"):
        ours, theirs = zfnet(), zfnet(ops="torch")
    assert type(ours.pool1) is zfcuda.nn.MaxPool2d and type(theirs.pool1) is nn.MaxPool2d
    assert type(ours.norm2) is zfcuda.nn.LocalResponseNorm
    assert type(theirs.norm2) is nn.LocalResponseNorm
    for model in (ours, theirs):
        for i in (1, 2, 5):
            pool = model.get_submodule(f"pool{i}")
            assert (pool.kernel_size, pool.stride, pool.ceil_mode) == (3, 2, True)
        for norm in (model.norm1, model.norm2):
            assert (norm.size, norm.alpha, norm.beta, norm.k) == (5, 1e-4, 0.75, 2.0)


def test_output_of_a_layer_is_not_overwritten_by_the_next(pair):
    kept = {}
    hook = pair["zfcuda"].conv1.register_forward_hook(lambda *call: kept.update(y=call[2]))
    with torch.no_grad():
        pair["zfcuda"](torch.randn(1, 3, 224, 224))
    hook.remove()
    assert (kept["y"] < 0).any()


# --- the small one, and fused pools ---------------------------------------------------------------

BUILDS = (zfnet, zfnet_small)


@pytest.fixture
def x():
    return torch.randn(2, 3, 64, 64, dtype=torch.float64)


def test_the_small_ones_shape_is_the_papers():
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
