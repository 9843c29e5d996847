"""Models that call ``torch.func`` or ``flex_attention`` run: dense passes take any of them."""

from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import Model

import zfcuda
from zfcuda.inference.checks import uncompiled

func = torch.func


def flex(m: nn.Module, h: Tensor) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    q = h.flatten(2).transpose(1, 2)[:, None]
    return flex_attention(q, q, q)[:, 0].transpose(1, 2).reshape(h.shape)


MODELS = {
    "one by one": lambda m, h: func.vmap(lambda a: 2 * a + a.relu())(h),
    "pooling": lambda m, h: func.vmap(lambda a: F.max_pool2d(a, 3, 1, 1))(h),
    "contrast": lambda m, h: func.vmap(lambda a: F.local_response_norm(a[None], 3)[0])(h),
    "convolution": lambda m, h: func.vmap(lambda a: m.b(a[None])[0])(h),
    "over channels": lambda m, h: func.vmap(lambda a: a - a.mean((1, 2), True), 1, 1)(h),
    "gradient": lambda m, h: func.grad(lambda a: (a**2).sum())(h),
    "derivative": lambda m, h: func.jvp(torch.sin, (h,), (torch.ones_like(h),))[1],
    "functional": lambda m, h: func.functionalize(lambda a: a.clone().mul_(2))(h),
    "flex_attention": flex,
}


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("name", MODELS)
def test_occlusion_and_projection(name):
    layers = {"a": nn.Conv2d(3, 4, 3), "b": nn.Conv2d(4, 4, 3, padding=1)}
    net = Model(lambda m, x: m.b(MODELS[name](m, m.a(x))).mean((2, 3)), **layers).eval()
    x = torch.randn(1, 3, 10, 10)
    dense = zfcuda.occlusion(net, x, size=5, stride=5, method="dense")
    image = x[0].clone()
    y0, x0, y1, x1 = dense.boxes[1].tolist()
    image[:, y0:y1, x0:x1] = 0
    with torch.no_grad():
        torch.testing.assert_close(dense.logits[0, 1], net(image[None])[0])
    if name == "flex_attention":
        with pytest.warns(UserWarning, match="it calls flex_attention, which takes functions"):
            found = zfcuda.occlusion(net, x, size=5, stride=5)
    else:
        found = zfcuda.occlusion(net, x, size=5, stride=5)
        assert zfcuda.deconv(net, x, "b").shape == x.shape
    torch.testing.assert_close(found.logits, dense.logits)


def test_a_module_in_a_batch_of_its_own():
    layers = {"a": nn.Conv2d(3, 4, 3), "b": nn.BatchNorm2d(4)}
    net = Model(lambda m, x: func.vmap(lambda a: m.b(a[None])[0])(m.a(x)).mean((2, 3)), **layers)
    with pytest.warns(UserWarning, match="mixes the images"):
        zfcuda.occlusion(net.eval(), torch.randn(1, 3, 10, 10), size=5, stride=5)


def test_the_compiler_is_itself_again_when_the_last_has_left():
    """Whichever of two threads came first."""
    double = torch.compile(lambda a: a * 2, backend="eager")
    stance = torch._dynamo.eval_frame._stance
    entered, leave = threading.Event(), threading.Event()

    def first() -> None:
        with uncompiled(nn.ReLU()):
            entered.set()
            leave.wait()

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait()
    with uncompiled(nn.ReLU()):
        leave.set()
        thread.join()
        assert torch._dynamo.eval_frame._stance.stance == "force_eager"
        assert torch.equal(double(torch.ones(2)), torch.full((2,), 2.0))
    assert torch._dynamo.eval_frame._stance == stance
