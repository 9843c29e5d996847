"""A network small enough that every command runs in a blink, under the model name "tiny"."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import zfcuda.models
from zfcuda.data import Preprocessing

NAMES = ("cat", "dog", "<b>bold</b> & $5", "a very long class name, in several words", "fox")


def _network(spec):
    if spec != "tiny":
        raise ValueError(f"unknown model '{spec}'; expected tiny")
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), zfcuda.nn.MaxPool2d(3, 2),
        nn.Conv2d(4, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
    ).eval()  # fmt: skip


@pytest.fixture
def tiny(monkeypatch):
    preprocessing = Preprocessing(size=32, resize=None)
    monkeypatch.setattr(zfcuda.models, "load", _network)
    monkeypatch.setattr(zfcuda.models, "preprocessing", lambda *_: preprocessing)
    monkeypatch.setattr(zfcuda.models, "class_names", lambda *_: NAMES)


@pytest.fixture
def photos(picture_folder):
    """Pictures of two classes, two of them broken."""
    folder = picture_folder({"cat": 3, "dog": 2}, "photos")
    (folder / "dog" / "1.png").rename(folder / "dog" / "e f.png")
    (folder / "cat" / "broken.png").write_bytes(b"\x89PNG not really")
    (folder / "dog" / "cut.png").write_bytes((folder / "dog" / "0.png").read_bytes()[:900])
    return folder


@pytest.fixture
def photo(tmp_path):
    """Writes a picture and returns its path."""

    def write(name="photo.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(name)).integers(0, 255, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return str(path)

    return write
