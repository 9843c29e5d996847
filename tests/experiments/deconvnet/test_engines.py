"""Many units on backward cones: held against the backward pass that follows the model's calls, in
float64."""

from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import Model

import zfcuda
from zfcuda.cones.observing import observe
from zfcuda.cones.operators.batch import Manner
from zfcuda.experiments.deconvnet import engines
from zfcuda.inference.layers import feature_maps, layer_outputs


@pytest.fixture
def by_autograd(monkeypatch):
    """:func:`zfcuda.project` without cones."""

    def run(*args, **named):
        with monkeypatch.context() as patch:
            patch.setattr(engines, "followed", lambda *_: (None, []))
            return zfcuda.project(*args, **named)

    return run


def distance(a: Tensor, b: Tensor) -> float:
    """The norm of the difference over the norm, the worst picture's."""
    norms = b.flatten(1).norm(dim=1).clamp_min(1e-300)
    return float(((a - b).flatten(1).norm(dim=1) / norms).max())


def batch_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    for values in (norm.running_mean, norm.weight, norm.bias):
        nn.init.normal_(values)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return norm


class Branches(nn.Module):
    """Branches that part and meet: concatenated, added, subtracted, and used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = batch_norm(6)
        self.left = nn.Conv2d(6, 4, 5, padding=2, groups=2)
        self.right = nn.Conv2d(6, 2, 1)
        self.inner = nn.Conv2d(6, 6, 3, padding=1)
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.tail = nn.Conv2d(6, 5, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = torch.cat([F.relu(self.left(x)), self.right(x)], 1) + x
        x = F.relu(self.inner(x) - self.pool(x))
        return self.tail(x)


class Shuffled(nn.Module):
    """Maps that are split, reordered, and normalised pixel by pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.inner = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.LayerNorm(8)
        self.tail = nn.Conv2d(8, 5, 3)
        nn.init.normal_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.stem(x).relu().chunk(2, 1)
        x = torch.cat([a, self.inner(b)], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.tail(self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


class GlobalSum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum((2, 3), keepdim=True)


NETS = {
    "strided": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 7, stride=2, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.LocalResponseNorm(3, alpha=0.5, k=2.0),
        nn.Conv2d(8, 6, 3, padding=1),
        nn.ReLU6(),
        nn.Conv2d(6, 5, 3, padding=1),
    ),
    "wide strides": lambda: nn.Sequential(
        nn.Conv2d(3, 8, (11, 7), stride=(4, 3), padding=2),
        nn.LeakyReLU(0.1),
        nn.MaxPool2d(2, 1, padding=1, dilation=2),
        nn.Conv2d(8, 5, 2),
    ),
    "dilated": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, dilation=(2, 3), padding=(2, 0)),
        nn.Hardtanh(0.0, 6.0),
        nn.Conv2d(4, 8, 3, groups=4, dilation=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, groups=2, stride=2, padding=1),
    ),
    "averaged": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        batch_norm(4),
        nn.ReLU(),
        nn.AvgPool2d(3, 2, padding=1, ceil_mode=True),
        nn.Conv2d(4, 6, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d((2, 3), 2, ceil_mode=True, count_include_pad=False),
        nn.Dropout(),
    ),
    "fused": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3),
        zfcuda.nn.MaxPool2d(3, 2, ceil_mode=True, relu=True),
        zfcuda.nn.LocalResponseNorm(3, alpha=0.5, k=2.0),
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Identity(),
    ),
    "branches": Branches,
    "shuffled": Shuffled,
    "global": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=2), nn.ReLU(), nn.Conv2d(4, 6, 1), nn.AdaptiveAvgPool2d(1)
    ),
    "global sum": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=2), nn.ReLU(), GlobalSum(), nn.Conv2d(4, 6, 1)
    ),
    "global maximum": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=2), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Conv2d(4, 6, 1)
    ),
}
LAST = {"branches": "tail", "shuffled": "tail"}


def net_of(kind: str) -> tuple[nn.Module, str]:
    net = NETS[kind]().double().eval()
    return net, LAST.get(kind) or list(dict(net.named_children()))[-1]


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 29, 26, dtype=torch.float64)


