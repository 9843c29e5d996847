"""What is fast on a device: known of CPUs, measured of GPUs, given by the user, kept by runs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from counted_device import DEVICE, counted
from torch import nn

import zfcuda
from zfcuda.cones import profile
from zfcuda.cones.profile import AVX2, AVX512, Rates, of_gpu, profile_of, rates
from zfcuda.experiments.occlusion.engines import Request, engine_for


@pytest.mark.parametrize(("told", "known"), [("AVX512", AVX512), ("AVX2", AVX2), ("DEFAULT", AVX2)])
def test_a_cpu_by_its_instructions(monkeypatch, told, known):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: told)
    assert profile_of(torch.device("cpu"), torch.float32) == known


def test_a_gpu_is_measured_once_for_a_dtype_and_a_precision(monkeypatch):
    calls = []

    def measured(device, dtype, large):
        calls.append(dtype)
        return Rates(2e13, 1e12, 3e12, 3e-5, 2e-4)

    monkeypatch.setattr(profile, "rates", measured)
    monkeypatch.setattr(profile, "_known", {})
    with counted():
        first = profile_of(DEVICE, torch.float32)
        assert profile_of(DEVICE, torch.float32) is first
        profile_of(DEVICE, torch.bfloat16)
        assert calls == [torch.float32, torch.bfloat16]
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", not torch.backends.cudnn.allow_tf32)
        profile_of(DEVICE, torch.float32)
    assert calls == [torch.float32, torch.bfloat16, torch.float32]
    assert first.convolution_call == 2**32  # 2e13 a second for 0.2 ms
    assert first.byte == 8


@pytest.mark.parametrize("memory", [2**20, 4 * 2**30, 139 * 2**30])
def test_windows_leave_most_of_the_memory(memory):
    found = of_gpu("small", memory, Rates(1e13, 1e12, 1e12, 1e-5, 1e-4))
    assert 1 <= found.windows <= memory // 32
    assert math.log2(found.windows).is_integer()


@pytest.mark.parametrize("free", [0, 2**26, 2**29, 2**31, 2**37])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_what_is_measured_fits_what_is_free(monkeypatch, free, dtype):
    """Whatever the occlusion itself takes, a GPU that others fill is measured on less."""
    asked = []

    def measured(device, dtype, large):
        asked.append(large * 256 * 56 * 56 * dtype.itemsize)
        return Rates(2e13, 1e12, 3e12, 3e-5, 2e-4)

    monkeypatch.setattr(profile, "rates", measured)
    monkeypatch.setattr(profile, "_known", {})
    with counted():
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (free, 2**37))
        profile_of(DEVICE, dtype)
    one = 256 * 56 * 56 * dtype.itemsize
    assert asked[0] == one or 4 * asked[0] <= free / 4
    assert free < 2**37 or asked[0] == 32 * one


def test_a_little_noise_changes_nothing():
    noisy = Rates(2e13, 1e12, 3e12, 3e-5, 2e-4)
    found = {
        of_gpu("x", 2**36, replace(noisy, macs=noisy.macs * by, bytes=noisy.bytes * by))
        for by in (0.97, 1.0, 1.03)
    }
    assert len(found) == 1


def test_rates_can_be_measured():
    found = rates(torch.device("cpu"), torch.float32, large=1)
    assert all(value > 0 for value in vars(found).values())
    assert of_gpu("this", 2**34, found).positions > 0


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("byte", "12", TypeError),
        ("byte", math.nan, ValueError),
        ("byte", -1.0, ValueError),
        ("windows", 2.0**20, TypeError),
        ("windows", 0, ValueError),
        ("positions", True, TypeError),
        ("positions", 10**400, ValueError),
        ("call", 10**400, ValueError),
        ("call", math.inf, ValueError),
    ],
)
def test_what_is_no_profile_is_refused(field, value, error):
    with pytest.raises(error, match=field):
        replace(AVX512, **{field: value})


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Flatten(),
        nn.Linear(8 * 256, 3),
    ).eval()


def test_the_plan_shows_it_and_takes_another():
    x = torch.randn(1, 3, 16, 16)
    known = profile_of(x.device, x.dtype)
    assert str(known) in str(zfcuda.plan(small(), x, 4, 4))
    own = replace(AVX512, name="mine", positions=3)
    plan = zfcuda.plan(small(), x, 4, 4, profile=own)
    assert plan.profile == own
    assert plan.batch <= 3
    with pytest.raises(TypeError, match="DeviceProfile"):
        zfcuda.occlusion(small(), x, profile=known.settings)


@pytest.mark.parametrize("way", ["conv2d", "conv_transpose2d"], ids=["up", "down"])
def test_convolutions_inside_cones_are_not_tried_out(monkeypatch, way):
    """cudnn.benchmark tries every algorithm for each new shape, of which cones make hundreds."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    seen: list[bool] = []
    convolve = getattr(torch.nn.functional, way)

    def watched(*args, **kwargs):
        seen.append(torch.backends.cudnn.benchmark)
        return convolve(*args, **kwargs)

    with counted(), torch.no_grad():
        net, x = small().to(DEVICE), torch.randn(1, 3, 16, 16).to(DEVICE)
        engine = engine_for(net, x, Request(4, 4, method="cone", profile=AVX512))
        monkeypatch.setattr(torch.nn.functional, way, watched)
        engine(x) if way == "conv2d" else zfcuda.project(net, x, "2", (0, 5, 5))
    assert seen and not any(seen)
    assert torch.backends.cudnn.benchmark is True
