"""Data sets and networks small enough to be trained in a blink."""

import gzip

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import zfcuda.nn
from zfcuda.data import Pictures, Split

from .sets import NAMES, SMALL, garments, idx_bytes


@pytest.fixture
def idx_folder(tmp_path):
    """Writes the four files of the MNIST family (some of them gzipped) and returns the folder."""

    def write(training=60, test=12, classes=3, name="idx"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for part, count in (("train", training), ("t10k", test)):
            images, labels = garments(count, classes)
            (folder / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
            packed = gzip.compress(idx_bytes(labels))
            (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(packed)
        return folder

    return write


@pytest.fixture
def picture_folder(tmp_path):
    """Writes folders of pictures: a mapping of class (or part/class) to their number."""

    def write(counts, name="pictures"):
        rng = np.random.default_rng(0)
        for where, count in counts.items():
            folder = tmp_path / name / where
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
        return tmp_path / name

    return write


@pytest.fixture
def data():
    def part(count, seed):
        grey, labels = garments(count, seed=seed)
        images = torch.from_numpy(grey)[:, None, 4:24, 4:24].repeat(1, 3, 1, 1)
        return Pictures(images, torch.from_numpy(labels).long(), NAMES, SMALL)

    return Split(part(48, 0), part(15, 1), part(15, 2), "halves")


@pytest.fixture
def network():
    """Makes a small network on our ops, with dropout; always with the same weights."""

    def make(width=4):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, width, 3), nn.ReLU(), zfcuda.nn.MaxPool2d(3, 2, ceil_mode=True),
            zfcuda.nn.LocalResponseNorm(3), nn.Conv2d(width, 6, 3), nn.ReLU(), nn.Flatten(),
            nn.Dropout(0.5), nn.Linear(150, 3),
        ).to(memory_format=torch.channels_last)  # fmt: skip

    return make
