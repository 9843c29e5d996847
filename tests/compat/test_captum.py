"""Captum's classes on our engines against the installed Captum."""

from __future__ import annotations

import logging
import random
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from zoo import Model

attr = pytest.importorskip("captum.attr")
import zfcuda  # noqa: E402
from zfcuda.compat import captum as ours  # noqa: E402

FAST = ("cone", "dense")
EXACT = {"rtol": 1e-9, "atol": 1e-12}
SAME = {"rtol": 0, "atol": 0, "equal_nan": True}


@pytest.fixture(autouse=True)
def _quietly_on_one_thread():
    """Captum warns whenever it sets hooks or requires_grad. One thread: the networks are tiny."""
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def agree(name: str, of: tuple, *arguments: Any, tolerance: dict = EXACT, **named: Any) -> Any:
    """Captum's class of this name and ours attribute alike; ours."""
    expected = getattr(attr, name)(*of).attribute(*arguments, **named)
    mine = getattr(ours, name)(*of)
    torch.testing.assert_close(mine.attribute(*arguments, **named), expected, **tolerance)
    return mine


def agree_to_refuse(name: str, of: tuple, *arguments: Any, **named: Any) -> None:
    """Captum's class of this name and ours raise the same error."""
    with pytest.raises(Exception) as expected:
        getattr(attr, name)(*of).attribute(*arguments, **named)
    with pytest.raises(type(expected.value)) as raised:
        getattr(ours, name)(*of).attribute(*arguments, **named)
    assert str(raised.value) == str(expected.value)


class Block(nn.Module):
    """A residual block with one ReLU module called twice, as torchvision's."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.second(self.relu(self.first(x)))
        out += x
        return self.relu(out)


class PreActivation(nn.Module):
    """What a ReLU takes has another consumer: there Captum's hook drops the other's gradient."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.relu(x))


class Parallel(nn.Module):
    """One ReLU module in two branches: Captum's hooks mix up their signals."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, 2, 1) for _ in range(2))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.convs[0](x), self.convs[1](x)
        return torch.cat([self.relu(first), self.relu(second)], 1)


class Branches(nn.Module):
    """Concatenated branches."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(channels, 2, 1), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(channels, 2, 3, padding=1), nn.ReLU6())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.a(x), F.max_pool2d(x, 3, 1, 1), self.b(x)], 1)


def random_net(seed: int, channels: int = 3) -> nn.Sequential:
    """A CNN [N,channels,h,w] → [N,4], h and w at least 10, float64, of randomly chosen layers."""
    choose = random.Random(seed)
    torch.manual_seed(seed)
    width = choose.randint(2, 5)
    kernel = choose.choice([1, 3, 5])
    layers: list[nn.Module] = [
        nn.Conv2d(channels, width, kernel, choose.choice([1, 2]), choose.randint(0, 1))
    ]
    for _ in range(choose.randint(1, 4)):
        kinds = ["conv", "pool", "norm", "block", "pre", "branches", "parallel", "batch norm"]
        kind = choose.choice(kinds)
        if kind == "conv":
            layers += [nn.Conv2d(width, width + 1, 3, padding=choose.choice([1, 2]))]
            width += 1
        elif kind == "pool":
            pool = choose.choice([nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(2, 1), nn.AvgPool2d(2, 1)])
            layers += [pool]
        elif kind == "norm":
            layers += [nn.LocalResponseNorm(3, alpha=0.5, k=2.0)]
        elif kind == "batch norm":
            layers += [nn.BatchNorm2d(width)]
            nn.init.normal_(layers[-1].running_mean)
            nn.init.uniform_(layers[-1].running_var, 0.5, 2.0)
        elif kind == "branches":
            layers += [Branches(width)]
            width += 4
        elif kind == "parallel":
            layers += [Parallel(width)]
            width = 4
        else:
            layers += [Block(width) if kind == "block" else PreActivation(width)]
        functional = Model(lambda m, x: F.relu(x))  # which Captum's hooks do not see
        rectifiers = [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), functional, nn.Identity()]
        layers += [choose.choice(rectifiers)]
    layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(), nn.Linear(4 * width, 4)]
    return nn.Sequential(*layers).double().eval()


