"""The networks that experiments are timed on, with random weights that keep activations sane."""

from __future__ import annotations

import importlib
import re
from types import ModuleType

import torch
from torch import Tensor, nn

import zfcuda

# torchvision's name differs from what the table calls it.
_TORCHVISION = {
    "shufflenet": "shufflenet_v2_x1_0",
    "mnasnet": "mnasnet1_0",
    "resnext50": "resnext50_32x4d",
}
_ZFNETS = {  # name -> constructor, with contrast normalisation
    "zfnet": (zfcuda.models.zfnet, False),
    "zfnet_lrn": (zfcuda.models.zfnet, True),
    "zfnet_small": (zfcuda.models.zfnet_small, False),
}

_stub_schemas: list[torch.library.Library] = []  # dropping one would take its schemas back


def torchvision_models() -> ModuleType:
    """``torchvision.models``, also where torchvision's compiled ops were built for another torch.

    Classification models need none of those ops, but importing torchvision describes them; empty
    schemas of the missing names are enough for that.
    """
    while True:
        try:
            return importlib.import_module("torchvision.models")
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None:
                raise
            _stub_schemas.append(torch.library.Library("torchvision", "FRAGMENT"))
            _stub_schemas[-1].define(f"{missing[1]}() -> ()")


def own_vgg16() -> nn.Sequential:
    """VGG16 (Simonyan & Zisserman 2015, configuration D), for machines without torchvision."""
    layers: list[nn.Module] = []
    channels = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    layers.append(nn.Flatten())
    for features, width in ((512 * 7 * 7, 4096), (4096, 4096)):
        layers += [nn.Linear(features, width), nn.ReLU(inplace=True), nn.Dropout()]
    return nn.Sequential(*layers, nn.Linear(4096, 1000))


class _Inception(nn.Module):
    """Four branches over the same maps, side by side."""

    def __init__(self, channels: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        ones, before3, threes, before5, fives, pooled = widths
        self.ones = _convolved(channels, ones, 1)
        self.threes = nn.Sequential(
            _convolved(channels, before3, 1), _convolved(before3, threes, 3)
        )
        self.fives = nn.Sequential(_convolved(channels, before5, 1), _convolved(before5, fives, 5))
        self.pooled = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1), _convolved(channels, pooled, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.ones(x), self.threes(x), self.fives(x), self.pooled(x)], 1)


def _convolved(channels: int, width: int, kernel: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


# Szegedy et al. 2015, table 1: 1x1, 3x3 reduced, 3x3, 5x5 reduced, 5x5, pooled; a stage a line.
_STAGES = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    ((192, 96, 208, 16, 48, 64), (160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64),
     (112, 144, 288, 32, 64, 64), (256, 160, 320, 32, 128, 128)),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)  # fmt: skip


def own_inception(narrower: int = 1) -> nn.Sequential:
    """GoogLeNet with batch norm, for machines without torchvision; ``narrower`` divides widths."""
    channels = 192 // narrower
    layers: list[nn.Module] = [
        _convolved(3, 64 // narrower, 7, stride=2),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        _convolved(64 // narrower, 64 // narrower, 1),
        _convolved(64 // narrower, channels, 3),
    ]
    for stage in _STAGES:
        layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
        for widths in stage:
            widths = tuple(max(1, width // narrower) for width in widths)
            layers.append(_Inception(channels, widths))
            channels = widths[0] + widths[2] + widths[4] + widths[5]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


_OWN = {
    "own_vgg16": own_vgg16,
    "own_inception": own_inception,
    "own_inception_small": lambda: own_inception(narrower=8),
}


def image_size(name: str) -> int:
    """Pixels a side of the network's input."""
    return {"squeezenet1_1": 227, "zfnet_small": 64, "own_inception_small": 64}.get(name, 224)


def build(name: str, x: Tensor, seed: int = 0) -> tuple[nn.Module, nn.Module]:
    """A network in eval mode for us and one for everybody else, with the same weights.

    They differ for ZFNet only, which peers run on torch's pooling and normalisation modules.

    Args:
        name: "zfnet", "zfnet_lrn", "zfnet_small", an architecture written out here ("own_..."), or
            a torchvision model; a few go by a shorter name.
        x: images [n,3,h,w] that the running statistics of batch norm are taken from.
    """
    torch.manual_seed(seed)
    if name in _ZFNETS:
        make, lrn = _ZFNETS[name]
        peers = _initialised(make(lrn=lrn, ops="torch"), x)
        own = make(lrn=lrn, ops="zfcuda").eval()
        own.load_state_dict(peers.state_dict())
        return own, peers
    if name in _OWN:
        model = _initialised(_OWN[name](), x)
        return model, model
    options = {"weights": None}
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": False}
    model = _initialised(torchvision_models().get_model(_TORCHVISION.get(name, name), **options), x)
    return model, model


@torch.no_grad()
def _initialised(model: nn.Module, x: Tensor) -> nn.Module:
    """Kaiming's weights; batch norms that standardise what they really see. Without these, deep
    networks with random weights overflow or give the same answer whatever the image."""
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0  # the running statistics become this batch's
    model(x)
    for norm in norms:
        norm.eval()
    return model