@pytest.mark.filterwarnings("ignore:the deconvnet has no rule for LayerNorm")
@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize(
    "manner",
    [
        {},
        {"seed": 1.0},
        {"overlap": "overwrite"},
        {"norm": "gradient"},
        {"rule": "gradient"},
        {"rule": "gradient", "seed": -2},
    ],
    ids=str,
)
@pytest.mark.parametrize("units", ["strongest", ("map", range(4)), "corners"], ids=str)
def test_cones_give_what_the_whole_backward_pass_gives(kind, manner, units, x, by_autograd, caplog):
    net, layer = net_of(kind)
    if units == "corners":
        with layer_outputs(net, layer, lambda name, maps: feature_maps(maps, name, 2)) as found:
            net(x)
        height, width = found[layer].shape[2:]
        units = [(c, r, w) for c in range(2) for r in (0, height - 1) for w in (0, width - 1)]
    with caplog.at_level(logging.DEBUG, "zfcuda"):
        result = zfcuda.project(net, x, layer, units, **manner)
    assert not caplog.records  # took the cones
    expected = by_autograd(net, x, layer, units, **manner)
    assert torch.equal(result.units, expected.units)
    assert torch.equal(result.image, expected.image)
    torch.testing.assert_close(result.activations, expected.activations)
    assert distance(result.full(), expected.full()) < 1e-9


@pytest.mark.filterwarnings("ignore:the deconvnet has no rule for LayerNorm")
@pytest.mark.parametrize("kind", NETS)
def test_every_layer_in_one_call(kind, x, by_autograd):
    net, _ = net_of(kind)
    layers = [name for name, _ in net.named_children()]
    result = zfcuda.project(net, x, layers, "top-2")
    expected = by_autograd(net, x, layers, "top-2")
    assert result.layers == tuple(layers)
    assert torch.equal(result.layer, expected.layer)
    assert torch.equal(result.units, expected.units)
    assert distance(result.full(), expected.full()) < 1e-9
    for layer in layers:
        alone = zfcuda.project(net, x, layer, "top-2")
        assert torch.equal(alone.boxes, result.boxes[result.of(layer)])
        assert torch.equal(alone.full(), result.full(result.of(layer)))


@pytest.mark.filterwarnings("ignore:the deconvnet has no rule for LayerNorm")
@pytest.mark.parametrize("kind", NETS)
def test_small_batches_give_the_same(kind, x):
    net, layer = net_of(kind)
    result = zfcuda.project(net, x, layer)
    split = zfcuda.project(net, x, layer, max_memory=1)
    assert torch.equal(result.boxes, split.boxes)
    torch.testing.assert_close(split.values, result.values)
    maps = zfcuda.project(net, x, layer, ("map", [0, 1, 2]))
    split = zfcuda.project(net, x, layer, ("map", [0, 1, 2]), max_memory=1)
    torch.testing.assert_close(split.values, maps.values)


def test_boxes_are_the_cones(x):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 5, stride=2))
    result = zfcuda.project(net.double(), x, "2", [(0, 0, 0), (1, 5, 4), (2, 12, 10)])
    assert result.boxes.tolist() == 2 * [[0, 0, 6, 6], [9, 7, 16, 14], [23, 19, 29, 26]]
    whole = zfcuda.project(net, x, "2", ("map", 1))
    assert whole.boxes.tolist() == 2 * [[0, 0, 29, 26]]
    assert whole.units.tolist() == 2 * [[1, -1, -1]]


def test_a_first_layers_unit_is_its_filter(x):
    net = nn.Sequential(nn.Conv2d(3, 4, 5, stride=3, padding=2)).double()
    result = zfcuda.project(net, x, "0", [(2, 3, 4), (1, 0, 0)], seed=2.0)
    torch.testing.assert_close(result.patch(0), 2 * net[0].weight[2].detach())
    torch.testing.assert_close(result.patch(1), 2 * net[0].weight[1, :, 2:, 2:].detach())
    assert result.boxes[:2].tolist() == [[7, 10, 12, 15], [0, 0, 3, 3]]


def test_a_unit_that_sees_only_padding(x):
    net = nn.Sequential(nn.Conv2d(3, 2, 1, padding=2)).double()
    result = zfcuda.project(net, x, "0", [(0, 0, 0), (1, 2, 2)])
    assert result.boxes[:2].tolist() == [[0, 0, 0, 0], [0, 0, 1, 1]]
    assert result.patch(0).shape == (3, 0, 0)
    assert result.full(0).count_nonzero() == 0


