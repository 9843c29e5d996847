"""Occlusion inside cones against dense passes: every kind of node, its parameters, its edges."""

from __future__ import annotations

import itertools
import math
import warnings
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from zoo import Model

import zfcuda
from zfcuda.cones.profile import AVX512


def boxes(height: int, width: int, count: int = 14) -> Tensor:
    """Boxes of all sizes: single pixels, edges, corners, the whole image."""
    generator = torch.Generator().manual_seed(count)
    y = torch.randint(0, height, (count, 2), generator=generator).sort(1).values
    x = torch.randint(0, width, (count, 2), generator=generator).sort(1).values
    some = torch.stack([y[:, 0], x[:, 0], y[:, 1] + 1, x[:, 1] + 1], 1)
    corners = [[0, 0, 1, 1], [height - 1, width - 1, height, width], [0, 0, height, width]]
    return torch.cat([some, torch.tensor(corners)])


def assert_cone_is_dense(
    net: nn.Module, size: tuple[int, int] = (13, 17), channels: int = 3, **kwargs
) -> zfcuda.OcclusionResult:
    net = net.double().eval()
    x = torch.randn(2, channels, *size, dtype=torch.float64)
    # Noise as the fill: a plain one makes ties.
    kwargs = {"positions": boxes(*size), "fill": torch.randn(x.shape[1:]).double(), **kwargs}
    dense = zfcuda.occlusion(net, x, method="dense", **kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cone = zfcuda.occlusion(net, x, method="cone", **kwargs)
        auto = zfcuda.occlusion(net, x, method="auto", **kwargs)
    for result in (cone, auto):
        error = (result.logits - dense.logits).norm() / dense.logits.norm()
        assert error < 1e-9
        for layer, sums in dense.layers.items():
            torch.testing.assert_close(result.layers[layer].channels, sums.channels)
            torch.testing.assert_close(result.layers[layer].sums, sums.sums)
    assert dense.method == "dense"
    return cone


class Ended(nn.Module):
    """Some layers between two convolutions, then a weighted sum over everything, so that every
    pixel counts."""

    def __init__(self, *middle: nn.Module, channels: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.middle = nn.Sequential(*middle)
        self.last = nn.LazyLinear(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x)).flatten(1))


def ended(*middle: nn.Module) -> nn.Module:
    net = Ended(*middle).double().eval()
    net(torch.randn(1, 3, 13, 17, dtype=torch.float64))
    return net


CONVOLUTIONS = [
    {"kernel_size": k, "stride": s, "padding": p, "dilation": d, "groups": g}
    for k, s, p, d, g in [
        (1, 1, 0, 1, 1),
        (1, 1, 0, 1, 2),
        (1, 1, 1, 1, 1),
        (1, 2, 0, 1, 1),
        (2, 1, 1, 1, 1),
        (3, 1, 0, 1, 1),
        (3, 1, 1, 1, 4),
        (3, 2, 1, 1, 2),
        (3, 1, 2, 2, 1),
        (3, 3, 0, 2, 1),
        (2, 5, 0, 1, 1),
        ((1, 5), (2, 1), (0, 3), (1, 2), 1),
        ((5, 2), (1, 3), (4, 0), (2, 3), 1),
        (3, 1, "same", 2, 1),
    ]
]


