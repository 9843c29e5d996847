"""The networks that occlusion is timed on, with random weights that keep activations sane."""

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
_ZFNETS = {"zfnet": False, "zfnet_lrn": True}  # name -> with contrast normalisation

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


def image_size(name: str) -> int:
    """Pixels a side of the network's input."""
    return 227 if name.startswith("squeezenet") else 224


def build(name: str, x: Tensor, seed: int = 0) -> tuple[nn.Module, nn.Module]:
    """A network in eval mode for us and one for everybody else, with the same weights.

    They differ for ZFNet only, which peers run on torch's pooling and normalisation modules.

    Args:
        name: "zfnet", "zfnet_lrn" or a torchvision model; a few go by a shorter name.
        x: images [n,3,h,w] that the running statistics of batch norm are taken from.
    """
    torch.manual_seed(seed)
    if name in _ZFNETS:
        lrn = _ZFNETS[name]
        peers = _initialised(zfcuda.models.zfnet(lrn=lrn, ops="torch"), x)
        own = zfcuda.models.zfnet(lrn=lrn, ops="zfcuda").eval()
        own.load_state_dict(peers.state_dict())
        return own, peers
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
