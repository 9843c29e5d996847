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

import zfcuda
from zfcuda import ops
from zfcuda.experiments.occlusion.engines import occluder_grid


@pytest.fixture
def small(make):
    return make("VGGLike")


FORWARD = [zfcuda.occlusion, zfcuda.rotation, zfcuda.translation, zfcuda.scaling, zfcuda.predict]
ALL = [*FORWARD, lambda model, x: zfcuda.deconv(model, x, "tail")]


class TwoInputs(nn.Module):
    def forward(self, x, mask):
        return (x * mask).flatten(1)


@pytest.mark.parametrize("experiment", ALL)
def test_a_model_of_two_inputs(x, experiment):
    with pytest.raises(
        TypeError,
        match=r"take the images alone, but for its forward\(x, mask\): missing .* 'mask'; wrap it",
    ):
        experiment(TwoInputs(), x)


@pytest.mark.parametrize("experiment", ALL)
def test_input(small, x, experiment):
    with pytest.raises(ValueError, match=r"got shape \[3, 16, 18\]; add the batch dimension"):
        experiment(small, x[0])
    with pytest.raises(ValueError, match=r"got shape \[0, 3, 16, 18\]"):
        experiment(small, x[:0])
    with pytest.raises(TypeError, match=r"x must be floating point, got torch\.int64"):
        experiment(small, x.long())
    with pytest.raises(
        TypeError, match=r"x is torch\.float32, the model's weights are torch\.float64"
    ):
        experiment(small, x.float())
    with pytest.raises(ValueError, match=r"x is on meta, the model on cpu"):
        experiment(small, x.to("meta"))
    with pytest.raises(TypeError, match=r"x must be a tensor .* got list"):
        experiment(small, x.tolist())
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


DECONV = {
    "channel 5 of 5": ({"channel": 5}, r"channel in layer 'tail' must be between 0 and 4, got 5"),
    "channel -1": ({"channel": -1}, r"channel in layer 'tail' must be between 0 and 4, got -1"),
    "channel 1.0": ({"channel": 1.0}, r"channel .*must be an int or 2 of them .*got 1\.0"),
    "channel True": ({"channel": True}, r"channel .*must be an int .*got True"),
    "channel a": ({"channel": "a"}, r"channel .*must be an int or 2 of them .*got 'a'"),
    "3 channels": (
        {"channel": [1, 2, 3]},
        r"an int or 2 of them \(one per image\), got \[1, 2, 3\]",
    ),
    "row": ({"position": (9, 0)}, r"position must be within the 3x3 maps .*got \(9, 0\)"),
    "column": ({"position": (0, -1)}, r"position must be within the 3x3 maps .*got \(0, -1\)"),
    "position": ({"position": "best"}, r"position must be 'max' or \(row, column\), got 'best'"),
    "k 0": ({"k": 0}, r"k must be a positive int, got 0"),
    "k 6 maps": ({"k": 6}, r"k is 6, but layer 'tail' has only 5 maps"),
    "k 10 positions": ({"k": 10, "channel": 0}, r"k is 10, .*only 9 positions in a map"),
    "one unit, k 2": ({"k": 2, "channel": 0, "position": (0, 0)}, r"name one unit, but k is 2"),
    "seed": ({"seed": "one"}, r"seed must be 'activation' or a number, got 'one'"),
    "overlap": ({"overlap": "max"}, r"overlap must be 'sum' or 'overwrite', got 'max'"),
    "rule": ({"rule": "guided"}, r"rule must be 'deconv' or 'gradient', got 'guided'"),
    "norm": ({"norm": None}, r"norm must be 'identity' or 'gradient', got None"),
    "overwriting gradient": (
        {"rule": "gradient", "overlap": "overwrite"},
        r"a gradient always sums",
    ),
    "memory": ({"max_memory": 0}, r"max_memory must be a positive number of bytes, got 0"),
}


@pytest.mark.parametrize(("arguments", "message"), DECONV.values(), ids=DECONV.keys())
def test_deconv(small, x, arguments, message):
    with pytest.raises(ValueError, match=message):
        zfcuda.deconv(small, x, "tail", **arguments)