@pytest.mark.parametrize("arguments", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_convolutions(arguments, bias):
    assert_cone_is_dense(ended(nn.Conv2d(4, 8, bias=bias, **arguments), nn.ReLU()))


POOLS = [
    arguments
    for arguments in itertools.product([2, 3, (3, 1)], [1, 2, 3], [0, 1], [1, 2], [False, True])
    if not (arguments[2] == 1 and arguments[0] == (3, 1))
]


@pytest.mark.parametrize("arguments", POOLS, ids=str)
@pytest.mark.parametrize("kind", [nn.MaxPool2d, zfcuda.nn.MaxPool2d])
@pytest.mark.parametrize("relu", [True, False])
def test_max_pools(arguments, kind, relu):
    kernel, stride, padding, dilation, ceil_mode = arguments
    pool = kind(kernel, stride, padding, dilation, ceil_mode=ceil_mode)
    assert_cone_is_dense(ended(*([nn.ReLU()] if relu else []), pool))


@pytest.mark.parametrize(
    "arguments",
    [
        (kernel, stride, padding, ceil_mode, include, divisor)
        for kernel, stride, padding in [(2, 2, 0), (3, 2, 1), (3, 1, 1), (5, 3, 2), ((2, 3), 2, 1)]
        for ceil_mode in (False, True)
        for include in (False, True)
        for divisor in (None, 7)
    ],
    ids=str,
)
def test_average_pools(arguments):
    kernel, stride, padding, ceil_mode, include, divisor = arguments
    pool = nn.AvgPool2d(kernel, stride, padding, ceil_mode, include, divisor)
    assert_cone_is_dense(ended(pool, nn.ReLU()))


@pytest.mark.parametrize(
    "layer",
    [
        nn.AdaptiveAvgPool2d(1),
        nn.AdaptiveAvgPool2d((13, 17)),
        nn.AdaptiveAvgPool2d((13, 1)),
        nn.AdaptiveAvgPool2d((5, 4)),  # windows of several sizes: a barrier
        nn.AdaptiveMaxPool2d(1),
        nn.ReLU6(),
        nn.LeakyReLU(0.1, inplace=True),
        nn.SiLU(),
        nn.GELU(),
        nn.Hardswish(),
        nn.Sigmoid(),
        nn.PReLU(4),
        nn.Dropout(),
        nn.Identity(),
        nn.Softmax(dim=1),
        nn.BatchNorm2d(4),
        nn.LocalResponseNorm(3, alpha=0.5, k=2.0),
        zfcuda.nn.LocalResponseNorm(4, alpha=0.5, k=2.0),
        nn.GroupNorm(2, 4),  # over the whole map: a barrier
        nn.PixelShuffle(2),
        nn.Upsample(scale_factor=2),
        nn.ConvTranspose2d(4, 3, 3),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_other_layers(layer):
    if isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.running_mean)
        nn.init.uniform_(layer.running_var, 0.5, 2.0)
        nn.init.normal_(layer.bias)
    assert_cone_is_dense(ended(layer, nn.LeakyReLU()))


class Block(nn.Module):
    """Branches of different reach that are added or concatenated."""

    def __init__(self, channels: int, kinds: list[str], join: str) -> None:
        super().__init__()
        self.join = join
        self.branches = nn.ModuleList(self._branch(channels, kind) for kind in kinds)

    @staticmethod
    def _branch(channels: int, kind: str) -> nn.Module:
        match kind:
            case "skip":
                return nn.Identity()
            case "wide":
                return nn.Conv2d(channels, channels, 5, padding=2)
            case "deep":
                inner = nn.Conv2d(channels, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU()
                return nn.Sequential(*inner, nn.Conv2d(2, channels, 3, padding=1))
            case "pool":
                return nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 1, 1))
            case "average":
                return nn.AvgPool2d(3, 1, 1, count_include_pad=False)
            case "point":
                return nn.Sequential(nn.Conv2d(channels, channels, 1), nn.Hardswish())
        raise AssertionError(kind)

    def forward(self, x: Tensor) -> Tensor:
        values = [branch(x) for branch in self.branches]
        if self.join == "cat":
            return torch.cat(values, 1)
        total = values[0]
        for value in values[1:]:
            total = total * value if self.join == "mul" else total + value
        return torch.relu(total)


@st.composite
def networks(draw) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 3, draw(st.sampled_from([1, 3, 5])), padding=1)]
    channels = 3
    for _ in range(draw(st.integers(1, 3))):
        kind = st.sampled_from(["skip", "wide", "deep", "pool", "average", "point"])
        kinds = draw(st.lists(kind, min_size=1, max_size=3))
        join = draw(st.sampled_from(["cat", "add", "mul"]))
        layers.append(Block(channels, kinds, join))
        channels *= len(kinds) if join == "cat" else 1
        if draw(st.booleans()):
            stride = draw(st.integers(1, 2))
            layers.append(nn.MaxPool2d(2, stride, ceil_mode=draw(st.booleans())))
        if draw(st.booleans()):
            layers += [nn.Conv2d(channels, 2, 3, draw(st.integers(1, 2)), 1), nn.ReLU(inplace=True)]
            channels = 2
    head = nn.AdaptiveAvgPool2d(1) if draw(st.booleans()) else nn.Identity()
    return nn.Sequential(*layers, head, nn.Flatten(), nn.LazyLinear(4))