def in_float64(call: Callable[[], Any]) -> Any:
    """Captum casts its maps to float32 at the very end; without that cast they can be compared to
    the last digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "float", Tensor.double)
        return call()


# --- occlusion ------------------------------------------------------------------------------------


@st.composite
def requests(draw: st.DrawFn) -> tuple[Tensor, dict[str, Any]]:
    """An input and arguments of attribute()."""
    n, channels = draw(st.integers(1, 3)), draw(st.sampled_from([1, 3, 4]))
    shape = (channels, draw(st.integers(10, 14)), draw(st.integers(10, 14)))
    x = torch.randn(n, *shape, dtype=torch.float64)
    whole = (channels, *(draw(st.integers(3, length)) for length in shape[1:]))
    window = draw(st.sampled_from([whole, (max(1, channels - 1), *whole[1:])]))
    # The stride may exceed the window only where that covers the axis.
    strides = tuple(
        draw(st.integers(2, w + 3 if w == length else w)) if i else draw(st.integers(1, w))
        for i, (w, length) in enumerate(zip(window, shape, strict=True))
    )
    baselines = [
        None,
        0.7,
        -1,
        torch.randn(shape[0], 1, 1, dtype=x.dtype),
        torch.randn(1, *shape, dtype=x.dtype),
        torch.randn(n, *shape, dtype=x.dtype),
        (0.25,),
    ]
    each = [draw(st.integers(0, 3)) for _ in range(n)]
    targets = [
        *(None, 2, -1, (3,), each, [(t,) for t in each]),
        *(torch.tensor(each), torch.tensor(1), torch.tensor([2])),
    ]
    return x, {
        "sliding_window_shapes": window,
        "strides": draw(st.sampled_from([strides, min(s for s in strides)])),
        "baselines": draw(st.sampled_from(baselines)),
        "target": draw(st.sampled_from(targets)),
        "perturbations_per_eval": draw(st.sampled_from([1, 3, 100])),
    }


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), request=requests())
def test_occlusion_gives_captums_numbers(seed: int, request: tuple[Tensor, dict[str, Any]]):
    x, arguments = request
    net = random_net(seed, x.shape[1])
    mine = ours.Occlusion(net)
    attributions = in_float64(lambda: mine.attribute(x, **arguments))
    assert mine.path in FAST, mine.path_reason
    expected = in_float64(lambda: attr.Occlusion(net).attribute(x, **arguments))
    assert attributions.shape == expected.shape
    scale = float(expected.norm())
    assert float((attributions - expected).norm()) <= 1e-9 * scale + 1e-12


def test_occlusion_returns_what_captum_returns():
    """Dtype, shape, tuple or not; the default stride of 1."""
    net, x = random_net(3), torch.randn(2, 3, 10, 11, dtype=torch.float64)
    for inputs, window in [(x, (3, 4, 5)), ((x,), ((3, 4, 5),)), ((x,), (3, 4, 5))]:
        expected = attr.Occlusion(net).attribute(inputs, window, target=1)
        mine = ours.Occlusion(net)
        attributions = mine.attribute(inputs, window, target=1)
        assert mine.path in FAST
        assert type(attributions) is type(expected)
        pair = (attributions[0], expected[0]) if isinstance(inputs, tuple) else None
        torch.testing.assert_close(*(pair or (attributions, expected)), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("last", [nn.Softmax(1), nn.Sigmoid(), nn.Linear(4, 1).double()])
def test_occlusion_of_any_outputs_gives_captums_numbers(last: nn.Module):
    net, x = random_net(3), torch.randn(2, 3, 10, 11, dtype=torch.float64)
    net = nn.Sequential(net, last).eval()
    mine = agree("Occlusion", (net,), x, (3, 4, 5), (3, 2, 2), target=0, tolerance={})
    assert mine.path in FAST
    direct = zfcuda.occlusion(net, x, 0, size=(4, 5), stride=2).to_attribution()
    expected = attr.Occlusion(net).attribute(x, (3, 4, 5), (3, 2, 2), target=0)
    torch.testing.assert_close(direct.float(), expected[:, :1].float(), rtol=1e-5, atol=1e-7)


def test_occlusion_in_float32_is_as_close_to_float64_as_captum_is():
    net, x = random_net(5), torch.randn(2, 3, 12, 12, dtype=torch.float64)
    arguments = {"sliding_window_shapes": (3, 4, 4), "strides": (3, 2, 2), "target": 1}
    truth = attr.Occlusion(net).attribute(x, **arguments)
    captums = attr.Occlusion(net.float()).attribute(x.float(), **arguments)
    mine = ours.Occlusion(net).attribute(x.float(), **arguments)
    assert (mine - truth).norm() <= 4 * (captums - truth).norm()


def test_occlusion_of_an_untraceable_model_stays_on_our_engine():
    net = Model(lambda m, x: m.net(x) if x.mean() > 100 else -m.net(x), net=random_net(7)).eval()
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    arguments = {"sliding_window_shapes": (3, 5, 5), "strides": (3, 4, 4), "target": 0}
    assert agree("Occlusion", (net,), x, **arguments, tolerance={}).path == "dense"


# --- what is left to Captum -----------------------------------------------------------------------


class Sum(nn.Module):
    """Two inputs, and a third argument."""

    def __init__(self) -> None:
        super().__init__()
        self.net = random_net(11)

    def forward(self, x: Tensor, y: Tensor | float = 0.0, scale: float = 1.0) -> Tensor:
        return self.net(x + y) * scale


def _training() -> nn.Module:
    net = random_net(11)
    net.append(nn.BatchNorm1d(4).double())
    net[-1].train()
    return net


X = torch.randn(2, 3, 10, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
NAN = X.clone()
NAN[0, 0, 0, 0] = torch.nan
WINDOW = {"sliding_window_shapes": (3, 6, 6), "strides": (3, 3, 4), "target": 1}
DEFERRED = {
    "a function": (lambda: random_net(11).forward, X, WINDOW, "the forward function is a method"),
    "several inputs": (
        lambda: Sum().eval(),
        (X, X.flip(3)),
        {**WINDOW, "sliding_window_shapes": ((3, 6, 6),) * 2, "strides": (3, 3)},
        "the input must be one tensor",
    ),
    "additional arguments": (
        lambda: Sum().eval(),
        X,
        {**WINDOW, "additional_forward_args": (0.5, 2.0)},
        "additional_forward_args",
    ),
    "train mode": (_training, X, WINDOW, "is in train mode"),
    "batch statistics": (
        lambda: random_net(11).append(nn.BatchNorm1d(4, track_running_stats=False).double()).eval(),
        *(X, WINDOW, "has no running statistics"),
    ),
    "vectors": (
        lambda: nn.Linear(6, 3).double().eval(),
        X[:, 0, 0, :6].contiguous(),
        {"sliding_window_shapes": (2,), "strides": 2, "target": 1},
        r"must be one tensor \[N,C,H,W\] and not empty, got \[2, 6\]",
    ),
    "maps as output": (
        lambda: nn.Conv2d(3, 2, 3).double().eval(),
        X,
        {**WINDOW, "target": (1, 2, 3)},
        r"must return logits",
    ),
    "one number for all images": (
        lambda: Model(lambda m, x: m.conv(x).mean(), conv=nn.Conv2d(3, 2, 3)).double().eval(),
        X,
        {**WINDOW, "target": None},
        "must return logits",
    ),
    "NaN": (lambda: random_net(11), NAN, WINDOW, "infinite values or NaN"),
    "a baseline of another dtype": (
        lambda: random_net(11),
        X,
        {**WINDOW, "baselines": torch.zeros(1, 3, 10, 11)},
        "another dtype",
    ),
}


@pytest.mark.parametrize("case", DEFERRED)
def test_whatever_zfcuda_cannot_do_captum_does(case: str):
    make, x, arguments, reason = DEFERRED[case]
    mine = agree("Occlusion", (make(),), x, **arguments, tolerance=SAME)
    assert mine.path == "captum"
    assert re.search(reason, mine.path_reason), mine.path_reason


@pytest.mark.parametrize(
    "arguments",
    [
        {"sliding_window_shapes": (3, 11, 3)},
        {"sliding_window_shapes": (3, 3)},
        {"sliding_window_shapes": (3, 3, 3), "strides": (3, 4, 1)},
        {"sliding_window_shapes": (3, 3, 3), "strides": (3, 4)},
        {"target": 4},
        {"target": [0, 1, 2]},
        {"target": "dog"},
        {"perturbations_per_eval": 0},
        {"baselines": "black"},
        {"baselines": torch.zeros(2, 3, 4, 4)},
    ],
    ids=str,
)
def test_wrong_arguments_raise_captums_errors(arguments: dict[str, Any]):
    agree_to_refuse("Occlusion", (random_net(11),), X, **{**WINDOW, **arguments})


# --- deconvolution --------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 3),
    target=st.sampled_from([0, (3,), torch.tensor(2)]),
)
def test_deconvolution_gives_captums_numbers(seed: int, n: int, target: Any):
    net, x = random_net(seed), torch.randn(n, 3, 12, 13, dtype=torch.float64)
    assert agree("Deconvolution", (net,), x, target).path == "kernels"
    assert not x.requires_grad


@settings(max_examples=100)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 3), data=st.data())
def test_neuron_deconvolution_gives_captums_numbers(seed: int, n: int, data: st.DataObject):
    net, x = random_net(seed), torch.randn(n, 3, 12, 13, dtype=torch.float64)
    shapes: dict[str, tuple[int, ...]] = {}
    hooks = [
        module.register_forward_hook(lambda m, i, out, name=name: shapes.update({name: out.shape}))
        for name, module in net.named_modules()
    ]
    net(x)
    for hook in hooks:
        hook.remove()
    name = data.draw(st.sampled_from([name for name in shapes if name]))
    unit = tuple(data.draw(st.integers(-1, length - 1)) for length in shapes[name][1:])
    selectors = [unit, unit, (*unit[:-1], slice(0, 2)), lambda out: out[(slice(None), *unit)]]
    selector = data.draw(st.sampled_from(selectors))
    layer = net.get_submodule(name)
    mine = agree("NeuronDeconvolution", (net, layer), x, selector)
    a_unit = len(shapes[name]) == 4 and selector is unit
    # An adaptive pool may have windows of several sizes; a block that ends in a ReLU may be
    # followed by another.
    odd = isinstance(layer, nn.AdaptiveAvgPool2d) or _has(net, PreActivation, Parallel, Block)
    if a_unit and not odd:
        assert mine.path == "cone", mine.path_reason
    else:
        assert mine.path in ("cone", "kernels"), mine.path_reason


def _has(net: nn.Module, *kinds: type[nn.Module]) -> bool:
    return any(isinstance(module, kinds) for module in net.modules())


def through_dropout() -> nn.Module:
    """In eval mode dropout returns the very tensor that the other branch takes."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.first(x)
        return x + m.relu(m.dropout(x))

    return Model(forward, first=nn.Conv2d(3, 3, 3), dropout=nn.Dropout(), relu=nn.ReLU())