def test_deconv_of_other_outputs(x):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.pair, self.cut = nn.Identity(), nn.Identity(), nn.Identity()

        def forward(self, x):
            self.tokens(x.flatten(2))
            self.pair((x, x))
            return self.cut(x.detach())

    with pytest.raises(
        ValueError, match=r"layer 'tokens' must give maps .* it gives \[1, 3, 288\]"
    ):
        zfcuda.deconv(Odd(), x, "tokens")
    with pytest.raises(ValueError, match=r"layer 'pair' must give maps .* it gives tuple"):
        zfcuda.deconv(Odd(), x, "pair")
    with pytest.raises(RuntimeError, match=r"'cut' does not depend on x .* detach or no_grad"):
        zfcuda.deconv(Odd(), x, "cut")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_scripted_models(x):
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()).double()
    with pytest.raises(TypeError, match="calls of a TorchScript model cannot be followed"):
        zfcuda.deconv(torch.jit.script(net), x, "1")


OCCLUSION = {
    "size 0": ({"size": 0}, r"size must be a positive int or a pair of them, got 0"),
    "size -3": ({"size": (3, -3)}, r"size must be a positive int .*got \(3, -3\)"),
    "size 2.5": ({"size": 2.5}, r"size must be a positive int .*got 2\.5"),
    "size 17": ({"size": 17}, r"size must be at most .*\(16, 18\), got \(17, 17\)"),
    "stride 0": ({"stride": 0}, r"stride must be a positive int .*got 0"),
    "stride 19": ({"stride": (8, 19)}, r"stride must be at most .*\(16, 18\), got \(8, 19\)"),
    "target 6": ({"target": 6}, r"target must be between 0 and 5, got 6"),
    "target -1": ({"target": [0, -1]}, r"target must be between 0 and 5, got \[0, -1\]"),
    "3 targets": ({"target": [0, 1, 2]}, r"an int or 2 of them \(one per image\), got \[0, 1, 2\]"),
    "target float": ({"target": 1.5}, r"target must be an int or 2 of them .*got 1\.5"),
    "fill": (
        {"fill": [1.0, 2.0]},
        r"fill must be a number or of shape \[3\] or \[3, 16, 18\], got \[2\]",
    ),
    "method": ({"method": "fast"}, r"method must be 'auto', 'cone' or 'dense', got 'fast'"),
    "score": ({"score": "loss"}, r"score must be 'logit' or 'probability', got 'loss'"),
    "memory": ({"max_memory": -5}, r"max_memory must be a positive number of bytes, got -5"),
}


@pytest.mark.parametrize(("arguments", "message"), OCCLUSION.values(), ids=OCCLUSION.keys())
def test_occlusion(small, x, arguments, message):
    with pytest.raises(ValueError, match=message):
        zfcuda.occlusion(small, x, **{"size": 8, "stride": 8, **arguments})


def test_occluder_as_large_as_the_image(small, x):
    result = zfcuda.occlusion(small, x, size=(16, 18), stride=(16, 18))
    assert result.grid == (1, 1)
    assert occluder_grid((16, 18), (16, 18), (1, 1))[1] == (1, 1)


def test_values(small, x):
    with pytest.raises(ValueError, match=r"values must be a non-empty sequence of finite numbers"):
        zfcuda.rotation(small, x, [])
    with pytest.raises(ValueError, match=r"finite numbers, got \[0, nan\]"):
        zfcuda.rotation(small, x, [0, float("nan")])
    with pytest.raises(TypeError, match=r"values must be a sequence of numbers, got 'abc'"):
        zfcuda.rotation(small, x, "abc")
    with pytest.raises(ValueError, match=r"finite numbers or pairs \(down, right\), got"):
        zfcuda.translation(small, x, [(1, 2, 3)])
    with pytest.raises(ValueError, match=r"scale factors must be positive, got -1\.0"):
        zfcuda.scaling(small, x, [1, -1])
    with pytest.raises(
        ValueError, match=r"fill must be a number or of shape \[3\], got \[3, 16, 18\]"
    ):
        zfcuda.rotation(small, x, [0], fill=torch.zeros(3, 16, 18))
    with pytest.raises(TypeError, match=r"fill must be a number or numbers, got 'grey'"):
        zfcuda.rotation(small, x, [0], fill="grey")
    with pytest.raises(ValueError, match=r"target must be between 0 and 5, got 7"):
        zfcuda.rotation(small, x, [0], target=7)


