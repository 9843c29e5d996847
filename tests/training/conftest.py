"""Data sets and networks small enough to be trained in a blink."""

import pytest
import torch
from sets import NAMES, SMALL, garments
from torch import nn

import zfcuda.nn
from zfcuda.data import Pictures, Split


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