def called_again() -> nn.Module:
    """The ReLU below the layer is called again after it, on a tensor further down: there Captum's
    hook finds the signal of the first call."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.a(x)
        return m.c(m.relu(m.b(x))) + m.relu(x)

    return Model(forward, **{name: nn.Conv2d(3, 3, 3, padding=1) for name in "abc"}, relu=nn.ReLU())


class OwnReLU(nn.ReLU):
    """Captum hooks it, whatever it does."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=0) * 2


@pytest.mark.parametrize(
    ("middle", "layer", "reason"),
    [
        (lambda: PreActivation(3), "2", "takes what .*relu takes"),
        (through_dropout, "2", "takes what .*relu takes"),
        (lambda: nn.Sequential(Parallel(), nn.Conv2d(4, 3, 1)), "2", "called in parallel"),
        (lambda: nn.Sequential(nn.ReLU(), nn.Identity(), nn.ReLU()), "2", "follows .*_0 directly"),
        (OwnReLU, "2", "a subclass of nn.ReLU"),
        (called_again, "1.c", "called in parallel"),
    ],
)
def test_where_captums_hooks_do_something_else_they_are_kept(
    middle: Callable[[], nn.Module], layer: str, reason: str
):
    net = nn.Sequential(nn.Conv2d(3, 3, 3), middle(), nn.Conv2d(3, 3, 3)).double().eval()
    mine = agree("NeuronDeconvolution", (net, net.get_submodule(layer)), X, (1, 2, 3))
    assert mine.path == "kernels"
    assert re.search(reason, mine.path_reason), mine.path_reason


