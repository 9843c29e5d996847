"""The deconvnet's rules against nets written out by hand, and against torch's own gradient."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import Model, output_of

import zfcuda
from zfcuda.ops import reference

POOL = ((3, 3), (2, 2), (1, 1), (1, 1))


@pytest.fixture(autouse=True)
def _no_warning():
    """A warning would say that a call has no rule; here all have one."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


class Stack(nn.Module):
    """conv, ReLU, overlapping pool, conv, ReLU, conv."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 5, stride=2, padding=1)
        self.conv2 = nn.Conv2d(4, 5, 3, padding=1)
        self.conv3 = nn.Conv2d(5, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(x).relu(), *POOL[:3])
        return self.conv3(F.relu(self.conv2(x))).flatten(1)

    def by_hand(self, x: Tensor, seed: Tensor, overlap: str) -> Tensor:
        """The deconvnet of section 2.1, layer by layer, from a signal at conv3's output."""
        maps = self.conv1(x).relu()
        _, switches = reference.max_pool2d(maps, *POOL)
        signal = F.conv_transpose2d(seed, self.conv3.weight)
        signal = F.conv_transpose2d(signal.relu(), self.conv2.weight, padding=1)
        signal = reference.max_unpool2d(signal, switches, *POOL, maps.shape[2:], overlap=overlap)
        rest = (x.shape[2] + 2 - 5) % 2, (x.shape[3] + 2 - 5) % 2
        weight = self.conv1.weight
        return F.conv_transpose2d(signal.relu(), weight, stride=2, padding=1, output_padding=rest)


@pytest.mark.parametrize("overlap", ["sum", "overwrite"])
def test_equals_the_net_written_by_hand(x, overlap):
    net = Stack().double()
    maps = net.conv3(net.conv2(F.max_pool2d(net.conv1(x).relu(), *POOL[:3])).relu()).detach()
    channel = maps.amax((2, 3)).argmax(1)
    seed = torch.zeros_like(maps)
    for n, c in enumerate(channel):
        place = maps[n, c].flatten().argmax()
        seed[n, c].view(-1)[place] = maps[n, c].flatten()[place]
    with torch.no_grad():
        expected = net.by_hand(x, seed, overlap)
    projection = zfcuda.deconv(net, x, "conv3", overlap=overlap)
    torch.testing.assert_close(projection, expected, rtol=1e-12, atol=1e-14)
    assert projection.abs().max() > 0


def test_overlap_rules_differ_on_overlapping_pools(x):
    net = Stack().double()
    rules = [zfcuda.deconv(net, x, "conv3", overlap=rule) for rule in ("sum", "overwrite")]
    assert not torch.equal(*rules)


def strongest_gradient(maps: Tensor, x: Tensor) -> Tensor:
    """Gradient of the strongest unit's value times that value, by torch alone."""
    values = maps.flatten(1).max(1).values
    return torch.autograd.grad(values.square().sum() / 2, x)[0]


def test_gradient_rule_is_torchs_gradient(net, x):
    leaf = x.clone().requires_grad_()
    for layer in ("tail", "classes"):
        expected = strongest_gradient(output_of(net, leaf, layer), leaf)
        projection = zfcuda.deconv(net, x, layer, rule="gradient")
        torch.testing.assert_close(projection, expected, rtol=1e-10, atol=1e-13)


class PlainReLU(torch.autograd.Function):
    """The deconvnet's ReLU, as the tests see it."""

    @staticmethod
    def forward(ctx, x, low_slope, high):
        return torch.where(x < 0, x * low_slope, x).clamp(max=high)

    @staticmethod
    def backward(ctx, signal):
        return torch.where(signal < 0, 0, signal), None, None


def rectifier(low_slope: float = 0.0, high: float = float("inf")):
    return lambda x: PlainReLU.apply(x, low_slope, high)


def vgg_by_hand(net, x, relu):
    conv1, _, pool, conv2, _, mean = net.features
    return mean(relu(conv2(pool(relu(conv1(x))))))


def functional_by_hand(net, x, relu):
    x = F.max_pool2d(relu(net.first(x)), 3, 2, padding=1)
    return F.max_pool2d(relu(net.third(relu(net.second(x)))), 3, 1)


def reused_by_hand(net, x, relu):
    for _ in range(2):
        x = F.max_pool2d(relu(net.conv(x)), 3, 2, ceil_mode=True)
    return x


def residual_by_hand(net, x, relu):
    x = relu(net.norm(net.stem(x)))
    return relu(x + net.inner(x))


def inception_by_hand(net, x, relu):
    a, b = rectifier(high=6.0)(net.a[0](x)), rectifier(low_slope=0.1)(net.b[0](x))
    c = rectifier(high=6.0)(net.c(x))
    return F.avg_pool2d(torch.cat([a, b, c, F.max_pool2d(x, 3, 1, 1)], 1), 2)


def fused_by_hand(net, x, relu):
    x = net.first(x)
    norm = F.local_response_norm(x, 3, 0.5, 0.75, 2.0)
    x = x + (norm - x).detach()  # forward the norm, backward the identity
    return relu(net.second(F.max_pool2d(relu(x), 3, 2, ceil_mode=True)))