@pytest.mark.parametrize("experiment", FORWARD)
def test_models_that_return_no_logits(x, experiment):
    with pytest.raises(
        ValueError, match=r"must return logits \[[12],K\], it returned \[[12], 3, 16, 18\]"
    ):
        experiment(nn.Identity(), x) if experiment is not zfcuda.occlusion else experiment(
            nn.Identity(), x, size=8
        )


def test_background(small, x):
    mask = torch.ones(16, 18)
    with pytest.raises(ValueError, match=r"x must hold one image .*got shape \[2, 3, 16, 18\]"):
        zfcuda.background_effect(small, x, mask, "tail")
    one = x[:1]
    with pytest.raises(ValueError, match=r"mask must be a tensor of the image's size \[16, 18\]"):
        zfcuda.background_effect(small, one, mask.T, "tail")
    with pytest.raises(ValueError, match=r"mask must be between 0 and 1, got 2\.0 to 2\.0"):
        zfcuda.background_effect(small, one, mask + 1, "tail")
    with pytest.raises(ValueError, match=r"fills must not be named \['cut-out'\]"):
        zfcuda.background_effect(small, one, mask, "tail", fills={"cut-out": 0.0})
    with pytest.raises(ValueError, match=r"fill must be a number or of shape \[3\] or .*got \[2\]"):
        zfcuda.background_effect(small, one, mask, "tail", fills={"red": [1.0, 2.0]})
    with pytest.raises(ValueError, match=r"target must be between 0 and 5, got 6"):
        zfcuda.background_effect(small, one, mask, "tail", target=6)


def test_arguments_of_the_wrong_kind(small, x):
    with pytest.raises(TypeError, match=r"layers are named by strings, .* got \['tail'\]"):
        zfcuda.deconv(small, x, ["tail"])
    with pytest.raises(TypeError, match=r"layers are named by strings, .* got 3"):
        zfcuda.occlusion(small, x, size=8, layers=3)
    with pytest.raises(TypeError, match=r"x must be a dense tensor, got layout torch\.sparse_coo"):
        zfcuda.deconv(small, x.to_sparse(), "tail")
    with pytest.raises(ValueError, match=r"position must be 'max' or \(row, column\), got array"):
        zfcuda.deconv(small, x, "tail", position=np.array([1, 2]))
    with pytest.raises(ValueError, match=r"seed must be 'activation' or a number, got array"):
        zfcuda.deconv(small, x, "tail", seed=np.array([1, 2]))
    for memory in ("1GB", float("inf"), True):
        with pytest.raises(ValueError, match=r"max_memory must be a positive number of bytes"):
            zfcuda.deconv(small, x, "tail", max_memory=memory)


def test_arguments_of_ops(x):
    with pytest.raises(TypeError, match="boxes must be a tensor, got list"):
        ops.occlude(x, [[0, 0, 1, 1]])
    with pytest.raises(TypeError, match="matrices must be a tensor, got list"):
        ops.warp_affine(x, [[[1, 0, 0], [0, 1, 0]]])
    for kernel in (3.0, "3", (3, None)):
        with pytest.raises(ValueError, match="kernel_size must be an int or a pair of ints, got"):
            ops.max_pool2d(x, kernel)
    assert ops.max_pool2d(x, np.int64(3))[0].shape == (2, 3, 5, 6)


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
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return answer(x.flatten(1)[:, :4] * self.scale)

    for call in (zfcuda.predict, zfcuda.rotation, partial(zfcuda.occlusion, size=8, stride=8)):
        with pytest.raises(ValueError, match=rf"must return logits \[[12],K\], it .*{message}"):
            call(Net(), x.float())
    preprocessing = zfcuda.data.Preprocessing(size=16, resize=None)
    data = zfcuda.data.FromDataset([(torch.zeros(3, 16, 16), 0)], ("a",), preprocessing)
    with pytest.raises(ValueError, match=message):
        zfcuda.training.evaluate(Net(), data)
