"""Occlusion where convolutions round what they multiply to TF32, as cuDNN's do by torch's defaults,
and products do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tf32 import Tf32, tf32
from torch import Tensor, nn

import zfcuda
from zfcuda.cones.operators import convolution
from zfcuda.results import OcclusionResult
from zfcuda.storage import identity
from zfcuda.storage.identity import Precision

SHORT = Precision("tf32", "float32")


class Branches(nn.Module):
    """As in Inception: 1x1 convolutions alone, and before larger ones."""

    def __init__(self, inputs: int, outputs: int, norm: bool) -> None:
        super().__init__()
        self.one = nn.Conv2d(inputs, outputs, 1)
        self.three = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, padding=1)
        )
        self.five = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1),
            nn.BatchNorm2d(outputs) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 5, padding=2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(torch.cat([self.one(x), self.three(x), self.five(x)], 1))


def network(norm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        Branches(16, 12, norm), Branches(36, 20, norm), nn.MaxPool2d(2),
        nn.Conv2d(60, 72, 1), nn.ReLU(), nn.ConvTranspose2d(72, 24, 2, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10),
    ).eval()  # fmt: skip
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
    return net


def image() -> Tensor:
    return torch.randn(1, 3, 72, 72, generator=torch.Generator().manual_seed(5))


def drops(net: nn.Module, x: Tensor, method: str) -> Tensor:
    """What each position takes from the first class's logit."""
    found = zfcuda.occlusion(net, x, 0, size=12, stride=10, method=method)
    assert found.method == method
    return (found.base_logits[:, None] - found.logits)[..., 0].cpu().double()


@pytest.fixture(scope="module")
def exact() -> Tensor:
    return drops(network().double(), image().double(), "dense")


def apart(some: Tensor, others: Tensor, exact: Tensor) -> float:
    """In shares of the largest drop."""
    return float((some - others).abs().max() / exact.abs().max())


@pytest.fixture
def short(monkeypatch):
    """This CPU says of itself what torch says of a GPU by its defaults."""
    monkeypatch.setattr(identity, "_told", lambda kind: ("tf32", "ieee"))
    monkeypatch.setattr(identity, "_known", lambda device: frozenset({"tf32"}))


def test_rounding_to_ten_bits():
    steps = torch.tensor([1, 1 + 2**-10, 1 + 2**-11, 1 + 2**-12, -1 - 3 * 2**-12, 0, 2.0**-126])
    rounded = [1, 1 + 2**-10, 1 + 2**-10, 1, -1 - 2**-10, 0, 2.0**-126]
    assert tf32(steps).tolist() == rounded
    assert tf32(torch.tensor([torch.inf, -torch.inf])).isinf().all()
    assert tf32(torch.tensor(torch.nan)).isnan()


def test_in_float32_both_ways_are_exact(exact):
    net, x = network(), image()
    for method in ("dense", "cone"):
        assert apart(drops(net, x, method), exact, exact) < 3e-5


@pytest.mark.usefixtures("short")
def test_cones_round_as_dense_passes_do(exact):
    """Off by more than 0.1 % of the largest drop, but by the same: no call is rounded otherwise."""
    net, x = network(), image()
    with Tf32():
        dense, cones = drops(net, x, "dense"), drops(net, x, "cone")
    assert all(1e-3 < apart(found, exact, exact) < 2e-2 for found in (dense, cones))
    assert apart(cones, dense, exact) < 3e-5


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    ("norm", "rounding"),
    [(False, {"noise": 1.0}), (False, {"noise": 1.0, "products": True}), (True, {})],
    ids=["other sums", "other sums, products too", "scales in filters"],
)
def test_what_lies_between_two_numbers_goes_to_either(norm: bool, rounding: dict[str, Any]):
    """Where sums differ in their last bits, as by another algorithm, and where scales are folded
    into filters, both ways differ by as much as each is off."""
    net, x = network(norm), image()
    exact = drops(network(norm).double(), x.double(), "dense")
    with Tf32(**rounding):
        dense, cones = drops(net, x, "dense"), drops(net, x, "cone")
    assert 1e-4 < apart(cones, dense, exact) < 2e-2


def shapes_of_products(net: nn.Module, x: Tensor) -> set[tuple[int, ...]]:
    with Tf32() as seen:
        drops(net, x, "cone")
    return {*seen.products}


@pytest.mark.usefixtures("short")
def test_convolutions_are_none_of_the_products():
    assert shapes_of_products(network(), image()) == {(10, 24)}  # the linear layer's


@pytest.mark.usefixtures("short")
def test_as_products_they_would_be_rounded_otherwise(exact, monkeypatch):
    """What the tests above would notice."""
    monkeypatch.setattr(convolution, "by_blas", lambda *_: True)
    net, x = network(), image()
    assert {(12, 16), (20, 36), (72, 60)} <= shapes_of_products(net, x)
    with Tf32():
        dense, cones = drops(net, x, "dense"), drops(net, x, "cone")
    assert apart(cones, dense, exact) > 1e-3


def test_by_what_pixels_are_convolved(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert convolution.by_blas(cpu, torch.float32)
    assert not convolution.by_blas(gpu, torch.float32)
    known = frozenset({"bfloat16", "tf32"})
    monkeypatch.setattr(identity, "_known", lambda device: known)
    for told, alike in [(("bf16", "bf16"), True), (("ieee", "bf16"), False)]:
        monkeypatch.setattr(identity, "_told", lambda kind, told=told: told)
        assert convolution.by_blas(cpu, torch.float32) is alike
        assert convolution.by_blas(cpu, torch.float64)
        assert not convolution.by_blas(gpu, torch.float32)


@pytest.mark.usefixtures("short")
def test_a_result_tells_how_it_was_rounded(tmp_path):
    found = zfcuda.occlusion(network(), image(), 0, size=36, stride=36)
    found.save(tmp_path / "found")
    assert found.precision == SHORT
    assert OcclusionResult.load(tmp_path / "found").precision == SHORT
    assert "precision=Precision(convolutions='tf32', products='float32')" in repr(found)


@pytest.fixture
def cudnn():
    """cuDNN, its switch put back afterwards."""
    before = torch.backends.cudnn.allow_tf32
    yield torch.backends.cudnn
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("allowed", [False, True])
def test_on_a_gpu(cudnn, exact, allowed):
    """As in the simulation; where cuDNN may round to TF32 it need not, and in float32 it may take
    Winograd's or Fourier's way, which rounds more."""
    net, x = network().cuda(), image().cuda()
    cudnn.allow_tf32 = allowed
    short = allowed and torch.cuda.get_device_capability()[0] >= 8
    most = 2e-2 if short else 3e-4
    dense, cones = drops(net, x, "dense"), drops(net, x, "cone")
    assert apart(dense, exact, exact) < most
    assert apart(cones, exact, exact) < most
    assert apart(cones, dense, exact) < most
    result = zfcuda.occlusion(net, x, 0, size=36, stride=36)
    assert result.precision == (SHORT if short else Precision("float32", "float32"))