def normed_by_hand(net, x, relu):
    x = relu(net.first(x))
    x = x + (F.local_response_norm(x, 5, 0.5, 0.75, 2.0) - x).detach()
    pooled, indices = F.max_pool2d(x, 2, return_indices=True)
    return F.pixel_shuffle(F.max_unpool2d(pooled, indices, 2), 2)[:, :, ::2, 1::2]


BY_HAND = {
    "VGGLike": vgg_by_hand,
    "Functional": functional_by_hand,
    "Reused": reused_by_hand,
    "Residual": residual_by_hand,
    "Inception": inception_by_hand,
    "Fused": fused_by_hand,
    "Normed": normed_by_hand,
}


def test_every_way_of_writing_a_network_follows_the_rules(net, x):
    leaf = x.clone().requires_grad_()
    maps = net.tail(BY_HAND[type(net).__name__](net, leaf, rectifier()))
    expected = strongest_gradient(maps, leaf)

    projection = zfcuda.deconv(net, x, "tail")
    torch.testing.assert_close(projection, expected, rtol=1e-10, atol=1e-13)
    gradient = zfcuda.deconv(net, x, "tail", rule="gradient")
    assert not torch.allclose(projection, gradient)


def test_norm_gradient(make, x):
    for name in ("Fused", "Normed"):
        net = make(name)
        identity = zfcuda.deconv(net, x, "tail")
        gradient = zfcuda.deconv(net, x, "tail", norm="gradient")
        assert not torch.allclose(identity, gradient)
    # Before any ReLU or pool the two rules coincide with the plain gradient.
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LocalResponseNorm(3, 0.5), nn.Conv2d(4, 2, 1))
    net = net.double()
    torch.testing.assert_close(
        zfcuda.deconv(net, x, "2", norm="gradient"), zfcuda.deconv(net, x, "2", rule="gradient")
    )


def test_residual_signals_add_before_rectifying(x):
    def forward(m, x):
        x = m.conv(x).relu()
        return m.last(3 * x - 2 * x)  # signals 3 and -2: their sum is positive

    net = Model(forward, conv=nn.Conv2d(3, 1, 1, bias=False), last=nn.Identity()).double()
    nn.init.ones_(net.conv.weight)
    projection = zfcuda.deconv(net, x.abs(), "last", seed=1.0)
    assert projection.max() == 1.0  # rectified one by one it would be 3


def test_unpooling_happens_before_rectifying(x):
    """With overlap the signals of several windows add up, and only their sum is rectified."""

    net = Model(
        lambda m, x: m.mix(m.pool(x)).flatten(1),
        pool=zfcuda.nn.MaxPool2d((1, 2), (1, 1), relu=True),
        mix=nn.Conv2d(1, 1, (1, 2), bias=False),
    ).double()
    image = torch.tensor([[[[0.0, 5.0, 1.0]]]], dtype=torch.float64)  # both windows choose the 5
    with torch.no_grad():
        net.mix.weight.copy_(torch.tensor([3.0, -2.0]).view(1, 1, 1, 2))
    projection = zfcuda.deconv(net, image, "mix", seed=1.0)
    assert projection.flatten().tolist() == [0.0, 1.0, 0.0]
    overwritten = zfcuda.deconv(net, image, "mix", seed=1.0, overlap="overwrite")
    assert overwritten.flatten().tolist() == [0.0, 0.0, 0.0]  # the last window sent -2


RELUS = {
    "relu": torch.relu,
    "method": lambda x: x.relu(),
    "in place": lambda x: torch.relu_(x),
    "functional in place": lambda x: F.relu(x, inplace=True),
    "clamp": lambda x: torch.clamp(x, min=0),
    "clamp_min": lambda x: x.clamp_min(0.0),
    "clamp in place": lambda x: x.clamp_(0),
    "relu6": F.relu6,
    "threshold": lambda x: F.threshold(x, 0.0, 0.0),
    "hardtanh": lambda x: F.hardtanh(x, 0.0, 100.0),
    "leaky": F.leaky_relu,
    "leaky in place": lambda x: F.leaky_relu(x, 0.2, inplace=True),
    "module": nn.ReLU(),
    "prelu": lambda x: F.prelu(x, torch.full((1,), 0.3, dtype=x.dtype)),
    "parametric": nn.PReLU().double(),
    "rrelu": lambda x: F.rrelu(x),
    "randomised": nn.RReLU(),
    "clamp by a tensor": lambda x: x.clamp(min=torch.zeros((), dtype=x.dtype)),
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "maximum of zeros": lambda x: torch.maximum(torch.zeros((), dtype=x.dtype), x),
    "max": lambda x: torch.max(x, torch.zeros_like(x)),
    "fmax": lambda x: x.fmax(torch.zeros_like(x)),
    "mask": lambda x: x * (x > 0),
    "mask first": lambda x: (x >= 0).mul(x),
    "mask of numbers": lambda x: x * (x > 0).float(),
    "mask of its type": lambda x: x * torch.gt(x, 0).to(x.dtype),
    "mask inverted": lambda x: x * ~(x < 0),
    "one minus a mask": lambda x: x * (1 - (x < 0).type_as(x)),
    "mask in place": lambda x: x.mul_(x > 0),
    "heaviside": lambda x: x * torch.heaviside(x, torch.zeros((), dtype=x.dtype)),
    "heaviside that is one at zero": lambda x: x * torch.heaviside(x, torch.ones_like(x)),
    "one minus heaviside": lambda x: x * (1 - torch.heaviside(-x, torch.ones_like(x))),
    "where": lambda x: torch.where(x > 0, x, 0),
    "where not": lambda x: torch.where(x <= 0, torch.zeros_like(x), x),
    "where by names": lambda x: torch.where(condition=x > 0, input=x, other=torch.zeros_like(x)),
    "where as a method": lambda x: x.where(x > 0, 0.0),
    "masked_fill": lambda x: x.masked_fill(x < 0, 0),
    "masked_fill in place": lambda x: x.masked_fill_(x < 0, 0),
    "assignment": lambda x: (x.__setitem__(x < 0, 0.0), x)[1],
    "index_put": lambda x: x.index_put((x < 0,), torch.zeros((), dtype=x.dtype)),
    "aten": torch.ops.aten.relu,
    "aten overload": torch.ops.aten.relu.default,
}


