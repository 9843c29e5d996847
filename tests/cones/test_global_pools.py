"""One number of each whole map, as occluders change it, against whole passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from traces import only, rules, traced
from zoo import Model

import zfcuda
from zfcuda.cones import occluding
from zfcuda.cones.operators import patches
from zfcuda.cones.operators.behaviours import backward_boxes, forward_boxes
from zfcuda.graph.rules import AvgPool, GlobalPool, Identity, MaxPool, Opaque

OVER = (2, 3)
REDUCTIONS = {
    "mean": torch.mean,
    "sum": torch.sum,
    "max": torch.amax,
    "min": torch.amin,
    "logsumexp": torch.logsumexp,
}
SUMS = ("mean", "sum", "logsumexp")


def pool(reduce: str, keepdim: bool = False) -> nn.Module:
    return Model(lambda m, x: REDUCTIONS[reduce](x, OVER, keepdim).flatten(1)).eval()


def occluded(x: Tensor, boxes: Tensor, fill: Tensor) -> Tensor:
    """[n,P,C,H,W]."""
    out = x[:, None].repeat(1, len(boxes), 1, 1, 1)
    for position, (y0, x0, y1, x1) in enumerate(boxes.tolist()):
        out[:, position, :, y0:y1, x0:x1] = fill[:, y0:y1, x0:x1]
    return out


def all_over(height: int, width: int, count: int = 12, seed: int = 0) -> Tensor:
    """Boxes of all sizes: some of the inside, corners, the whole map."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, height, (count, 2), generator=generator).sort(1).values
    x = torch.randint(0, width, (count, 2), generator=generator).sort(1).values
    some = torch.stack([y[:, 0], x[:, 0], y[:, 1] + 1, x[:, 1] + 1], 1)
    corners = [[0, 0, 1, 1], [height - 1, width - 1, height, width], [0, 0, height, width]]
    return torch.cat([some, torch.tensor(corners)])


def both(reduce: str, x: Tensor, fill: Tensor, boxes: Tensor, **kwargs) -> tuple[Tensor, Tensor]:
    """What cones find for a pool of the image, and what torch does."""
    found = zfcuda.occlusion(pool(reduce), x, positions=boxes, fill=fill, method="cone", **kwargs)
    assert found.method == "cone"
    wanted = REDUCTIONS[reduce](occluded(x, boxes, fill), (3, 4))
    return found.logits, wanted.to(found.logits.dtype)


# --- every number ---------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99), st.sampled_from([*REDUCTIONS]))
@settings(max_examples=60, deadline=None)
def test_every_size(height, width, seed, reduce):
    torch.manual_seed(seed)
    x, fill = torch.randn(2, 3, height, width).double(), torch.randn(3, height, width).double()
    found, wanted = both(reduce, x, fill, all_over(height, width, seed=seed))
    if reduce in SUMS:
        torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13 * height * width)
    else:
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("kind", ["noise", "nearly uniform", "far apart", "large under occluders"])
def test_no_less_accurate_than_torch(kind, reduce, dtype):
    """What must not happen: that a large number, which occluders hide, takes digits with it."""
    size = (33, 61)
    x, fill = torch.randn(2, 3, *size), torch.randn(3, *size)
    if kind == "nearly uniform":
        x, fill = 1 + 0.01 * x, 1 + 0.01 * fill
    if kind == "far apart":
        x = x * 10 ** (3 * torch.randn(x.shape)).clamp(-4, 4)
    boxes = all_over(*size)
    if kind == "large under occluders":
        boxes[:, :2].clamp_(max=9)
        boxes[:, 2:].clamp_(min=20)
        x[:, :, 10:19, 10:19] = 1e30 if dtype != torch.float16 else 6e4
    x, fill = x.to(dtype), fill.to(dtype)
    found, wanted = both(reduce, x, fill, boxes)
    if reduce not in SUMS:
        assert torch.equal(found, wanted)
        return
    exact = REDUCTIONS[reduce](occluded(x.double(), boxes, fill.double()), (3, 4))
    found, wanted = found.to(dtype), wanted.to(dtype)
    finite = wanted.isfinite()
    error, torchs = ((v.double() - exact)[finite].abs() for v in (found, wanted))
    assert error.norm() <= torchs.norm() and error.max() <= torchs.max()
    rounded = exact.to(dtype)
    assert (found == rounded).double().mean() > 0.999  # as near as can be


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, [torch.inf, -torch.inf]])
@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("where", ["base", "fill"])
@pytest.mark.parametrize("size", [(9, 7), (21, 30)], ids=str)
def test_numbers_that_are_none(size, where, reduce, bad):
    """They count for the positions that show them, and for no other."""
    x, fill = torch.randn(2, 3, *size), torch.randn(3, *size)
    into = x[0] if where == "base" else fill
    for number, value in enumerate(bad if isinstance(bad, list) else [bad]):
        into[1, size[0] // 2, size[1] // 3 + number] = value
    boxes = torch.cat([all_over(*size), all_over(*size, count=60, seed=1)])
    found, wanted = both(reduce, x, fill, boxes)
    assert torch.equal(found.isnan(), wanted.isnan())
    assert torch.equal(found.isinf(), wanted.isinf())
    torch.testing.assert_close(found, wanted, equal_nan=True)
    assert wanted.isfinite().any()


def test_positions_that_change_nothing():
    """An occluder that no pixel of a later map sees."""
    net = Model(
        lambda m, x: m.first(x).mean(OVER), first=nn.Conv2d(3, 4, 1, stride=4).double()
    ).eval()
    x = torch.randn(2, 3, 41, 41).double()
    boxes = torch.tensor([[1, 1, 3, 3], [0, 0, 9, 9], [5, 2, 7, 4]])
    cone, dense = (zfcuda.occlusion(net, x, positions=boxes, method=m) for m in ("cone", "dense"))
    torch.testing.assert_close(cone.logits, dense.logits)
    assert torch.equal(cone.logits[:, 0], cone.base_logits)
    assert torch.equal(cone.logits[:, 2], cone.base_logits)


# --- inside networks ------------------------------------------------------------------------------


HEADS = {
    "module": lambda x: F.adaptive_avg_pool2d(x, 1),
    "vectors": lambda x: x.mean((-1, -2)),
    "list": lambda x: x.mean([2, 3], True),
    "window": lambda x: F.avg_pool2d(x, x.shape[2:]),
    "sum": lambda x: x.sum(OVER),
    "kept sum": lambda x: x.sum(OVER, keepdim=True),
    "rectified maximum": lambda x: F.max_pool2d(x.relu(), x.shape[2:]),
    "maximum": lambda x: F.adaptive_max_pool2d(x, 1),
    "powers": lambda x: F.lp_pool2d(x, 2.0, x.shape[2:]),
    "vectors side by side": lambda x: torch.cat([x.mean(OVER), x.amax(OVER)], 1),
    "maps side by side": lambda x: torch.cat(
        [F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)], 1
    ),
    "one axis after the other": lambda x: x.mean(-1).mean(-1),
    "rows, then columns": lambda x: x.amax(2, True).amax(3, True),
    "with places": lambda x: x.flatten(2).max(2)[0],
    "then maps": lambda x: x.logsumexp(OVER, keepdim=True).relu() * 2 + 1,
}


