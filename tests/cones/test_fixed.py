"""Maps that do not depend on the images: positions' parameters, coordinates, masks."""

import pytest
import torch
import torch.nn.functional as F
from operators import check_down, check_exact, check_up, some_boxes
from torch import Tensor, nn
from traces import Model, images, rules, traced

import zfcuda
from zfcuda.cones.receptive import receptive_fields
from zfcuda.experiments.diagrams import naming
from zfcuda.graph import rules as kinds

SIZE = (9, 7)
LOCAL = (kinds.Binary, kinds.Concat, kinds.Pointwise, kinds.Pixelwise, kinds.Affine)


def coordinates(x: Tensor) -> Tensor:
    n, _, h, w = x.shape
    rows = torch.linspace(-1, 1, h, dtype=x.dtype).view(1, 1, h, 1).expand(n, 1, h, w)
    columns = torch.linspace(-1, 1, w, dtype=x.dtype).expand(n, 1, h, w)
    return torch.cat([rows, columns, (rows**2 + columns**2).sqrt()], 1)


def stacked(x: Tensor) -> Tensor:
    axes = [torch.arange(size, dtype=x.dtype) for size in x.shape[2:]]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    return torch.cat([x, grid.unsqueeze(0).repeat(x.shape[0], 1, 1, 1)], 1)


# Linear in x.
CALLS = {
    "added": lambda m, x: x + m.p,
    "added, scaled": lambda m, x: torch.add(x, m.p, alpha=-2),
    "added, of the batch's rank": lambda m, x: m.p[None] + x,
    "added to all maps": lambda m, x: x + m.p[:1],
    "added to each row": lambda m, x: x + m.p[0, 0],
    "subtracted": lambda m, x: x - m.p,
    "subtracted from": lambda m, x: m.p - x,
    "rsub": lambda m, x: torch.rsub(x, m.p, alpha=3),
    "in place": lambda m, x: x.clone().add_(m.p).mul_(m.p[1]),
    "multiplied": lambda m, x: x * m.p,
    "multiplied by a row": lambda m, x: m.p[0, :1] * x,
    "divided": lambda m, x: x / m.p,
    "mask": lambda m, x: x * (m.p[0] > 0),
    "mask of integers": lambda m, x: x * (m.p[0] > 0).int(),
    "one map, added to all": lambda m, x: x[:, 1:2] + m.p,
    "one map, by all": lambda m, x: m.p * x[:, 1:2],
    "one map where": lambda m, x: torch.where(m.p > 0, x[:, 1:2], 0.5),
    "filled": lambda m, x: x.masked_fill(m.p[0] > 0, 3.0),
    "where": lambda m, x: torch.where(m.p > 0, x, 0.5),
    "where not": lambda m, x: torch.where(m.p > 0, -1.0, x),
    "coordinates": lambda m, x: torch.cat([x, coordinates(x)], 1),
    "coordinates first": lambda m, x: torch.cat([coordinates(x), x], 1),
    "coordinates repeated": lambda m, x: stacked(x),
    "zeros": lambda m, x: torch.cat([x, x.new_zeros(len(x), 2, *x.shape[2:])], 1),
    "made of others": lambda m, x: x + m.p.expand(len(x), -1, -1, -1).abs() * m.p[1],
}
# Not linear in x.
OTHERS = {
    "maximum": lambda m, x: torch.maximum(x, m.p),
    "power": lambda m, x: (x.abs() + 1) ** m.p,
    "divided by": lambda m, x: m.p / (x.abs() + 1),
}


def of(call) -> Model:
    parameter = nn.Parameter(torch.randn(4, *SIZE, dtype=torch.float64))
    return Model(call, p=parameter).eval()


@pytest.fixture(params=CALLS)
def call(request):
    return CALLS[request.param]


def check_fixed(graph):
    found_kinds = {type(rule) for rule in rules(graph)}
    assert kinds.Fixed in found_kinds
    assert found_kinds <= {kinds.Fixed, *LOCAL}


def test_patches(call):
    model, x = of(call), images(2, SIZE)
    check_fixed(traced(model, x))
    check_up(model, x, some_boxes(SIZE, 9))
    check_up(nn.Sequential(model, nn.LeakyReLU()), x, some_boxes(SIZE, 9))


def test_signals(call):
    check_down(of(call), images(2, SIZE))


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_linear(name):
    """Cones up; down the whole backward pass."""
    model, x = of(OTHERS[name]), images(2, SIZE)
    model.p.data.abs_().add_(0.5)
    check_fixed(traced(model, x))
    check_up(model, x, some_boxes(SIZE, 9))


def test_rectangles():
    x, conv = images(1, SIZE), nn.LazyConv2d(3, 3, 2, 1).double()
    net = nn.Sequential(of(CALLS["coordinates"]), conv).eval()
    net(x)
    nn.init.ones_(conv.weight)
    check_exact(net, traced(net, x), x)


class Net(nn.Module):
    def __init__(self, call) -> None:
        super().__init__()
        self.stem, self.tail = nn.Conv2d(4, 4, 3, padding=1), nn.LazyConv2d(6, 3, 2, 1)
        self.call = of(call)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(F.max_pool2d(self.call(self.stem(x)), 2, 1)).relu().amax((2, 3))


def network(call, x) -> nn.Module:
    net = Net(call).double().eval()
    net(x)
    return net