@pytest.mark.parametrize("relu", RELUS.values(), ids=RELUS.keys())
def test_every_spelling_of_relu_rectifies_the_signal(relu):
    last = nn.Conv2d(1, 2, 1, bias=False)
    net = Model(lambda m, x: m.last(relu(x * 1)).flatten(1), last=last).double()
    with torch.no_grad():
        net.last.weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
    x = torch.tensor([[[[-3.0, 4.0]]]], dtype=torch.float64)
    for position in ((0, 0), (0, 1)):  # the signal passes whatever forward's sign was
        kept = zfcuda.deconv(net, x, "last", 0, position, seed=1.0)
        assert kept.sum() == 1.0
        blocked = zfcuda.deconv(net, x, "last", 1, position, seed=1.0)
        assert blocked.abs().sum() == 0.0


def test_batch_norm_by_the_batchs_own_statistics_is_a_scale(x):
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    nn.init.normal_(norm.weight)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.Conv2d(4, 2, 3)).double()
    x = x[:1]
    with torch.no_grad():
        maps = net[0](x)
        scale = norm.weight / (maps.var((0, 2, 3), correction=0) + norm.eps).sqrt()
        last = net(x)[0]
        seed = torch.zeros_like(last)
        seed.view(-1)[last.argmax()] = last.max()
        signal = F.conv_transpose2d(seed[None], net[3].weight).relu() * scale[:, None, None]
        expected = F.conv_transpose2d(signal, net[0].weight)
    torch.testing.assert_close(zfcuda.deconv(net, x, "3"), expected)


def test_relu_in_place_on_a_part_of_a_tensor(x):
    def forward(m, x):
        x = m.first(x)
        x[:, :2].relu_()
        return m.last(x).flatten(1)

    net = Model(forward, first=nn.Conv2d(3, 4, 1), last=nn.Conv2d(4, 3, 1)).double()
    leaf = x.clone().requires_grad_()
    maps = net.first(leaf)
    maps = net.last(torch.cat([rectifier()(maps[:, :2]), maps[:, 2:]], 1))
    torch.testing.assert_close(zfcuda.deconv(net, x, "last"), strongest_gradient(maps, leaf))


def test_a_clamp_may_name_its_empty_out(x):
    def forward(m, x):
        return m.tail(torch.clamp(m.conv(x), min=0, **m.keywords))

    layers = {"conv": nn.Conv2d(3, 4, 3), "tail": nn.Conv2d(4, 2, 3)}
    model = Model(forward, keywords={}, **layers).double()
    expected = zfcuda.deconv(model, x, "tail")
    model.keywords = {"out": None}
    torch.testing.assert_close(zfcuda.deconv(model, x, "tail"), expected)


@pytest.mark.parametrize("engine", ["cones", "autograd"])
@pytest.mark.parametrize("kind", [nn.PReLU, nn.RReLU, lambda: nn.PReLU(4, init=0.5)])
def test_parametric_relus_have_the_leaky_ones_rule(x, kind, engine):
    nets = [
        nn.Sequential(nn.Conv2d(3, 4, 3), relu, nn.MaxPool2d(2), nn.Conv2d(4, 4, 3)).double().eval()
        for relu in (kind(), nn.ReLU())
    ]
    nets[1][0], nets[1][3] = nets[0][0], nets[0][3]
    if engine == "autograd":
        nets[0][0].register_forward_hook(lambda *_: None)
    found = zfcuda.project(nets[0], x, "1", [(1, 3, 4), (2, 5, 5)], seed=-1.0)
    assert found.full().abs().sum() == 0  # what comes down negative is rectified
    for seed in (1.0, 2.5):
        found = zfcuda.project(nets[0], x, "1", (1, 3, 4), seed=seed)
        wanted = zfcuda.project(nets[1], x, "1", (1, 3, 4), seed=seed)
        torch.testing.assert_close(found.full(), wanted.full())
