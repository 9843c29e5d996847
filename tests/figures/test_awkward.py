"""Awkward results of every kind draw themselves, their texts apart and on the page."""

import math
from dataclasses import replace

import numpy as np
import pytest
import samples
import torch
from samples import CLASS_NAMES, DEEP, EXAMPLE, IMAGES, NESTED, STUDIED, WITH_VECTOR
from tidy import assert_tidy
from torch import nn

from zfcuda.experiments.filters import first_layer_filters
from zfcuda.results import Predictions
from zfcuda.results.diagram import Source


def scaled(scale):
    """A switch example with numbers of another size."""
    own = {name: getattr(EXAMPLE, name) * scale for name in ("values", "pooled", "unpooled")}
    return replace(EXAMPLE, **own)


def diagram_of(size):
    return samples.diagram(image=torch.randn(size), projection=torch.randn(size))


def grey_filters():
    return first_layer_filters(nn.Sequential(nn.Conv2d(1, 10, 5, 2), nn.ReLU()))


def no_numbers():
    found = samples.uncertainty(n=20, classes=3)
    found.logits[3] = math.nan
    return found


SHOWN = {"images": IMAGES, "class_names": CLASS_NAMES, "title": "a title"}
PICTURES = dict.fromkeys(WITH_VECTOR, np.resize(IMAGES, (3, 3, 8, 8, 3)))
GIVEN = {"projections": PICTURES, "patches": PICTURES, "columns": 3}
EPOCHS = ("epoch-0001-of-a-run", "epoch-0002-of-a-run", "last")
NAMED = {"nan": True, "name": "a file with quite a long name of several words"}

# What makes a result, with what, and what its figure is given.
AWKWARD = [
    (Predictions, {"logits": torch.tensor([[1.0, 2.0]])}, {"images": IMAGES}),
    (Predictions, {"logits": torch.full((1, 9), torch.nan)}, {"images": IMAGES}),
    (Predictions, {"logits": torch.arange(7.0)[None].half()}, {}),
    (Predictions, {"logits": torch.arange(7.0)[None].bfloat16()}, {}),
    (Predictions, {"logits": torch.arange(7.0)[None].double()}, {}),
    (samples.invariance, {}, SHOWN),
    (samples.invariance, {"nan": True}, SHOWN),
    (samples.invariance, {"kind": "translation"}, SHOWN),
    (samples.invariance, {"kind": "translation", "nan": True}, SHOWN),
    (samples.invariance, {"kind": "scaling"}, SHOWN),
    (samples.invariance, {"kind": "scaling", "nan": True}, SHOWN),
    (samples.invariance, {}, {"images": IMAGES, "image_values": [0, 1, 1, 2, 300]}),  # crowded
    (samples.invariance, {"count": 1}, {}),
    (samples.invariance, {"count": 2}, {}),
    (samples.invariance, {"count": 73}, {}),
    (samples.study, NAMED, {"class_names": CLASS_NAMES}),
    (samples.study, {"families": ["rotation"]}, {}),
    (samples.study, {"families": ["scale", "vertical translation"], "layers": STUDIED[:1]}, {}),
    (samples.study, {"layers": (*STUDIED, DEEP)}, {"class_names": CLASS_NAMES}),
    (samples.correspondence, {"n": 2, "draws": 1}, {}),  # of two images there is no deviation
    (samples.correspondence, {"n": 2, "draws": 1, "elements": 10**7}, {}),
    (samples.evolution, {"names": EPOCHS}, GIVEN),
    (samples.evolution, {"maps": 0}, {"title": "nothing"}),
    (samples.maxima, {"k": 4, "count": 0}, {"title": "nothing"}),
    (samples.probe, {}, {}),
    (samples.ablation, {}, {}),
    (grey_filters, {}, {}),
    (no_numbers, {}, {}),
    (samples.diagram, {"switch": None}, {}),
    (samples.diagram, {"sources": (Source(NESTED, (48, 15, 15), 7),)}, {}),
    (samples.diagram, {"activation": math.nan, "projection": torch.zeros(3, 32, 32)}, {}),
    (samples.diagram, {"activation": -1.5e-8}, {}),
    (diagram_of, {"size": (1, 32, 48)}, {}),
    (diagram_of, {"size": (5, 48, 32)}, {}),
    *((samples.diagram, {"switch": scaled(s)}, {}) for s in (1e-7, 0.02, 1.0, 3e6, 0.0, math.nan)),
]


@pytest.mark.parametrize(("make", "settings", "shown"), AWKWARD)
def test_an_awkward_result_is_tidy(make, settings, shown):
    assert_tidy(make(**settings).plot(**shown))
