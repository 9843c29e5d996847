"""Where a model's author lets no gradient pass, no signal passes: held against autograd."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import Model

import zfcuda


def no_grad(h: Tensor) -> Tensor:
    with torch.no_grad():
        return 2 * h


def no_grad_over_pixels(h: Tensor) -> Tensor:
    with torch.no_grad():
        return F.avg_pool2d(h, 3, 1, 1)


def a_copy(h: Tensor) -> Tensor:
    with torch.no_grad():
        return h.clone()


def inference(h: Tensor) -> Tensor:
    with torch.inference_mode():
        found = 2 * h
    return found.clone()


@torch.no_grad()
def decorated(h: Tensor) -> Tensor:
    return 2 * h


def switched(h: Tensor) -> Tensor:
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    found = 2 * h
    torch.set_grad_enabled(before)
    return found


def a_mode(h: Tensor) -> Tensor:
    with torch.set_grad_enabled(mode=False):
        return 2 * h


def on_again(h: Tensor) -> Tensor:
    with torch.no_grad(), torch.enable_grad():
        return 2 * h


def left_by_an_error(h: Tensor) -> Tensor:
    try:
        with torch.no_grad():
            raise ValueError
    except ValueError:
        return 2 * h


def detached_in_place(h: Tensor) -> Tensor:
    return (2 * h).detach_()


def changed_unseen(h: Tensor) -> Tensor:
    found = 1 * h
    with torch.no_grad():
        found.mul_(3)
    return found


@torch.jit.script
def scripted(h: Tensor) -> Tensor:
    with torch.no_grad():
        return 2 * h


@torch.jit.script
def calls_scripted(h: Tensor) -> Tensor:
    return scripted(h)


def contrast_of_constants(h: Tensor) -> Tensor:
    with torch.no_grad():
        squares = F.pad((h * h)[:, None], (0, 0, 0, 0, 1, 1))
        scale = F.avg_pool3d(squares, (3, 1, 1), stride=1).squeeze(1).mul(0.5).add(1.0).pow(0.75)
    return h / scale


CUTS = {
    "no_grad": no_grad,
    "no_grad over pixels": no_grad_over_pixels,
    "a copy": a_copy,
    "inference_mode": inference,
    "a decorator": decorated,
    "set_grad_enabled as a function": switched,
    "set_grad_enabled as a context": a_mode,
    "enable_grad": on_again,
    "an error": left_by_an_error,
    "detach": lambda h: 2 * h.detach(),
    "detach_": detached_in_place,
    "data": lambda h: 2 * h.data,
    "changed": changed_unseen,
    "TorchScript": scripted,
    "TorchScript that calls another": calls_scripted,
    "contrast normalisation": contrast_of_constants,
}


def net_of(cut) -> nn.Module:
    layers = {"a": nn.Conv2d(3, 4, 3), "b": nn.Conv2d(4, 5, 3, padding=1)}
    return Model(lambda m, x: m.b(cut(h := m.a(x)) + h).mean((2, 3)), **layers).double().eval()


@pytest.mark.parametrize("rule", ["gradient", "deconv"])
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS.keys())
def test_no_signal_passes(cut, rule):
    net, x = net_of(cut), torch.randn(2, 3, 10, 9, dtype=torch.float64)
    source = x.clone().requires_grad_()
    h = net.a(source)
    (wanted,) = torch.autograd.grad(net.b(cut(h) + h)[:, 1, 3, 4].sum(), source)
    found = zfcuda.project(net, x, "b", (1, 3, 4), seed=1.0, norm="gradient", rule=rule).full()
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    zfcuda.occlusion(net, x[:1], size=3, stride=3, method="cone")  # is followed as before


def test_a_switch_that_is_turned_later():
    on = [True]

    def switched(h: Tensor) -> Tensor:
        with torch.set_grad_enabled(on[0]):
            return 2 * h

    net, x = net_of(switched), torch.randn(1, 3, 10, 9, dtype=torch.float64)
    for on[0] in (True, False, True):
        weight = net_of(lambda h: (3 if on[0] else 1) * h - h)
        weight.load_state_dict(net.state_dict())
        found = zfcuda.project(net, x, "b", (1, 3, 4), seed=1.0).full()
        wanted = zfcuda.project(weight, x, "b", (1, 3, 4), seed=1.0).full()
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_gradients_are_as_they_were():
    on = torch.is_grad_enabled()
    own = {kind: dict(vars(kind)) for kind in (torch.no_grad, torch.set_grad_enabled)}
    switch = torch._C._set_grad_enabled
    zfcuda.project(net_of(no_grad), torch.randn(1, 3, 10, 9).double(), "b", (1, 3, 4))
    assert torch.is_grad_enabled() == on and torch._C._set_grad_enabled is switch
    assert {kind: dict(vars(kind)) for kind in own} == own
