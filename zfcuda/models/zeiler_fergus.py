"""The network of Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks"."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from torch import nn

import zfcuda.nn

__all__ = ["zfnet", "zfnet_small"]

Ops = Literal["zfcuda", "torch"]

# AlexNet's constants (the paper gives none) in the convention of torch, Caffe and cuda-convnet,
# which divide alpha by the number of maps summed over.
_LRN = {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2.0}


def zfnet(num_classes: int = 1000, lrn: bool = True, ops: Ops = "zfcuda") -> nn.Sequential:
    """The ZF network (arXiv 1311.2901, section 3 and figure 3) with freshly drawn weights.

    Input `[N, 3, 224, 224]`, output logits `[N, num_classes]`; maps of 110, 55 (conv1, pool1),
    26, 13 (conv2, pool2), 13 (conv3..5) and 6 (pool5) pixels a side. The layers are named conv1,
    relu1, pool1, norm1, conv2, ..., relu5, pool5, flatten, fc6, relu6, drop6, ..., fc8.

    Weights are drawn from N(0, 1e-2), biases are 0 (section 3.1). `ops` chooses whose pooling and
    normalisation modules are used; neither has parameters, so the state dict, and the weights
    drawn under one seed, are the same on either.

    Args:
        num_classes: size of the last layer.
        lrn: whether to normalise contrast across maps after pool1 and pool2.
        ops: "zfcuda" or "torch".

    Raises:
        ValueError: `num_classes` below 1 or an unknown `ops`.
    """
    _check(num_classes, ops)
    kinds = nn if ops == "torch" else zfcuda.nn
    layers: OrderedDict[str, nn.Module] = OrderedDict()

    def convolution(i: int, channels_in: int, channels: int, pool: bool = False, **geometry):
        layers[f"conv{i}"] = nn.Conv2d(channels_in, channels, **geometry)
        # zfcuda's pool could rectify in the same pass (relu=True), but then "relu1" would no longer
        # be a module one can name, hook or project from. Nor is it in place: conv1's output must
        # stay what conv1 computed for whoever looks at it.
        layers[f"relu{i}"] = nn.ReLU()
        if pool:
            # ceil_mode gives the paper's 55, 13 and 6 from 110, 26 and 13.
            layers[f"pool{i}"] = kinds.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)

    convolution(1, 3, 96, kernel_size=7, stride=2, padding=1, pool=True)
    if lrn:
        layers["norm1"] = kinds.LocalResponseNorm(**_LRN)
    convolution(2, 96, 256, kernel_size=5, stride=2, pool=True)
    if lrn:
        layers["norm2"] = kinds.LocalResponseNorm(**_LRN)
    convolution(3, 256, 384, kernel_size=3, padding=1)
    convolution(4, 384, 384, kernel_size=3, padding=1)
    convolution(5, 384, 256, kernel_size=3, padding=1, pool=True)

    layers["flatten"] = nn.Flatten()
    for i, features in ((6, 256 * 6 * 6), (7, 4096)):
        layers[f"fc{i}"] = nn.Linear(features, 4096)
        layers[f"relu{i}"] = nn.ReLU()
        layers[f"drop{i}"] = nn.Dropout(0.5)
    layers["fc8"] = nn.Linear(4096, num_classes)

    for layer in layers.values():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=1e-2)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(layers)


def zfnet_small(
    num_classes: int = 10, ops: Ops = "zfcuda", fused: bool = False, lrn: bool = True
) -> nn.Sequential:
    """The ZF network's shape at 64 pixels a side, 1.2 M parameters, with freshly drawn weights.

    Input `[N, 3, 64, 64]`, output logits `[N, num_classes]`; maps of 30, 15 (conv1, pool1), 13, 6
    (conv2, pool2), 6 (conv3..5) and 3 (pool5) pixels a side. Layers are named as in `zfnet`. The
    first layer, the pools, the normalisation and the dropout are the paper's; conv2 has stride 1
    and pad 1, since at stride 2 only 5 x 5 pixels would be left.

    Weights are drawn from N(0, 2 / fan-in) (He et al. 2015, arXiv 1502.01852): with the paper's
    standard deviation of 1e-2, signals through layers this narrow vanish and training stands still.

    Args:
        num_classes: size of the last layer.
        ops: "zfcuda" or "torch", as in `zfnet`.
        fused: let each pool rectify in its own pass, which trains faster; relu1, relu2 and relu5
            then only pass on what they get. Output, gradients and state dict are the same.
        lrn: whether to normalise contrast across maps after pool1 and pool2.

    Raises:
        ValueError: `num_classes` below 1, an unknown `ops`, or `fused` with torch's.
    """
    _check(num_classes, ops)
    if fused and ops == "torch":
        raise ValueError("fused=True needs ops='zfcuda': torch's pooling does not rectify")
    kinds = nn if ops == "torch" else zfcuda.nn
    pooling = {"kernel_size": 3, "stride": 2, "ceil_mode": True} | ({"relu": True} if fused else {})
    layers: OrderedDict[str, nn.Module] = OrderedDict()

    def convolution(i: int, channels_in: int, channels: int, pool: bool = False, **geometry):
        layers[f"conv{i}"] = nn.Conv2d(channels_in, channels, **geometry)
        layers[f"relu{i}"] = nn.Identity() if fused and pool else nn.ReLU()
        if pool:
            layers[f"pool{i}"] = kinds.MaxPool2d(**pooling)
        if lrn and i <= 2:
            layers[f"norm{i}"] = kinds.LocalResponseNorm(**_LRN)

    convolution(1, 3, 48, kernel_size=7, stride=2, padding=1, pool=True)
    convolution(2, 48, 96, kernel_size=5, padding=1, pool=True)
    convolution(3, 96, 128, kernel_size=3, padding=1)
    convolution(4, 128, 128, kernel_size=3, padding=1)
    convolution(5, 128, 96, kernel_size=3, padding=1, pool=True)

    layers["flatten"] = nn.Flatten()
    for i, features in ((6, 96 * 3 * 3), (7, 512)):
        layers[f"fc{i}"] = nn.Linear(features, 512)
        layers[f"relu{i}"] = nn.ReLU()
        layers[f"drop{i}"] = nn.Dropout(0.5)
    layers["fc8"] = nn.Linear(512, num_classes)

    for layer in layers.values():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return nn.Sequential(layers)


def _check(num_classes: int, ops: str) -> None:
    if num_classes < 1:
        raise ValueError(f"num_classes {num_classes}: expected at least 1")
    if ops not in ("zfcuda", "torch"):
        raise ValueError(f"ops {ops!r}: expected 'zfcuda' or 'torch'")
