"""One clear sentence for each mistake: it names the value and what was expected."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from zoo import Model

import zfcuda
from zfcuda.experiments.occlusion.engines import occluder_grid


@pytest.fixture
def small(make):
    return make("VGGLike")


FORWARD = [zfcuda.occlusion, zfcuda.rotation, zfcuda.translation, zfcuda.scaling, zfcuda.predict]
ALL = [*FORWARD, lambda model, x: zfcuda.deconv(model, x, "tail")]


class TwoInputs(nn.Module):
    def forward(self, x, mask):
        return (x * mask).flatten(1)


IMAGES = [
    (lambda x: x[0], ValueError, r"got shape \[3, 16, 18\]; add the batch dimension"),
    (lambda x: x[:0], ValueError, r"got shape \[0, 3, 16, 18\]"),
    (torch.Tensor.long, TypeError, r"x must be floating point, got torch\.int64"),
    (torch.Tensor.float, TypeError, r"x is torch\.float32, .* weights are torch\.float64"),
    (lambda x: x.to("meta"), ValueError, r"x is on meta, the model on cpu"),
    (torch.Tensor.tolist, TypeError, r"x must be a tensor .* got list"),
]


@pytest.mark.parametrize("experiment", ALL)
def test_a_model_of_two_inputs(x, experiment):
    with pytest.raises(
        TypeError,
        match=r"take the images alone, but for its forward\(x, mask\): missing .* 'mask'; wrap it",
    ):
        experiment(TwoInputs(), x)


@pytest.mark.parametrize("experiment", ALL)
def test_input(small, x, experiment):
    for change, error, message in IMAGES:
        with pytest.raises(error, match=message):
            experiment(small, change(x))
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got function"):
        experiment(lambda x: x, x)


@pytest.mark.parametrize(
    "experiment",
    [
        lambda model, x, layer: zfcuda.deconv(model, x, layer),
        lambda model, x, layer: zfcuda.occlusion(model, x, size=8, layers=[layer]),
        lambda model, x, layer: zfcuda.rotation(model, x, layers=layer),
    ],
)
def test_layers(small, x, experiment):
    with pytest.raises(ValueError, match=r"no layer 'features\.33' .* did you mean .*features\.3'"):
        experiment(small, x, "features.33")
    with pytest.raises(ValueError, match=r"no layer '@' .* the first are \['tail'"):
        experiment(small, x, "@")
    small.unused = nn.Conv2d(3, 3, 1)
    with pytest.raises(
        RuntimeError, match="'unused' is in the model, but its forward never called"
    ):
        experiment(small, x, "unused")


def deconv(net, x, layer="tail", **arguments):
    return zfcuda.deconv(net, x, layer, **arguments)


def occlusion(net, x, **arguments):
    usual = {} if "positions" in arguments else {"size": 8, "stride": 8}
    return zfcuda.occlusion(net, x, **{**usual, **arguments})


def background(net, x, mask=torch.ones(16, 18), **arguments):  # noqa: B008
    return zfcuda.background_effect(net, x[:1], mask, "tail", **arguments)


REFUSED = {
    deconv: [
        ({"channel": 5}, r"channel in layer 'tail' must be between 0 and 4, got 5"),
        ({"channel": -1}, r"channel in layer 'tail' must be between 0 and 4, got -1"),
        ({"channel": 1.0}, r"channel .*must be an int or 2 of them .*got 1\.0"),
        ({"channel": True}, r"channel .*must be an int .*got True"),
        ({"channel": "a"}, r"channel .*must be an int or 2 of them .*got 'a'"),
        ({"channel": [1, 2, 3]}, r"an int or 2 of them \(one per image\), got \[1, 2, 3\]"),
        ({"position": (9, 0)}, r"position must be within the 3x3 maps .*got \(9, 0\)"),
        ({"position": (0, -1)}, r"position must be within the 3x3 maps .*got \(0, -1\)"),
        ({"position": "best"}, r"position must be 'max' or \(row, column\), got 'best'"),
        ({"position": np.array([1, 2])}, r"position must be 'max' or \(row, column\), got array"),
        ({"k": 0}, r"k must be a positive int, got 0"),
        ({"k": 6}, r"k is 6, but layer 'tail' has only 5 maps"),
        ({"k": 10, "channel": 0}, r"k is 10, .*only 9 positions in a map"),
        ({"k": 2, "channel": 0, "position": (0, 0)}, r"name one unit, but k is 2"),
        ({"seed": "one"}, r"seed must be 'activation' or a number, got 'one'"),
        ({"seed": np.array([1, 2])}, r"seed must be 'activation' or a number, got array"),
        ({"overlap": "max"}, r"overlap must be 'sum' or 'overwrite', got 'max'"),
        ({"rule": "guided"}, r"rule must be 'deconv' or 'gradient', got 'guided'"),
        ({"norm": None}, r"norm must be 'identity' or 'gradient', got None"),
        ({"rule": "gradient", "overlap": "overwrite"}, r"a gradient always sums"),
        ({"max_memory": 0}, r"max_memory must be a positive number of bytes, got 0"),
        ({"max_memory": "1GB"}, r"max_memory must be a positive number of bytes"),
        ({"max_memory": float("inf")}, r"max_memory must be a positive number of bytes"),
        ({"max_memory": True}, r"max_memory must be a positive number of bytes"),
    ],
    occlusion: [
        ({"size": 0}, r"size must be a positive int or a pair of them, got 0"),
        ({"size": (3, -3)}, r"size must be a positive int .*got \(3, -3\)"),
        ({"size": 2.5}, r"size must be a positive int .*got 2\.5"),
        ({"size": 17}, r"size must be at most .*\(16, 18\), got \(17, 17\)"),
        ({"stride": 0}, r"stride must be a positive int .*got 0"),
        ({"stride": (8, 19)}, r"stride must be at most .*\(16, 18\), got \(8, 19\)"),
        ({"target": 6}, r"target must be between 0 and 5, got 6"),
        ({"target": [0, -1]}, r"target must be between 0 and 5, got \[0, -1\]"),
        ({"target": [0, 1, 2]}, r"an int or 2 of them \(one per image\), got \[0, 1, 2\]"),
        ({"target": 1.5}, r"target must be an int or 2 of them .*got 1\.5"),
        ({"fill": [1.0, 2.0]}, r"fill must be .* of shape \[3\] or \[3, 16, 18\], got \[2\]"),
        ({"method": "fast"}, r"method must be 'auto', 'cone' or 'dense', got 'fast'"),
        ({"classes": ["a"]}, "classes must be ints"),
        ({"classes": [0.5]}, "classes must be ints"),
        ({"classes": [6]}, "classes must be between 0 and 5"),
        ({"positions": torch.zeros(2, 3).long()}, r"\[P,4\] .* not empty, got shape \[2, 3\]"),
        ({"positions": torch.zeros(0, 4).long()}, r"not empty, got shape \[0, 4\]"),
        (
            {"positions": torch.tensor([[0, 0, 2, 2], [40, 0, 50, 2]])},
            r"position 1, \[40, 0, 50, 2\] .* hides nothing of an image of 16x18 pixels",
        ),
        ({"score": "loss"}, r"score must be 'logit' or 'probability', got 'loss'"),
        ({"max_memory": -5}, r"max_memory must be a positive number of bytes, got -5"),
    ],
    zfcuda.rotation: [
        ({"values": []}, r"values must be a non-empty sequence of finite numbers"),
        ({"values": [0, float("nan")]}, r"finite numbers, got \[0, nan\]"),
        (
            {"fill": torch.zeros(3, 16, 18)},
            r"fill must be .* of shape \[3\], got \[3, 16, 18\]",
        ),
        ({"target": 7}, r"target must be between 0 and 5, got 7"),
    ],
    zfcuda.translation: [
        ({"values": [(1, 2, 3)]}, r"finite numbers or pairs \(down, right\), got"),
    ],
    zfcuda.scaling: [({"values": [1, -1]}, r"scale factors must be positive, got -1\.0")],
    background: [
        ({"mask": torch.ones(18, 16)}, r"mask must be a tensor of the image's size \[16, 18\]"),
        ({"mask": torch.ones(16, 18) + 1}, r"mask must be between 0 and 1, got 2\.0 to 2\.0"),
        ({"fills": {"cut-out": 0.0}}, r"fills must not be named \['cut-out'\]"),
        ({"fills": {"red": [1.0, 2.0]}}, r"fill must be .* of shape \[3\] or .*got \[2\]"),
        ({"target": 6}, r"target must be between 0 and 5, got 6"),
    ],
}
OF_THE_WRONG_KIND = [
    (zfcuda.rotation, {"values": "abc"}, r"values must be a sequence of numbers, got 'abc'"),
    (zfcuda.rotation, {"fill": "grey"}, r"fill must be a number or numbers, got 'grey'"),
    (deconv, {"layer": ["tail"]}, r"layers are named by strings, .* got \['tail'\]"),
    (occlusion, {"positions": [[0, 0, 1, 1]]}, "positions must be an int64 tensor .* got list"),
    (occlusion, {"positions": torch.zeros(2, 4)}, r"an int64 tensor .* got torch\.float32"),
    (occlusion, {"layers": 3}, r"layers are named by strings, .* got 3"),
]


def named(value):
    return getattr(value, "__name__", "") or str(value)[:40]


@pytest.mark.parametrize(
    ("experiment", "arguments", "message"),
    [(experiment, *row) for experiment, rows in REFUSED.items() for row in rows],
    ids=named,
)
def test_arguments(small, x, experiment, arguments, message):
    with pytest.raises(ValueError, match=message):
        experiment(small, x, **arguments)


@pytest.mark.parametrize(("experiment", "arguments", "message"), OF_THE_WRONG_KIND, ids=named)
def test_arguments_of_the_wrong_kind(small, x, experiment, arguments, message):
    with pytest.raises(TypeError, match=message):
        experiment(small, x, **arguments)


def test_images_of_the_wrong_kind(small, x):
    with pytest.raises(TypeError, match=r"x must be a dense tensor, got layout torch\.sparse_coo"):
        zfcuda.deconv(small, x.to_sparse(), "tail")
    with pytest.raises(ValueError, match=r"x must hold one image .*got shape \[2, 3, 16, 18\]"):
        zfcuda.background_effect(small, x, torch.ones(16, 18), "tail")


def test_deconv_of_other_outputs(x):
    def forward(m, x):
        m.tokens(x.flatten(2))
        m.pair((x, x))
        return m.cut(x.detach())

    odd = Model(forward, tokens=nn.Identity(), pair=nn.Identity(), cut=nn.Identity())
    with pytest.raises(ValueError, match=r"'tokens' must give maps .* it gives \[1, 3, 288\]"):
        zfcuda.deconv(odd, x, "tokens")
    with pytest.raises(ValueError, match=r"layer 'pair' must give maps .* it gives tuple"):
        zfcuda.deconv(odd, x, "pair")
    with pytest.raises(RuntimeError, match=r"'cut' does not depend on x .* detach or no_grad"):
        zfcuda.deconv(odd, x, "cut")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_scripted_models(x):
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()).double()
    scripted = torch.jit.script(net)
    with pytest.raises(TypeError, match="calls of a TorchScript model cannot be followed to 1"):
        zfcuda.deconv(scripted, x, "1")
    with pytest.raises(ValueError, match="layer '1' is inside a TorchScript model"):
        zfcuda.occlusion(scripted, x, layers=["1"])
    torch.testing.assert_close(zfcuda.deconv(scripted, x, ""), zfcuda.deconv(net, x, ""))


def test_occluder_as_large_as_the_image(small, x):
    result = zfcuda.occlusion(small, x, size=(16, 18), stride=(16, 18))
    assert result.grid == (1, 1)
    assert occluder_grid((16, 18), (16, 18), (1, 1))[1] == (1, 1)


@pytest.mark.parametrize("experiment", FORWARD)
def test_models_that_return_no_logits(x, experiment):
    more = {"size": 8} if experiment is zfcuda.occlusion else {}
    message = r"must return logits \[[12],K\], it returned \[[12], 3, 16, 18\]"
    with pytest.raises(ValueError, match=message):
        experiment(nn.Identity(), x, **more)


@dataclass
class Answer:
    features: torch.Tensor
    logits: torch.Tensor


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda y: {"aux": y[..., None], "out": y}, r"a dict with \[\"aux\"\] .*\(x\)\[\"out\"\]`"),
        (lambda y: OrderedDict(logits=y), r"a OrderedDict .* self\.model\(x\)\[\"logits\"\]`"),
        (lambda y: {0: y}, r"self\.model\(x\)\[0\]`"),
        (lambda y: (None, y), r"a tuple with \[1\] \[[12], 4\]; wrap it .* self\.model\(x\)\[1\]`"),
        (lambda y: Answer(y[..., None], y), r"a Answer with .* self\.model\(x\)\.logits`"),
        (lambda y: SimpleNamespace(y=y), r"self\.model\(x\)\.y`"),
        (lambda y: {"out": "nothing"}, r"returned a dict$"),
    ],
)
@pytest.mark.filterwarnings("ignore:occlusion runs dense")
def test_outputs_that_hold_the_logits_are_told_how_to_be_wrapped(x, answer, message):
    net = Model(
        lambda m, x: answer(x.flatten(1)[:, :4] * m.scale), scale=nn.Parameter(torch.ones(1))
    )

    for call in (zfcuda.predict, zfcuda.rotation, partial(zfcuda.occlusion, size=8, stride=8)):
        with pytest.raises(ValueError, match=rf"must return logits \[[12],K\], it .*{message}"):
            call(net, x.float())
    preprocessing = zfcuda.data.Preprocessing(size=16, resize=None)
    data = zfcuda.data.FromDataset([(torch.zeros(3, 16, 16), 0)], ("a",), preprocessing)
    with pytest.raises(ValueError, match=message):
        zfcuda.training.evaluate(net, data)
