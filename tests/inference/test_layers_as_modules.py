"""A layer may be given as the module itself, wherever its name may be."""

from __future__ import annotations

import copy

import pytest
import torch

import zfcuda
from zfcuda.cones.receptive import receptive_fields


@pytest.fixture
def small(make):
    return make("VGGLike")


def test_every_experiment_takes_modules(small, x, tmp_path):
    early, late = small.features[0], small.tail  # "features.0" and "tail"
    names = ["features.0", "tail"]
    block = small.features  # a module that can be iterated over
    assert torch.equal(zfcuda.deconv(small, x, late), zfcuda.deconv(small, x, "tail"))
    assert torch.equal(zfcuda.deconv(small, x, block), zfcuda.deconv(small, x, "features"))
    assert zfcuda.projections(small, x, [early, "tail"]).layers == ("features.0", "tail")
    units = {early: (0, 1, 2), "tail": "strongest"}
    assert zfcuda.project(small, x, [early, late], units).layers == ("features.0", "tail")
    assert [*zfcuda.rotation(small, x, [0], layers=[early, late]).distances] == names
    occluded = zfcuda.occlusion(small, x, size=8, stride=8, layers=[early, late])
    assert [*occluded.layers] == names
    zfcuda.plan(small, x, size=8, stride=8, layers=late)
    mask = torch.ones(16, 18)
    assert [*zfcuda.background_effect(small, x[:1], mask, late).projections] == ["tail"]
    assert zfcuda.diagram_of(small, x[:1], late).layer == "tail"
    assert [*receptive_fields(small, x, [early, late])] == names
    parts = {"a": torch.tensor([0, 0, 4, 4])}
    assert zfcuda.correspondence(small, x, parts, [early, late]).layers == ("features.0", "tail")
    top = zfcuda.top_activations(small, x, [early, late], k=1, maps={early: [1], late: 2})
    assert top.layers == ("features.0", "tail") and top.channels["features.0"].tolist() == [1]
    stored = zfcuda.record_activations(tmp_path / "r", small, x, late, k=1, maps={late: [0]})
    assert stored.layers == ("tail",)
    zfcuda.occlusion_over(small, x, tmp_path / "o", size=8, stride=8, layers=late)
    study = {"rotation": [0, 9]}
    zfcuda.invariance_over(small, x, tmp_path / "i", layers=[early, late], transformations=study)
    assert zfcuda.first_layer_filters(small, layer=early).layer == "features.0"


def test_evolution_takes_modules_of_the_model_or_of_a_checkpoint(small, x):
    states = {"1": small.state_dict(), "2": small.state_dict()}
    found = zfcuda.evolution(states, x, small.tail, small, maps={small.tail: [3]})
    assert found.layers == ("tail",) and found.channels["tail"].tolist() == [3]
    models = {"1": copy.deepcopy(small), "2": small}
    assert zfcuda.evolution(models, x, small.tail, maps=1).layers == ("tail",)
    assert zfcuda.evolution(models, x, models["1"].tail, maps=1).layers == ("tail",)


def test_modules_of_another_model_are_refused(small, x):
    other = copy.deepcopy(small).tail
    message = r"no module that is this Conv2d\(6, 5, .* itself .*; take it from this model"
    with pytest.raises(ValueError, match=message):
        zfcuda.deconv(small, x, other)
    with pytest.raises(ValueError, match=message):
        zfcuda.rotation(small, x, [0], layers=["tail", other])
    with pytest.raises(TypeError, match="or are modules of the model, got 3"):
        zfcuda.deconv(small, x, 3)
