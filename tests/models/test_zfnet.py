"""The ZF network against the paper's table."""

import pytest
import torch
from torch import nn

import zfcuda.nn
from zfcuda.models import zfnet

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
    convolutions = {1: (96, 3, 7), 2: (256, 96, 5), 3: (384, 256, 3), 4: (384, 384, 3)}
    convolutions[5] = (256, 384, 3)
    for i, (maps, inputs, side) in convolutions.items():
        assert model.get_parameter(f"conv{i}.weight").shape == (maps, inputs, side, side)
    assert model.fc6.weight.shape == (4096, 9216)
    assert model.fc7.weight.shape == (4096, 4096)
    assert model.fc8.weight.shape == (1000, 4096)
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
