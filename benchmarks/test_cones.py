"""A short taste of what occlusion.py and projection.py measure at length: ZFNet against Captum."""

from __future__ import annotations

import pytest
import torch
from networks import build
from occlusion import TARGET, captum, windows_for
from projection import captum_looped, ours, strongest_units

import zfcuda

pytest.importorskip("captum")


@pytest.fixture(scope="module")
def zfnet():
    """The network for us, the same for Captum, and an image."""
    torch.manual_seed(0)
    x = torch.randn(1, 3, 224, 224)
    return *build("zfnet", x), x


@pytest.mark.parametrize("who", ["zfcuda", "captum"])
def test_occlusion(benchmark, zfnet, who: str):
    own, peers, x = zfnet
    window = windows_for(64, 224)
    theirs = captum(peers, x, 64).run

    def run() -> torch.Tensor:
        result = zfcuda.occlusion(own, x, target=TARGET, size=window, stride=window)
        return result.to_attribution()

    scale = float(own(x).detach().abs().max())
    assert float((run() - theirs()[:, :1]).abs().max()) <= 1e-4 * scale
    benchmark.group = "occlusion of ZFNet, 64 positions of 28x28"
    benchmark.pedantic(run if who == "zfcuda" else theirs, rounds=3, warmup_rounds=1)


@pytest.mark.filterwarnings("ignore:Setting backward hooks", "ignore:Input Tensor 0 did not")
@pytest.mark.parametrize("who", ["zfcuda", "captum"])
def test_projection(benchmark, zfnet, who: str):
    own, peers, x = zfnet
    units = strongest_units(peers, x, "conv3", 16)
    rules = {"seed": 1.0, "norm": "gradient"}
    some = units[:2]
    expected = captum_looped(peers, x, "conv3", some)
    distance = (ours(own, x, "conv3", some, **rules) - expected).norm() / expected.norm()
    assert float(distance) <= 1e-3  # float32; projection.py compares in float64
    benchmark.group = "projection of 16 units of ZFNet's conv3"
    run = ours if who == "zfcuda" else captum_looped
    model = own if who == "zfcuda" else peers
    benchmark.pedantic(run, (model, x, "conv3", units), rounds=3, warmup_rounds=1)
