"""SqueezeNet 1.1: its layout, and its trained weights on real photographs."""

import json
from pathlib import Path

import pytest
import skimage.data
import torch
from PIL import Image

import zfcuda.nn
from zfcuda.models import class_names, load, preprocessing, squeezenet1_1

# Name and shape of every tensor of torchvision 0.28's squeezenet1_1.
LAYOUT = json.loads((Path(__file__).parent / "squeezenet1_1_layout.json").read_text())


def test_state_dict_is_laid_out_as_torchvisions():
    with torch.device("meta"):
        state = squeezenet1_1().state_dict()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == LAYOUT
    assert list(state) == list(LAYOUT)


def test_modules_have_torchvisions_names():
    with torch.device("meta"):
        model = squeezenet1_1(num_classes=7)
    names = [name for name, _ in model.named_children()]
    assert names == ["features", "classifier"] and len(model.features) == 13
    assert [name for name, _ in model.features[3].named_children()] == [
        f"{part}{end}"
        for part in ("squeeze", "expand1x1", "expand3x3")
        for end in ("", "_activation")
    ]
    pools = [i for i, m in enumerate(model.features) if isinstance(m, zfcuda.nn.MaxPool2d)]
    assert pools == [2, 5, 8] and all(model.features[i].ceil_mode for i in pools)
    assert isinstance(model.classifier[0], torch.nn.Dropout)
    assert model.classifier[1].out_channels == 7


@pytest.mark.parametrize("size", [224, 227, 100])
def test_any_reasonable_size_gives_logits(size):
    assert squeezenet1_1(num_classes=5)(torch.zeros(2, 3, size, size)).shape == (2, 5)


def answers(model, picture):
    x = preprocessing("squeezenet1_1").to_input(Image.fromarray(picture))
    with torch.no_grad():
        probabilities = model(x).softmax(dim=1)[0]
    values, labels = probabilities.topk(3)
    names = class_names("squeezenet1_1")
    return {names[label]: p for label, p in zip(labels.tolist(), values.tolist(), strict=True)}


def test_photographs_are_known():
    model = load("squeezenet1_1")
    found = answers(model, skimage.data.coffee())
    assert next(iter(found)) == "espresso" and found["espresso"] > 0.95
    found = answers(model, skimage.data.chelsea())
    assert list(found) == ["Egyptian cat", "tabby", "tiger cat"]
    assert found["Egyptian cat"] == pytest.approx(0.44, abs=0.05)
