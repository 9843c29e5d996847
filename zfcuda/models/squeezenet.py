"""SqueezeNet 1.1 (Iandola et al., arXiv 1602.07360) with torchvision's module names."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import zfcuda.nn


class Fire(nn.Module):
    """Squeeze with 1x1 filters, expand with 1x1 and 3x3 filters, concatenate."""

    def __init__(self, channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeeze, kernel_size=1)
        self.squeeze_activation = nn.ReLU()
        self.expand1x1 = nn.Conv2d(squeeze, expand, kernel_size=1)
        self.expand1x1_activation = nn.ReLU()
        self.expand3x3 = nn.Conv2d(squeeze, expand, kernel_size=3, padding=1)
        self.expand3x3_activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """`[N, channels, H, W]` → `[N, 2 * expand, H, W]`."""
        x = self.squeeze_activation(self.squeeze(x))
        small = self.expand1x1_activation(self.expand1x1(x))
        large = self.expand3x3_activation(self.expand3x3(x))
        return torch.cat((small, large), dim=1)


class SqueezeNet(nn.Module):
    """SqueezeNet 1.1; use `squeezenet1_1`."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=3, stride=2),
            nn.ReLU(),
            _pool(),
            Fire(64, 16, 64),
            Fire(128, 16, 64),
            _pool(),
            Fire(128, 32, 128),
            Fire(256, 32, 128),
            _pool(),
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            Fire(512, 64, 256),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Conv2d(512, num_classes, kernel_size=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.classifier[1].weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, 3, H, W]` (trained at 224 or 227) → logits `[N, num_classes]`."""
        return torch.flatten(self.classifier(self.features(x)), 1)


def _pool() -> nn.Module:
    return zfcuda.nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)


def squeezenet1_1(num_classes: int = 1000) -> SqueezeNet:
    """SqueezeNet 1.1 with freshly drawn weights; `load("squeezenet1_1")` gives the trained one.

    Module names and state dict are those of torchvision's `squeezenet1_1` (features.0 to
    features.12, classifier.1), so weights travel both ways; the pools are zfcuda's, and no ReLU
    works in place.

    Raises:
        ValueError: `num_classes` below 1.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes {num_classes}: expected at least 1")
    return SqueezeNet(num_classes)