def test_occlusion(call):
    x = images(2, SIZE)
    net = network(call, x)
    cones, dense = (
        zfcuda.occlusion(net, x, size=2, stride=2, layers=["tail"], method=method)
        for method in ("cone", "dense")
    )
    torch.testing.assert_close(cones.logits, dense.logits)
    torch.testing.assert_close(cones.layers["tail"].sums, dense.layers["tail"].sums)
    assert zfcuda.plan(net, x, size=2, stride=2, method="cone").steps[-2].name == "tail"
    assert not zfcuda.plan(net, x, size=2, stride=2, method="cone").steps[-2].dense


@pytest.mark.parametrize("rule", ["deconv", "gradient"])
def test_projection(call, rule):
    x = images(1, SIZE)
    net = network(call, x)
    found = zfcuda.deconv(net, x, "tail", rule=rule, seed=1.0)
    net.stem.register_forward_hook(lambda *_: None)  # no graph: the whole backward pass
    torch.testing.assert_close(found, zfcuda.deconv(net, x, "tail", rule=rule, seed=1.0))


def test_units_on_a_fixed_map_send_nothing():
    check_down(of(CALLS["coordinates first"]), images(2, SIZE))
    x = images(1, SIZE)
    net = nn.Sequential(nn.Conv2d(4, 4, 1), of(CALLS["coordinates"])).double().eval()
    sent = [zfcuda.deconv(net, x, "1", channel, (3, 3), seed=1.0) for channel in (5, 1)]
    assert not sent[0].any() and sent[1].any()


def test_whole_maps_of_a_fixed_map():
    """Past a barrier they are expanded, however many positions there are."""
    x = images(1, SIZE)
    net = Model(
        lambda m, x: (x.softmax(2) + m.p).sum((2, 3)), p=nn.Parameter(torch.randn(4, *SIZE))
    )
    net = net.double().eval()
    cones, dense = (
        zfcuda.occlusion(net, x, size=2, stride=2, method=method) for method in ("cone", "dense")
    )
    torch.testing.assert_close(cones.logits, dense.logits)


def test_changed_parameters_are_noticed():
    """Even those that are not copied: they are read where they are."""
    x = images(1, (260, 260))
    net = Model(lambda m, x: (m.pool(x) + m.p).amax((2, 3)), pool=nn.MaxPool2d(2))
    net.p = nn.Parameter(torch.randn(4, 130, 130, dtype=torch.float64))
    assert net.p.numel() > 2**16
    net.eval()
    for _ in range(2):
        cones, dense = (
            zfcuda.occlusion(net, x, size=90, stride=90, method=method)
            for method in ("cone", "dense")
        )
        torch.testing.assert_close(cones.logits, dense.logits)
        net.p.data.mul_(-3)


def test_of_another_dtype():
    """As torch promotes it; where that is not the maps' dtype, a barrier."""
    x = images(2, SIZE)
    p = torch.randn(4, *SIZE)
    check_fixed(traced(Model(lambda m, x: x + p), x))
    check_up(Model(lambda m, x: x + p).eval(), x, some_boxes(SIZE, 5))
    graph = traced(Model(lambda m, x: x + p.double()), x.float())
    assert [type(rule) for rule in rules(graph)] == [kinds.Opaque]


def test_not_where_pixels_lie():
    x = images(2, SIZE)
    model = Model(lambda m, x: x.permute(0, 2, 3, 1) + torch.ones(9, 7, 1))
    assert kinds.Fixed not in {type(rule) for rule in rules(traced(model, x))}


def test_receptive_fields():
    x = images(1, SIZE)
    net = nn.Sequential(of(CALLS["coordinates"]), nn.Conv2d(7, 3, 3)).double()
    field = receptive_fields(net, x, ["1"])["1"]
    assert (field.size, field.stride, field.start) == ((3, 3), (1, 1), (0, 0))


def test_words():
    _, fixed, product = traced(of(CALLS["multiplied"]), images(1, SIZE)).nodes
    assert naming(fixed).kind == "fixed map" and naming(product).kind == "mul"


def test_maps_of_one_number_are_left_alone_and_read_where_they_are():
    """They are no filling, which a graph would remember; and nobody writes into them."""
    net = Model(
        lambda m, x: torch.cat([x, m.p.expand(len(x), -1, -1, -1)], 1).relu().mean((2, 3)),
        p=nn.Parameter(torch.zeros(1, 1, 260, 260, dtype=torch.float64)),
    )
    x = torch.randn(1, 2, 260, 260, dtype=torch.float64)
    for _ in range(2):
        kept = net.p.detach().clone()
        found, wanted = (
            zfcuda.occlusion(net, x, size=100, stride=100, method=method).logits
            for method in ("cone", "dense")
        )
        assert torch.equal(net.p, kept)
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
        with torch.no_grad():
            net.p.add_(torch.rand(260, 260))


def test_large_constants_laid_into_maps_are_read_where_they_are():
    def forward(m, x):
        x = x * 2
        x[:, :1] = m.p
        return x.relu().mean((2, 3))

    net = Model(forward, p=nn.Parameter(torch.zeros(1, 1, 260, 260, dtype=torch.float64)))
    net.requires_grad_(False)
    x = torch.randn(1, 2, 260, 260, dtype=torch.float64)
    for _ in range(2):
        found, wanted = (
            zfcuda.occlusion(net, x, size=100, stride=100, method=method).logits
            for method in ("cone", "dense")
        )
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
        net.p.add_(torch.rand(260, 260))
