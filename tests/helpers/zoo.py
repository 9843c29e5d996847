"""A zoo of tiny networks, one for each way of writing a CNN, all float64 with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zfcuda

LAYER = "tail"  # every network of the zoo has a convolution of this name


class Model(nn.Module):
    """A forward given as a function of (the module, x)."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], Any], **attributes: Any) -> None:
        super().__init__()
        self.function = forward
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def output_of(net: nn.Module, x: Tensor, layer: str) -> Tensor:
    """What a layer returns in its last call, before later calls change it in place."""
    outputs = []
    hook = net.get_submodule(layer).register_forward_hook(
        lambda module, args, output: outputs.append(output.clone())
    )
    net(x.clone())
    hook.remove()
    return outputs[-1]


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

# torchvision's classifiers of convolutions.
_FAMILIES = {
    "alexnet": "",
    "convnext": "tiny small base large",
    "densenet": "121 161 169 201",
    "efficientnet": "b0 b1 b2 b3 b4 b5 b6 b7 v2_s v2_m v2_l",
    "googlenet": "",
    "inception": "v3",
    "mnasnet": "0_5 0_75 1_0 1_3",
    "mobilenet": "v2 v3_large v3_small",
    "regnet_x": "400mf 800mf 1_6gf 3_2gf 8gf 16gf 32gf",
    "regnet_y": "400mf 800mf 1_6gf 3_2gf 8gf 16gf 32gf",
    "resnet": "18 34 50 101 152",
    "resnext": "50_32x4d 101_32x8d 101_64x4d",
    "shufflenet_v2": "x0_5 x1_0 x1_5 x2_0",
    "squeezenet1": "0 1",
    "vgg": "11 11_bn 13 13_bn 16 16_bn 19 19_bn",
    "wide_resnet": "50_2 101_2",
}
_GLUED = ("densenet", "mnasnet", "resnet", "resnext", "vgg", "wide_resnet")
TORCHVISION = [
    (family if not kind else f"{family}{'' if family in _GLUED else '_'}{kind}")
    for family, kinds in _FAMILIES.items()
    for kind in kinds.split(" ")
]