CHANGES = {
    "a step of training": lambda net: net[0].weight.data.mul_(2.0),
    "other statistics": lambda net: net[1].running_mean.data.add_(3.0),
    "another module": lambda net: net.__setitem__(2, nn.Identity()),
    "another stride": lambda net: setattr(net[3], "stride", 1),
    "a hook": lambda net: net[1].register_forward_hook(lambda module, args, out: 2 * out),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_model_that_changes_between_two_calls(change: Callable[[nn.Sequential], None]):
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 2, 2)
    )
    net = net.double().eval()
    mine = ours.NeuronDeconvolution(net, net[4])
    before = mine.attribute(X, (1, 1, 2))
    assert mine.path == "cone"
    change(net)
    expected = attr.NeuronDeconvolution(net, net[4]).attribute(X, (1, 1, 2))
    assert not torch.allclose(expected, before)
    torch.testing.assert_close(mine.attribute(X, (1, 1, 2)), expected, **EXACT)


@pytest.mark.parametrize("unit", [(0, 99, 0), (99, 0, 0), (0,), "best"])
def test_wrong_units_raise_captums_errors(unit: Any):
    net = random_net(21)
    agree_to_refuse("NeuronDeconvolution", (net, net[0]), X, unit)


def test_the_input_of_a_neuron():
    net, x = random_net(21), torch.randn(1, 3, 12, 13, dtype=torch.float64)
    agree("NeuronDeconvolution", (net, net[1]), x, (0, 2, 3), attribute_to_neuron_input=True)