def test_nonlinearities_without_a_rule_use_their_gradient(x, by_autograd):
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.SiLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.ELU()
    ).double()
    with pytest.warns(UserWarning, match=r"no rule for (SiLU '1', ELU '4'|ELU '4', SiLU '1');"):
        result = zfcuda.project(net, x, "4")
    with pytest.warns(UserWarning, match="no rule for"):
        expected = by_autograd(net, x, "4")
    assert distance(result.full(), expected.full()) < 1e-9
    with pytest.warns(UserWarning, match=r"no rule for LayerNorm 'norm';"):
        zfcuda.project(Shuffled().double(), x, "tail")


SUMS = {
    "torch.add": lambda a, b: torch.add(a, b, alpha=0.5),
    "torch.sub": lambda a, b: torch.sub(a, b, alpha=0.5),
    "torch.rsub": lambda a, b: torch.rsub(a, b, alpha=3),
    "torch.subtract": lambda a, b: torch.subtract(a, b, alpha=-1),
    "named": lambda a, b: torch.add(input=a, other=b, alpha=2),
    "add": lambda a, b: a.add(b, alpha=-1),
    "add_": lambda a, b: a.clone().add_(b, alpha=0.5),
    "sub_": lambda a, b: a.clone().sub_(b, alpha=0.5),
    "nothing": lambda a, b: torch.add(a, b, alpha=0),
    "itself": lambda a, b: torch.add(a, a, alpha=3),
    "number": lambda a, b: torch.sub(2.0, torch.add(a, 3, alpha=2)),
    "weight": lambda a, b: torch.add(a, b, alpha=1 / a.shape[1]),
    "addcmul": lambda a, b: torch.addcmul(a, b, torch.full((4, 1, 1), 0.3).to(b), value=0.5),
    "lerp": lambda a, b: torch.lerp(a, b, 0.3),
}


@pytest.mark.parametrize("rule", ["gradient", "deconv"])
@pytest.mark.parametrize("name", SUMS)
def test_sums_keep_their_weights(x, name, rule):
    layers = {"a": nn.Conv2d(3, 4, 3), "b": nn.Conv2d(3, 4, 3), "block": nn.Identity()}
    net = Model(lambda m, x: m.block(SUMS[name](m.a(x), m.b(x))).mean((2, 3)), **layers).double()
    source = x.clone().requires_grad_()
    output = SUMS[name](net.a(source), net.b(source))
    (wanted,) = torch.autograd.grad(output[:, 1, 3, 4].sum(), source)
    found = zfcuda.project(net, x, "block", (1, 3, 4), seed=1.0, rule=rule).full()
    assert distance(found, wanted) < 1e-12


