"""A zoo of tiny networks, one for each way of writing a CNN, all float64 with random weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zfcuda

LAYER = "tail"  # every network of the zoo has a convolution of this name


class Head(nn.Module):
    """The common end: a convolution to look at, then classes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.tail = nn.Conv2d(channels, 5, 3, padding=1)
        self.classes = nn.Linear(5 * 4, 6)

    def finish(self, x: Tensor) -> Tensor:
        return self.classes(F.adaptive_avg_pool2d(self.tail(x).relu(), 2).flatten(1))


class VGGLike(Head):
    """In-place ReLU modules in a Sequential, average pooling, dropout."""

    def __init__(self) -> None:
        super().__init__(6)
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3),
            nn.ReLU(inplace=True),
            nn.AvgPool2d(2),
        )
        self.dropout = nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(self.dropout(self.features(x)))


class Functional(Head):
    """Functions and methods instead of modules; overlapping pools; ``x.relu_()`` with unused
    result."""

    def __init__(self) -> None:
        super().__init__(6)
        self.first = nn.Conv2d(3, 4, 3)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.third = nn.Conv2d(4, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x.relu_()
        x = F.max_pool2d(x, 3, 2, padding=1)
        x = torch.relu(self.second(x))
        x = self.third(x).clamp_(min=0)
        return self.finish(torch.max_pool2d(x, 3, 1))


class Reused(Head):
    """One ReLU, one convolution and one pool, each called several times."""

    def __init__(self) -> None:
        super().__init__(3)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.conv(x)))
        return self.finish(self.pool(self.relu(self.conv(x))))


class Residual(Head):
    """Batch norm, and a sum that is rectified in place."""

    def __init__(self) -> None:
        super().__init__(4)
        self.stem = nn.Conv2d(3, 4, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.inner = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.relu = nn.ReLU(inplace=True)
        for norm in (self.norm, self.inner[1]):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
            nn.init.normal_(norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)), inplace=True)
        out = self.inner(x)
        out += x
        return self.finish(self.relu(out))


class Inception(Head):
    """Branches that are concatenated; ReLU6, LeakyReLU and Hardtanh count as ReLU."""

    def __init__(self) -> None:
        super().__init__(3 + 2 + 2 + 3)
        self.a = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU6(inplace=True))
        self.b = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.LeakyReLU(0.1))
        self.c = nn.Conv2d(3, 2, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.a(x), self.b(x), F.hardtanh(self.c(x), 0.0, 6.0), F.max_pool2d(x, 3, 1, 1)]
        return self.finish(F.avg_pool2d(torch.cat(branches, 1), 2))


class Fused(Head):
    """zfcuda's own modules: ReLU inside the pool, contrast normalisation."""

    def __init__(self) -> None:
        super().__init__(6)
        self.first = nn.Conv2d(3, 4, 3)
        self.pool = zfcuda.nn.MaxPool2d(3, 2, ceil_mode=True, relu=True)
        self.norm = zfcuda.nn.LocalResponseNorm(3, alpha=0.5, k=2.0)
        self.second = nn.Conv2d(4, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.norm(self.first(x)))
        return self.finish(self.second(x).relu())


class Normed(Head):
    """torch's contrast normalisation; indices of a pool; pixel shuffling and slicing."""

    def __init__(self) -> None:
        super().__init__(2)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.LocalResponseNorm(5, alpha=0.5, k=2.0)
        self.pool = nn.MaxPool2d(2, return_indices=True)

    def forward(self, x: Tensor) -> Tensor:
        x, indices = self.pool(self.norm(self.first(x).relu()))
        x = F.max_unpool2d(x, indices, 2)
        return self.finish(F.pixel_shuffle(x, 2)[:, :, ::2, 1::2])


ZOO = [VGGLike, Functional, Reused, Residual, Inception, Fused, Normed]