def test_deconvolution_of_several_inputs_and_arguments():
    net, inputs = Sum().eval(), (X, X.flip(3))
    mine = agree("Deconvolution", (net,), inputs, 1, additional_forward_args=2.0)
    assert isinstance(mine.attribute(inputs, 1, additional_forward_args=2.0), tuple)


def test_deconvolution_in_train_mode_is_captums():
    net = random_net(11).append(nn.BatchNorm1d(4).double()).train()
    torch.manual_seed(0)
    expected = attr.Deconvolution(net).attribute(X, 1)
    mine = ours.Deconvolution(net)
    torch.manual_seed(0)
    torch.testing.assert_close(mine.attribute(X, 1), expected, rtol=0, atol=0)
    assert mine.path == "captum"
    assert "train mode" in mine.path_reason


# --- what it looks like ---------------------------------------------------------------------------


def test_the_path_is_visible_and_logged(caplog: pytest.LogCaptureFixture):
    net = random_net(11)
    mine = ours.Occlusion(net)
    assert mine.path is None
    with caplog.at_level(logging.DEBUG, "zfcuda.compat.captum"):
        mine.attribute(X, **WINDOW)
        assert mine.path in FAST
        assert f"Occlusion took the path {mine.path!r}: {mine.path_reason}" in caplog.text
        mine.attribute(NAN, **WINDOW)
    assert "Occlusion took the path 'captum': the input holds infinite values or NaN" in caplog.text


def test_they_are_captums_classes():
    net = random_net(11)
    assert isinstance(ours.Occlusion(net), attr.Occlusion)
    assert isinstance(ours.Deconvolution(net), attr.Deconvolution)
    assert isinstance(ours.NeuronDeconvolution(net, net[0]), attr.NeuronDeconvolution)
    assert ours.Occlusion(net).has_convergence_delta() is False


def test_inside_captums_noise_tunnel():
    net = random_net(11)
    maps = []
    for kind in (attr.Occlusion, ours.Occlusion):
        torch.manual_seed(0)
        tunnel = attr.NoiseTunnel(kind(net))
        maps.append(tunnel.attribute(X, nt_samples=3, nt_type="smoothgrad", **WINDOW))
    torch.testing.assert_close(*maps)


def test_the_model_is_left_as_it_was():
    net = random_net(11).requires_grad_()
    ours.Occlusion(net).attribute(X, **WINDOW)
    ours.Deconvolution(net).attribute(X, 1)
    ours.NeuronDeconvolution(net, net[0]).attribute(X, (0, 1, 1))
    for module in net.modules():
        assert not module.training
        assert not module._forward_hooks and not module._forward_pre_hooks
    assert all(parameter.grad is None for parameter in net.parameters())


def test_without_captum(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.delitem(sys.modules, "zfcuda.compat.captum")
    with pytest.raises(ModuleNotFoundError, match=r'pip install "zfcuda\[captum\]"'):
        import zfcuda.compat.captum  # noqa: F401
