"""A model whose maps have one 16-bit type, where autocast casts to the other: there torch.cat
refuses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor, nn

import zfcuda

RUNS: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "deconv": lambda net, x: zfcuda.deconv(net, x, "tail"),
    "projections": lambda net, x: zfcuda.projections(net, x, ["stem", "tail"]),
    "maxima": lambda net, x: zfcuda.top_activations(net, x, "stem", k=2, batch=2),
    "answers": lambda net, x: zfcuda.predict(net, x),
    "occlusion": lambda net, x: zfcuda.occlusion(net, x, size=8, stride=8),
    "rotation": lambda net, x: zfcuda.rotation(net, x, values=[0, 90], layers=["stem"]),
}


class Convolution(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).bfloat16()


def forward(m: nn.Module, x: Tensor) -> Tensor:
    return m.last(m.tail(m.stem(x).relu()).mean((2, 3))).bfloat16()


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())
def test_a_model_of_the_type_that_autocast_does_not_cast_to(run):
    torch.manual_seed(0)
    layers = {"stem": Convolution(3, 8, 3), "tail": Convolution(8, 8, 3), "last": nn.Linear(8, 4)}
    net, x = zoo.Model(forward, **layers).bfloat16().eval(), torch.randn(5, 3, 24, 24).bfloat16()
    with torch.autocast("cpu", torch.float16):
        run(net, x)