@settings(max_examples=40, deadline=None)
@given(networks(), st.integers(9, 14), st.integers(9, 14))
def test_networks_of_branches(net, height, width):
    torch.manual_seed(0)
    net.double().eval()(torch.randn(1, 3, height, width, dtype=torch.float64))
    layers = [name for name, _ in net.named_children()][:-2]
    assert_cone_is_dense(net, (height, width), layers=layers)


def test_all_layers_in_one_run():
    """Also of layers that are fused with their neighbours."""
    net = ended(nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.ReLU())
    names = [name for name, _ in net.named_modules() if name and name != "last"]
    assert_cone_is_dense(net, layers=[*names, "last"])


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 15 * 15, 5),
    ).eval()


@pytest.mark.parametrize("max_memory", [1, 100_000, 10_000_000])
def test_any_batch_gives_the_same(max_memory):
    net, x = small().double(), torch.randn(2, 3, 32, 32).double()
    arguments = {"size": 6, "stride": 5, "layers": ["3"]}
    whole = zfcuda.occlusion(net, x, method="dense", **arguments)
    result = zfcuda.occlusion(net, x, method="cone", max_memory=max_memory, **arguments)
    torch.testing.assert_close(result.logits, whole.logits)
    torch.testing.assert_close(result.layers["3"].sums, whole.layers["3"].sums)


def test_every_position_of_a_size_of_its_own():
    """More sizes than the window ops take buffers."""
    alone = replace(AVX512, convolution_call=0)  # no size joins another
    positions = torch.tensor([[0, 0, h, w] for h in range(1, 32, 2) for w in range(1, 32, 2)])
    assert_cone_is_dense(small(), (32, 32), positions=positions, profile=alone)


def test_the_memory_limit_chooses_the_batch():
    net, x = small(), torch.randn(1, 3, 32, 32)
    batches = [zfcuda.plan(net, x, 6, 5, max_memory=m).batch for m in (1, 200_000, 10**9)]
    assert batches[0] == 1 < batches[1] < batches[2]


def test_float32_is_as_exact_as_torch():
    """The error against float64 is at most four times that of torch's own dense pass."""
    net, x = small(), torch.randn(1, 3, 32, 32)
    arguments = {"size": 7, "stride": 5}
    cone = zfcuda.occlusion(net, x, method="cone", **arguments).logits
    dense = zfcuda.occlusion(net, x, method="dense", **arguments).logits
    truth = zfcuda.occlusion(net.double(), x.double(), method="dense", **arguments).logits
    assert (cone - truth).norm() <= 4 * (dense - truth).norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    net, x = small().to(dtype), torch.randn(1, 3, 32, 32).to(dtype)
    arguments = {"size": 7, "stride": 5, "layers": ["1"]}
    result = zfcuda.occlusion(net, x, method="cone", **arguments)
    truth = zfcuda.occlusion(net.double(), x.double(), method="dense", **arguments)
    assert (result.logits - truth.logits).norm() / truth.logits.norm() < 0.05
    assert result.logits.dtype == torch.float32


