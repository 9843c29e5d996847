"""The network of Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks"."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

import zfcuda.nn

Ops = Literal["zfcuda", "torch"]

# AlexNet's constants (the paper gives none) in the convention of torch, Caffe and cuda-convnet,
# which divide alpha by the number of maps summed over.
_LRN = {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2.0}
_POOLED = (1, 2, 5)  # the convolutions that a pool follows
_NORMALISED = (1, 2)
_SMALL_INPUT = 8.0  # what zfnet_small's input is in the mean, roughly


def zfnet(
    num_classes: int = 1000, lrn: bool = True, ops: Ops = "zfcuda", fused: bool = False
) -> nn.Sequential:
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
        fused: let each pool rectify in its own pass, which trains faster; relu1, relu2 and relu5
            then only pass on what they get. Output, gradients and state dict are the same.

    Raises:
        ValueError: `num_classes` below 1, an unknown `ops`, or `fused` with torch's.
    """
    convolutions = [
        nn.Conv2d(3, 96, kernel_size=7, stride=2, padding=1),
        nn.Conv2d(96, 256, kernel_size=5, stride=2),
        nn.Conv2d(256, 384, kernel_size=3, padding=1),
        nn.Conv2d(384, 384, kernel_size=3, padding=1),
        nn.Conv2d(384, 256, kernel_size=3, padding=1),
    ]
    draw = partial(nn.init.normal_, std=1e-2)
    return _network(convolutions, 256 * 6 * 6, 4096, num_classes, lrn, ops, fused, draw)


def zfnet_small(
    num_classes: int = 10, lrn: bool = True, ops: Ops = "zfcuda", fused: bool = False
) -> nn.Sequential:
    """The ZF network's shape at 64 pixels a side, 1.2 M parameters, with freshly drawn weights.

    Input `[N, 3, 64, 64]`, output logits `[N, num_classes]`; maps of 30, 15 (conv1, pool1), 13, 6
    (conv2, pool2), 6 (conv3..5) and 3 (pool5) pixels a side. Layers are named as in `zfnet`. The
    first layer, the pools, the normalisation and the dropout are the paper's; conv2 has stride 1
    and pad 1, since at stride 2 only 5 x 5 pixels would be left.

    Weights are drawn from N(0, 2 / fan-in) (He et al. 2015, arXiv 1502.01852): with the paper's
    standard deviation of 1e-2, signals through layers this narrow vanish and training stands still.
    Inputs are expected in about [-16, 16], and conv1's weights are 8 times smaller for it: at a
    learning rate of 1e-2 and inputs around 1 the first filters hardly leave the noise they were
    drawn from. (The paper's inputs are 128 at most.)

    Args: as for `zfnet`.

    Raises: as `zfnet`.
    """
    convolutions = [
        nn.Conv2d(3, 48, kernel_size=7, stride=2, padding=1),
        nn.Conv2d(48, 96, kernel_size=5, padding=1),
        nn.Conv2d(96, 128, kernel_size=3, padding=1),
        nn.Conv2d(128, 128, kernel_size=3, padding=1),
        nn.Conv2d(128, 96, kernel_size=3, padding=1),
    ]
    draw = partial(nn.init.kaiming_normal_, nonlinearity="relu")
    model = _network(convolutions, 96 * 3 * 3, 512, num_classes, lrn, ops, fused, draw)
    with torch.no_grad():
        model.conv1.weight.div_(_SMALL_INPUT)
    return model


def _network(
    convolutions: Sequence[nn.Conv2d],
    features: int,
    hidden: int,
    num_classes: int,
    lrn: bool,
    ops: Ops,
    fused: bool,
    draw: Callable[[Tensor], Any],
) -> nn.Sequential:
    """What both networks share; `features` are left after pool5, `hidden` in fc6 and fc7; `draw`
    fills weights."""
    if num_classes < 1:
        raise ValueError(f"num_classes {num_classes}: expected at least 1")
    if ops not in ("zfcuda", "torch"):
        raise ValueError(f"ops {ops!r}: expected 'zfcuda' or 'torch'")
    if fused and ops == "torch":
        raise ValueError("fused=True needs ops='zfcuda': torch's pooling does not rectify")
    kinds = nn if ops == "torch" else zfcuda.nn
    # ceil_mode gives the paper's 55, 13 and 6 from 110, 26 and 13.
    pooling: dict[str, Any] = {"kernel_size": 3, "stride": 2, "ceil_mode": True}
    if fused:
        pooling["relu"] = True
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, convolution in enumerate(convolutions, 1):
        layers[f"conv{i}"] = convolution
        # Unless asked to, pools do not rectify: "relu1" is to be a module that one can hook or
        # project from. Nor is it in place: conv1's output must stay what conv1 computed for whoever
        # looks at it.
        layers[f"relu{i}"] = nn.Identity() if fused and i in _POOLED else nn.ReLU()
        if i in _POOLED:
            layers[f"pool{i}"] = kinds.MaxPool2d(**pooling)
        if lrn and i in _NORMALISED:
            layers[f"norm{i}"] = kinds.LocalResponseNorm(**_LRN)
    layers["flatten"] = nn.Flatten()
    for i, width in ((6, features), (7, hidden)):
        layers[f"fc{i}"] = nn.Linear(width, hidden)
        layers[f"relu{i}"] = nn.ReLU()
        layers[f"drop{i}"] = nn.Dropout(0.5)
    layers["fc8"] = nn.Linear(hidden, num_classes)
    for layer in layers.values():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            draw(layer.weight)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(layers)
