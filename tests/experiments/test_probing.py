"""Linear probes: what is fitted to which features of which pictures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zfcuda
from zfcuda.data import Pictures, Preprocessing, Split
from zfcuda.experiments.probing import Features, layers_by_depth
from zfcuda.results.base import wilson
from zfcuda.results.training import PIXELS, ProbeResult

pytest.importorskip("sklearn")

SMALL = Preprocessing(size=8, resize=None, mean=(0.5,) * 3, std=(0.25,) * 3)
NAMES = ("flat", "bright", "red")


def pictures(count, seed):
    """Noise; of the second class brighter, of the third redder."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = torch.randint(60, 160, (count, 3, 8, 8), generator=rng)
    images[labels == 1] += 60
    images[labels == 2, 0] += 60
    return Pictures(images.to(torch.uint8), labels, NAMES, SMALL)


@pytest.fixture
def data():
    return Split(pictures(90, 0), pictures(30, 1), pictures(60, 2), "noise")


@pytest.fixture
def net():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


def test_the_classifiers_are_scikit_learns(net, data):
    """One layer, from the features to the accuracies, by hand."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    strengths = [1e-4, 1e-1]
    result = zfcuda.linear_probe(net, data, "2", size=30, regularisation=strengths, pixels=False)
    features, labels = [], []
    for part in (data.training, data.validation, data.test):
        x, y = part.batch(torch.arange(len(part)))
        with torch.no_grad():
            features.append(F.adaptive_avg_pool2d(net[:3].eval()(x), 2).flatten(1).numpy())
        labels.append(y.numpy())
    scaler = StandardScaler().fit(features[0])
    fits = [
        LogisticRegression(C=c, max_iter=300).fit(scaler.transform(features[0]), labels[0])
        for c in strengths
    ]
    scores = [[fit.score(scaler.transform(x), y) for x, y in zip(features, labels, strict=True)]
              for fit in fits]  # fmt: skip
    chosen = int(np.argmax([score[1] for score in scores]))
    assert result.shapes == ((6, 4, 4),) and result.pooled == ((6, 2, 2),)
    assert result.features == [24] and result.pictures == (90, 30, 60)
    assert result.chosen.tolist() == [chosen]
    assert result.validation_accuracy[0].tolist() == pytest.approx([s[1] for s in scores], abs=0.04)
    assert result.training_accuracy.item() == pytest.approx(scores[chosen][0], abs=0.03)
    assert result.accuracy.item() == pytest.approx(scores[chosen][2], abs=0.03)
    assert result.accuracy.item() > 0.8
    assert torch.equal(result.interval, wilson(result.accuracy, 60))
    assert result.chance == pytest.approx(1 / 3)
    x, y = data.test.batch(torch.arange(60))
    with torch.no_grad():
        own = (net(x).argmax(1) == y).double().mean()
    assert result.network_accuracy == pytest.approx(float(own))


def test_pixels_come_first_and_layers_follow(net, data, tmp_path):
    result = zfcuda.linear_probe(net, data, size=50)
    assert result.layers == (PIXELS, "2", "4")
    assert result.pooled == ((3, 4, 4), (6, 2, 2), (4, 2, 2))
    assert result.converged.shape == (3, 5) and result.converged.dtype == torch.bool
    result.save(tmp_path / "p")
    again = ProbeResult.load(tmp_path / "p")
    assert again.table() == result.table() and again.shapes == result.shapes
    assert again.table().count("\n") == 4


def test_features_that_do_not_fit_are_read_in_turns(net, data, monkeypatch):
    whole = zfcuda.linear_probe(net, data, ["1", "2", "4"], size=24)
    groups = []
    read = Features.read
    monkeypatch.setattr(
        Features, "read", lambda self, names: groups.append([*names]) or read(self, names)
    )
    limit = 4 * 180 * 52  # room for two layers
    parts = zfcuda.linear_probe(net, data, ["1", "2", "4"], size=24, max_features=limit)
    assert groups == [[PIXELS, "1"], ["2", "4"]]
    assert torch.equal(parts.validation_accuracy, whole.validation_accuracy)
    assert torch.equal(parts.accuracy, whole.accuracy)
    with pytest.raises(ValueError, match=r"layer 'input pixels' take 8,640 bytes, 12 numbers"):
        zfcuda.linear_probe(net, data, "1", size=24, max_features=8000)


def test_of_equal_strengths_the_stronger_is_chosen(net, data):
    for part in (data.training, data.validation, data.test):  # told apart by anything
        part.images[:] = 0
        part.images[part.labels == 1] = 255
        part.images[part.labels == 2, 0] = 255
    result = zfcuda.linear_probe(net, data, "4")
    assert result.chosen.tolist() == [0, 0] and result.accuracy.tolist() == [1, 1]


def test_features_that_never_vary(data):
    """Constant features and one of zeros neither break nor count."""
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten(), nn.Linear(192, 3))
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.copy_(torch.tensor([0.0, 5.0, -7.0]))
    result = zfcuda.linear_probe(net, data, "0", pixels=False)
    assert result.accuracy.item() == pytest.approx(1 / 3)


def test_layers_by_depth():
    x = torch.zeros(1, 3, 64, 64)
    small = zfcuda.models.zfnet_small()
    assert layers_by_depth(small, x) == [
        "norm1", "norm2", "relu3", "relu4", "pool5", "relu6", "relu7",
    ]  # fmt: skip
    assert layers_by_depth(small, x, most=3) == ["norm2", "relu4", "relu7"]
    squeeze = layers_by_depth(zfcuda.models.squeezenet1_1(10), x, most=20)
    assert squeeze == [f"features.{i}" for i in (2, 3, 5, 6, 8, 9, 10, 11, 12)]
    with pytest.raises(ValueError, match="no layers to probe"):
        layers_by_depth(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 2)), x)


def test_the_model_is_left_as_it_was(net, data):
    net.train()
    zfcuda.linear_probe(net, data, "2", pixels=False, regularisation=[1e-3])
    assert all(module.training for module in net.modules())
    assert not any(module._forward_hooks for module in net.modules())


def test_a_fit_that_is_cut_short_is_told(net, data):
    with pytest.warns(UserWarning, match=r"\['4'\] had not converged after 1 steps"):
        result = zfcuda.linear_probe(net, data, "4", pixels=False, regularisation=[10], steps=1)
    assert result.converged.tolist() == [[False]]


def test_bad_arguments(net, data):
    import dataclasses

    def refused(message, data=data, layers="2", **more):
        with pytest.raises(ValueError, match=message):
            zfcuda.linear_probe(net, data, layers, **more)

    refused("regularisation must be positive", regularisation=[0.0])
    refused("regularisation must be positive", regularisation=[])
    refused("regularisation must be positive", regularisation=[1.0, math.nan])
    refused("size and steps must be at least 1, got 0 and 300", size=0)
    refused("no layer 'nope'", layers="nope")
    refused("at least one layer", layers=(), pixels=False)
    images, labels = data.training.images, data.training.labels
    single = Pictures(images[labels == 1], labels[labels == 1], NAMES, SMALL)
    refused("a single class", data=dataclasses.replace(data, training=single))
    nothing = Pictures(images[:0], labels[:0], NAMES, SMALL)
    refused("the test part is empty", data=dataclasses.replace(data, test=nothing))
    with torch.no_grad():
        net[0].weight.fill_(math.nan)
    refused("not finite")


def test_without_scikit_learn(net, data, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    with pytest.raises(ModuleNotFoundError, match=r"zfcuda\[probe\]"):
        zfcuda.linear_probe(net, data)