def test_classes_and_models_that_cannot_be_traced_take_a_backward_pass_a_unit(x, caplog):
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 72, 5)
    ).double()
    with caplog.at_level(logging.DEBUG, "zfcuda"):
        result = zfcuda.project(net, x, "3", [1, 4], seed=1.0)
        zfcuda.project(net, x, ["0", "3"], units={"0": (0, 1, 2), "3": 2})
    assert "projection of '3' by autograd: no cone through 3" in caplog.text
    assert "'0'" not in caplog.text
    assert result.units.tolist() == 2 * [[1, 0, 0], [4, 0, 0]]
    for unit in range(4):
        alone = zfcuda.deconv(net, x, "3", channel=int(result.units[unit, 0]), seed=1.0)
        torch.testing.assert_close(result.full(unit), alone[unit // 2])
    hook = net[1].register_forward_hook(lambda *_: None)
    with caplog.at_level(logging.DEBUG, "zfcuda"):
        expected = zfcuda.project(net, x, "0")
    assert "has hooks" in caplog.text
    hook.remove()
    assert distance(zfcuda.project(net, x, "0").full(), expected.full()) < 1e-9


UNITS = {
    "one unit": (3, 1, 2),
    "units": [(3, 1, 2), (0, 0, 0)],
    "for each image its own": [[(3, 1, 2)], [(0, 0, 4)]],
    "tensor": torch.tensor([[3, 1, 2], [0, 0, 0]]),
    "by layer": {"0": [(3, 1, 2), (0, 0, 0)]},
}


@pytest.mark.parametrize("units", UNITS.values(), ids=UNITS.keys())
def test_ways_to_name_units(units, x):
    net = nn.Sequential(nn.Conv2d(3, 4, 3)).double()
    result = zfcuda.project(net, x, "0", units)
    assert result.units[0].tolist() == [3, 1, 2]
    maps = net(x).detach()
    for unit in range(len(result)):
        image = int(result.image[unit])
        c, row, column = result.units[unit].tolist()
        assert result.activations[unit] == maps[image, c, row, column]
        alone = zfcuda.deconv(net, x, "0", channel=c, position=(row, column))[image]
        torch.testing.assert_close(result.full(unit), alone)


def test_strongest_and_top(x):
    net = nn.Sequential(nn.Conv2d(3, 5, 3)).double()
    strongest = zfcuda.project(net, x, "0")
    assert strongest.units[:, 0].tolist() == 2 * [0, 1, 2, 3, 4]
    assert torch.equal(strongest.activations, net(x).amax((2, 3)).flatten().detach())
    top = zfcuda.project(net, x, "0", ("top", 2))
    order = strongest.activations.view(2, 5).argsort(1, descending=True)[:, :2]
    assert torch.equal(top.units[:, 0].view(2, 2), order)
    torch.testing.assert_close(top.full(), zfcuda.deconv(net, x, "0", k=2).flatten(0, 1))


BAD_UNITS = {
    "word": ("best", r"units must be 'strongest' or as 'top-9', got 'best'"),
    "none at the top": ("top-0", r"or as 'top-9', got 'top-0'"),
    "pair": (("top", 0), r"\('top', k\) or \('map', channel or channels\), got \('top', 0\)"),
    "too many maps": ("top-6", r"k is 6, but layer '0' has only 5 maps"),
    "empty": ([], r"units must be \(channel, row, column\), .* got \[\]"),
    "ragged": ([(1, 2, 3), (1, 2)], r"units must be \(channel, row, column\)"),
    "floats": ([(1.0, 2.0, 3.0)], r"units must be \(channel, row, column\)"),
    "negative": ([(1, -1, 3)], r"units must not be negative, got \[\(1, -1, 3\)\]"),
    "outside": ([(1, 2, 3), (1, 27, 0)], r"within the \[5, 27, 24\] maps .* got \(1, 27, 0\)"),
    "no such map": (("map", 5), r"within the \[5, 27, 24\] maps .* got \(5,\)"),
    "class of a map": (3, r"layer '0' has 27x24 maps: name a unit as \(channel, row, column\)"),
    "images": ([[(1, 2, 3)]] * 3, r"units are given for 3 images, x has 2"),
    "layers": ({"1": (0, 0, 0)}, r"units name the layers \['1'\], layer names \['0'\]"),
}


@pytest.mark.parametrize(("units", "message"), BAD_UNITS.values(), ids=BAD_UNITS.keys())
def test_bad_units(units, message, x):
    net = nn.Sequential(nn.Conv2d(3, 5, 3)).double()
    with pytest.raises(ValueError, match=message):
        zfcuda.project(net, x, "0", units)


def test_patches_are_pasted(x):
    net, layer = net_of("strided")
    result = zfcuda.project(net, x, ["0", layer])
    full = result.full()
    assert full.shape == (len(result), 3, 29, 26)
    for unit in (0, 7, len(result) - 1):
        y0, x0, y1, x1 = result.boxes[unit].tolist()
        assert torch.equal(result.patch(unit), full[unit, :, y0:y1, x0:x1])
        assert full[unit].count_nonzero() == result.patch(unit).count_nonzero()
        assert torch.equal(result.full(unit), full[unit])
    assert torch.equal(result.full([3, 1]), full[[3, 1]])
    assert torch.equal(result.full(slice(2, 5)), full[2:5])
    assert result.of(layer, image=1).tolist() == list(range(21, 26))
    with pytest.raises(ValueError, match="layer 'x' was not projected"):
        result.of("x")


@pytest.mark.parametrize("layer", ["1", "6"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes(dtype, layer, x):
    net, _ = net_of("averaged")  # no switches that a near-tie could flip
    units = [(c, 2, 3) for c in range(4)]
    exact = zfcuda.project(net, x, layer, units)
    result = zfcuda.project(net.to(dtype), x.to(dtype), layer, units)
    assert result.values.dtype == torch.float32
    assert distance(result.full().double(), exact.full()) < (
        1e-5 if dtype == torch.float32 else 0.2
    )


def test_only_what_the_layer_needs_is_run(x):
    net, _ = net_of("strided")
    net.append(nn.ReLU())
    net[-1].forward = lambda _: pytest.fail("ran past the layer")
    graph = zfcuda.graph.trace(net[:-1], x)
    observed = observe(graph, x, [1], Manner())
    assert [*observed.outputs] == [1]