@pytest.mark.parametrize("size", [(13, 17), (40, 37)], ids=str)
@pytest.mark.parametrize("head", HEADS)
def test_heads(head, size):
    net = Model(
        lambda m, x: m.last(HEADS[head](m.middle(m.first(x))).flatten(1)),
        first=nn.Conv2d(3, 5, 3, padding=1),
        middle=nn.Conv2d(5, 6, 3, stride=2),
        last=nn.LazyLinear(4),
    ).double()
    x = torch.randn(2, 3, *size).double()
    net.eval()(x)
    given = {"positions": all_over(*size), "fill": torch.randn(3, *size).double()}
    given["layers"] = ["first", "middle"]
    dense = zfcuda.occlusion(net, x, method="dense", **given)
    for method in ("cone", "auto"):
        found = zfcuda.occlusion(net, x, method=method, **given)
        assert float((found.logits - dense.logits).norm() / dense.logits.norm()) < 1e-12
        torch.testing.assert_close(found.base_logits, dense.base_logits)
        for layer, sums in dense.layers.items():
            torch.testing.assert_close(found.layers[layer].sums, sums.sums)
    steps = zfcuda.plan(net, x, method="cone", positions=given["positions"]).steps
    assert [step.dense for step in steps if step.kind == "globalpool"][:1] == [False]


def test_a_layer_of_vectors():
    """Its sum over one map is the number itself."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), Means(), nn.Linear(4, 3)).double().eval()
    x = torch.randn(2, 3, 20, 19).double()
    given = {"positions": all_over(20, 19), "layers": ["1"]}
    cone, dense = (zfcuda.occlusion(net, x, method=m, **given) for m in ("cone", "auto"))
    torch.testing.assert_close(cone.layers["1"].sums, dense.layers["1"].sums)
    with torch.no_grad():
        best = net[:2](x).amax(1)
    torch.testing.assert_close(cone.layers["1"].base, best)


class Means(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(OVER)


# --- what it costs --------------------------------------------------------------------------------


def test_no_position_reads_its_whole_map(monkeypatch):
    sizes = []
    gather = patches.ops.gather_windows

    def watched(base, buffers, windows, out, largest, *args, **kwargs):
        sizes.append(largest)
        gather(base, buffers, windows, out, largest, *args, **kwargs)

    calls = []
    around = occluding.around

    def once(*args):
        calls.append(args)
        return around(*args)

    monkeypatch.setattr(patches.ops, "gather_windows", watched)
    monkeypatch.setattr(occluding, "around", once)
    x = torch.randn(1, 3, 200, 300).double()
    boxes = torch.tensor(
        [[y, x, y + 5, x + 7] for y in range(0, 190, 30) for x in range(0, 290, 9)]
    )
    result = zfcuda.occlusion(pool("mean"), x, positions=boxes, method="cone", max_memory=2**17)
    assert result.method == "cone"
    assert len(calls) == 1 and len(sizes) > 2  # once for all batches of positions
    assert max(sizes) <= 5 * (7 + 2 * 8)


def test_the_plan_knows():
    """A large map's mean is no reason to leave the cones."""
    net = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()
    x = torch.randn(1, 3, 256, 256)
    plan = zfcuda.plan(net, x, size=16, stride=16)
    assert (plan.method, plan.dense_from) == ("cone", "3")
    step = plan.steps[-2]
    assert step.kind == "globalpool" and step.cone_cost < step.dense_cost / 20