def test_nothing_leaks_between_positions():
    """A NaN that one position shows stays with the positions that show it."""
    net, x = small().double(), torch.randn(1, 3, 32, 32).double()
    fill = torch.randn(3, 32, 32).double()
    clean = zfcuda.occlusion(net, x, size=4, stride=4, fill=fill, method="cone").logits
    fill[:, 17, 9] = math.nan
    result = zfcuda.occlusion(net, x, size=4, stride=4, fill=fill, method="cone")
    y0, x0, y1, x1 = result.boxes.T
    shows = (y0 <= 17) & (y1 > 17) & (x0 <= 9) & (x1 > 9)
    assert shows.sum() == 1
    assert result.logits[0, shows].isnan().all()
    assert torch.equal(result.logits[0, ~shows], clean[0, ~shows])


def test_a_change_that_reaches_nothing():
    """A stride beyond the kernel leaves pixels that no window sees."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 25, 3))
    net = net.double().eval()
    x = torch.randn(1, 3, 13, 13).double()
    positions = torch.tensor([[1, 1, 3, 3], [0, 0, 2, 2]])
    result = zfcuda.occlusion(net, x, positions=positions, fill=9.0, layers="0", method="cone")
    torch.testing.assert_close(result.logits[0, 0], result.base_logits[0])
    torch.testing.assert_close(result.layers["0"].sums[0, 0], result.layers["0"].base[0])
    assert not torch.allclose(result.logits[0, 1], result.base_logits[0])


def test_one_pixel_images():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3))
    assert_cone_is_dense(net, (1, 1), positions=torch.tensor([[0, 0, 1, 1]]))


def test_channels_last_and_a_model_on_channels_last():
    net = small().to(memory_format=torch.channels_last)
    x = torch.randn(1, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    cone, dense = (zfcuda.occlusion(net, x, size=8, method=m).logits for m in ("cone", "dense"))
    torch.testing.assert_close(cone, dense)


# --- the caller's own positions -------------------------------------------------------------------


def test_own_positions(tmp_path):
    net, x = small(), torch.randn(2, 3, 32, 32)
    positions = torch.tensor([[-3, 2, 9, 11], [20, 20, 40, 40], [5, 5, 6, 31]])
    result = zfcuda.occlusion(net, x, positions=positions)
    assert result.boxes.tolist() == [[0, 2, 9, 11], [20, 20, 32, 32], [5, 5, 6, 31]]
    assert result.grid is result.size is result.stride is None
    assert result.to_attribution().shape == (2, 1, 32, 32)
    with pytest.raises(ValueError, match="of the caller's own form no map"):
        result.heatmap()
    result.save(tmp_path / "own")
    loaded = zfcuda.OcclusionResult.load(tmp_path / "own")
    assert loaded.grid is None
    assert torch.equal(loaded.logits, result.logits)


@pytest.mark.parametrize("method", ["cone", "dense"])
def test_chosen_classes(method, tmp_path):
    net, x = small(), torch.randn(2, 3, 32, 32)
    arguments = {"target": [3, 0], "size": 9, "method": method}
    whole = zfcuda.occlusion(net, x, **arguments)
    some = zfcuda.occlusion(net, x, classes=[4, 0], **arguments)
    some.save(tmp_path / "some")
    for result in (some, zfcuda.OcclusionResult.load(tmp_path / "some")):
        assert result.classes.tolist() == [0, 3, 4]  # the targets are among them
        torch.testing.assert_close(result.logits, whole.logits[..., [0, 3, 4]])
        torch.testing.assert_close(result.probabilities, whole.probabilities[..., [0, 3, 4]])
        assert torch.equal(result.labels, whole.labels)
        torch.testing.assert_close(result.heatmap(1), whole.heatmap(1))
        torch.testing.assert_close(result.to_attribution(), whole.to_attribution())
    assert whole.classes is None


# --- models that cannot be traced -----------------------------------------------------------------


def test_control_flow_runs_dense_with_one_warning():
    moody = Model(lambda m, x: m.body(x if float(x.mean()) < 100 else -x), body=small())
    net, x = moody.eval(), torch.randn(1, 3, 32, 32)
    with pytest.warns(UserWarning, match="runs dense passes, since the model cannot be") as caught:
        result = zfcuda.occlusion(net, x, size=8, layers="body.1")
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert result.method == "dense"
    cone = zfcuda.occlusion(net.body, x, size=8, layers="1", method="cone")
    torch.testing.assert_close(result.logits, cone.logits)
    torch.testing.assert_close(result.layers["body.1"].sums, cone.layers["1"].sums)
    with pytest.raises(ValueError, match="method 'cone' needs a model that can be traced"):
        zfcuda.occlusion(net, x, size=8, method="cone")
    assert "dense passes (" in str(zfcuda.plan(net, x, size=8))


def test_a_graph_that_says_something_else_is_not_used():
    calls = itertools.count(1)
    net = Model(lambda m, x: m.body(x) * next(calls), body=small()).eval()
    with pytest.warns(UserWarning, match="calls mul with 1 for one image and with 2 for two"):
        result = zfcuda.occlusion(net, torch.randn(1, 3, 32, 32), size=16)
    assert result.method == "dense"


# --- the plan -------------------------------------------------------------------------------------


def test_plan_counts_multiply_adds():
    net, x = small(), torch.randn(1, 3, 32, 32)
    plan = zfcuda.plan(net, x, positions=torch.tensor([[10, 10, 14, 14]]), method="cone")
    first = next(step for step in plan.steps if step.name == "0")
    assert first.dense_macs == 32 * 32 * 8 * 27
    assert first.rectangle == (6, 6)
    assert first.cone_macs == 36 * 8 * 27
    linear = next(step for step in plan.steps if step.name == "6")
    assert linear.dense
    assert linear.dense_macs == 8 * 15 * 15 * 5
    assert plan.dense_from == "5"
    assert plan.method == "cone"
    assert plan.ceiling > 1


def test_plan_prints_a_table():
    text = str(zfcuda.plan(small(), torch.randn(1, 3, 32, 32), size=8, stride=8))
    assert "16 positions" in text
    for word in ("step", "rectangle", "conv", "maxpool"):
        assert word in text


def test_large_occluders_go_dense():
    """Where an occluder changes nearly everything, whole maps are cheaper."""
    plan = zfcuda.plan(small(), torch.randn(1, 3, 32, 32), size=32, stride=32)
    assert plan.method == "dense"
    assert all(step.dense for step in plan.steps)


def test_a_layer_inside_calls_that_count_as_one():
    """Channels-last normalisation is one step, unless someone asks for what is inside."""

    norm = Model(lambda m, x: m.norm(x.movedim(1, -1)).movedim(-1, 1), norm=nn.LayerNorm(4))
    net = ended(nn.ReLU(), norm, nn.Conv2d(4, 4, 3))
    plan = zfcuda.plan(net.double(), torch.randn(1, 3, 13, 17).double(), 3, 3)
    assert plan.dense_from == "flatten"
    assert_cone_is_dense(net, layers=["middle.1", "middle.2"])


@pytest.mark.parametrize("where", ["vectors", "maps", "channels last"])
def test_a_linear_layer_of_a_parameter(where):
    """A linear layer need not be given what comes from the image."""

    def forward(m, x):
        y, scale = m.first(x), m.scale(m.token)
        if where == "maps":
            y = y * scale[:, :, None, None]
        elif where == "channels last":
            y = (y.permute(0, 2, 3, 1) * scale).permute(0, 3, 1, 2)
        y = y.relu().mean((2, 3))
        return m.last(y * scale if where == "vectors" else y)

    layers = {"first": nn.Conv2d(3, 4, 3), "scale": nn.Linear(6, 4), "last": nn.Linear(4, 5)}
    net = Model(forward, token=nn.Parameter(torch.randn(1, 6)), **layers)
    assert_cone_is_dense(net, size=(40, 36))