# --- what is read, and the rectangles -------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "rule"),
    [
        (lambda m, x: x.mean(OVER), GlobalPool("mean", (12, 10), False)),
        (lambda m, x: x.mean((3, 2), True), GlobalPool("mean", (12, 10), True)),
        (lambda m, x: F.adaptive_avg_pool2d(x, 1), GlobalPool("mean", (12, 10), True)),
        (lambda m, x: F.avg_pool2d(x, (12, 10)), GlobalPool("mean", (12, 10), True)),
        (lambda m, x: x.sum((-2, -1)), GlobalPool("sum", (12, 10), False)),
        (lambda m, x: x.amax(OVER), GlobalPool("max", (12, 10), False)),
        (lambda m, x: x.amax(OVER, True), MaxPool((12, 10), (12, 10), (0, 0), (1, 1), False)),
        (lambda m, x: x.amin(OVER, True), GlobalPool("min", (12, 10), True)),
        (lambda m, x: x.logsumexp(OVER), GlobalPool("logsumexp", (12, 10), False)),
        (lambda m, x: x.mean(3).mean(2), GlobalPool("mean", (12, 10), False)),
        (lambda m, x: x.sum(2).sum(-1), GlobalPool("sum", (12, 10), False)),
        (lambda m, x: x.mean(2, True).mean(3, True), GlobalPool("mean", (12, 10), True)),
        (lambda m, x: x.max(3)[0].max(2)[0], GlobalPool("max", (12, 10), False)),
        (lambda m, x: x.flatten(2).min(2)[0], GlobalPool("min", (12, 10), False)),
        (lambda m, x: x.mean(OVER, dtype=torch.float32), Opaque()),
        (lambda m, x: x.mean((1, 2)), Opaque()),
        (lambda m, x: x.mean(2), Opaque()),
        (lambda m, x: x.max(3)[1], Opaque()),
    ],
)
def test_reading(call, rule):
    assert only(Model(call)) == rule


@pytest.mark.parametrize(
    "call",
    [
        lambda m, x: x.mean(3).sum(2),
        lambda m, x: x.mean(3).mean(1),
        lambda m, x: x.mean(1).mean(2),
        lambda m, x: x.mean(3, True).mean(2),
        lambda m, x: x.mean(3).mean(2, dtype=torch.float32),
        lambda m, x: x.mean(3, dtype=torch.float32).mean(2),
        lambda m, x: x.flatten(2).max(2)[1],
        lambda m, x: x.flatten(1, 2).mean(1),
    ],
)
def test_other_reductions_are_opaque(call):
    assert rules(traced(Model(call)))[-1] == Opaque()


def test_reading_of_windows():
    assert only(Model(lambda m, x: x.mean(OVER, True)), torch.randn(2, 4, 1, 1)) == Identity()
    window = only(Model(lambda m, x: F.avg_pool2d(x, (12, 9))))
    assert window == AvgPool((12, 9), (12, 9), (0, 0), False, True, None)
    other = only(Model(lambda m, x: F.avg_pool2d(x, (12, 10), divisor_override=3)))
    assert isinstance(other, AvgPool)
    assert not traced(Model(lambda m, x: x.mean(OVER))).nodes[-1].is_map


@given(st.integers(1, 9), st.integers(1, 9), st.data())
@settings(max_examples=30, deadline=None)
def test_rectangles(height, width, data):
    """Everything changes the one number, which depends on everything."""
    rule = GlobalPool("sum", (height, width), True)
    y, x = data.draw(st.integers(0, height)), data.draw(st.integers(0, width))
    box = np.array([[0, 0, y, x], [y, x, height, width]])
    found = forward_boxes(rule, [box], [(height, width)], (1, 1))
    for (y0, x0, y1, x1), one in zip(box, found.tolist(), strict=True):
        assert one == ([0, 0, 1, 1] if y0 < y1 and x0 < x1 else [0] * 4)
    above = np.array([[0, 0, 1, 1], [0, 0, 0, 0]])
    needed = backward_boxes(rule, above, (height, width), (1, 1))
    assert needed.tolist() == [[0, 0, height, width], [0] * 4]
