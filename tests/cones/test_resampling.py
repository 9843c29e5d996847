"""Interpolation and adaptive averages: cones against whole passes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from traces import Model, images, traced

import zfcuda
from zfcuda.cones.boxes import descend_boxes, propagate_boxes
from zfcuda.cones.operators.rectangles import clip
from zfcuda.cones.operators.resampling import maxima, passes, resampled, sums
from zfcuda.cones.receptive import receptive_fields
from zfcuda.graph.rules import AdaptiveMaxPool, Resampling

SIZE = (12, 16)
RESAMPLED = {
    "twice as large": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "corners aligned": lambda x: F.interpolate(x, (23, 9), mode="bilinear", align_corners=True),
    "by a scale": lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear"),
    "by a size": lambda x: F.interpolate(
        x, scale_factor=(0.7, 1.3), mode="bilinear", recompute_scale_factor=True
    ),
    "one axis": lambda x: F.interpolate(x, (12, 7), mode="bilinear"),
    "cubic": lambda x: F.interpolate(x, scale_factor=(1.5, 0.8), mode="bicubic"),
    "cubic, corners aligned": lambda x: F.interpolate(
        x, (5, 30), mode="bicubic", align_corners=True
    ),
    "antialiased": lambda x: F.interpolate(x, (5, 7), mode="bilinear", antialias=True),
    "cubic, antialiased": lambda x: F.interpolate(x, (7, 21), mode="bicubic", antialias=True),
    "averaged": lambda x: F.adaptive_avg_pool2d(x, (5, 7)),
    "averaged to more": lambda x: F.adaptive_avg_pool2d(x, (17, 6)),
    "area": lambda x: F.interpolate(x, (5, 20), mode="area"),
    "largest": lambda x: F.adaptive_max_pool2d(x, (5, 7)),
    "largest of few": lambda x: F.adaptive_max_pool2d(x, (17, 6)),
}


class Net(nn.Module):
    """The function between convolutions."""

    def __init__(self, function) -> None:
        super().__init__()
        self.stem, self.tail = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 6, 3, 2, padding=1)
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.function(self.stem(x).relu()).relu() + 0.5)
        return self.tail(x).relu().mean((2, 3))


@pytest.fixture(params=RESAMPLED)
def net(request):
    return Net(RESAMPLED[request.param]).double().eval()


def test_occlusion(net):
    x = images(2, SIZE)
    cones, dense = (
        zfcuda.occlusion(net, x, size=4, stride=3, layers=["tail"], method=method)
        for method in ("cone", "dense")
    )
    assert zfcuda.plan(net, x, size=4, stride=3, method="cone").dense_from in (None, "mean")
    torch.testing.assert_close(cones.logits, dense.logits)
    torch.testing.assert_close(cones.layers["tail"].sums, dense.layers["tail"].sums)


@pytest.mark.parametrize("rule", ["deconv", "gradient"])
def test_projection(net, rule):
    x = images(1, SIZE)
    found = zfcuda.deconv(net, x, "tail", rule=rule, seed=1.0)
    hooked = Net(net.function).double().eval()
    hooked.load_state_dict(net.state_dict())
    hooked.stem.register_forward_hook(lambda *_: None)  # no graph: the whole backward pass
    true = zfcuda.deconv(hooked, x, "tail", rule=rule, seed=1.0)
    torch.testing.assert_close(found, true)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_numbers(dtype):
    """Sums are kept in float32 at least."""
    net = Net(RESAMPLED["by a scale"]).to(dtype).eval()
    x = images(2, SIZE).to(dtype)
    cones, dense = (
        zfcuda.occlusion(net, x, size=4, stride=3, method=method) for method in ("cone", "dense")
    )
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(cones.logits, dense.logits, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", RESAMPLED)
def test_boxes_are_what_changes_and_what_is_needed(name):
    """A pixel that is not a number tells where it is read, with weight zero, too."""
    function, x = RESAMPLED[name], images(1, SIZE)
    graph = traced(Model(lambda m, x: function(x)), x)
    last = graph.nodes[-1]
    assert isinstance(last.rule, Resampling | AdaptiveMaxPool)
    generator = np.random.default_rng(0)
    for _ in range(20):
        y0, x0 = generator.integers(0, SIZE)
        box = np.array([[y0, x0, generator.integers(y0, 12) + 1, generator.integers(x0, 16) + 1]])
        y0, x0, y1, x1 = box[0]
        spoilt = x.clone()
        spoilt[:, :, y0:y1, x0:x1] = torch.nan
        assert_box(propagate_boxes(graph, box)[-1][0], function(spoilt).isnan()[0, 0])
    for oy, ox in generator.integers(0, last.shape[1:], (5, 2)):
        found = descend_boxes(graph, last, np.array([[oy, ox, oy + 1, ox + 1]]))[0]
        one_each = torch.eye(12 * 16).double().view(-1, 1, *SIZE)
        one_each[one_each > 0] = torch.nan
        assert_box(found[0], function(one_each)[:, 0, oy, ox].isnan().view(SIZE))


def assert_box(box, mask):
    at = mask.nonzero()
    if len(at):
        assert box.tolist() == [*at.amin(0).tolist(), *(at.amax(0) + 1).tolist()]
    else:
        assert (box == 0).all()


@given(st.data())
@settings(max_examples=30)
def test_windows_both_ways(data):
    """Up from what is needed, and down what lies in a window, against the matrices."""
    size, wanted = (data.draw(st.tuples(*[st.integers(1, 11)] * 2)) for _ in "io")
    function = data.draw(
        st.sampled_from(
            [
                lambda x: F.interpolate(x, wanted, mode="bilinear", align_corners=True),
                lambda x: F.interpolate(x, wanted, mode="bicubic"),
                lambda x: F.adaptive_avg_pool2d(x, wanted),
            ]
        )
    )
    x = images(1, size, 3)
    graph = traced(Model(lambda m, x: function(x)), x)
    rule = graph.nodes[-1].rule
    if not isinstance(rule, Resampling):
        return
    y = function(x)
    at = data.draw(st.lists(st.tuples(*[st.integers(0, 11)] * 4), min_size=1, max_size=4))
    boxes = clip(np.array(at, np.int64), wanted)
    below = descend_boxes(graph, graph.nodes[-1], boxes)[0]
    up = resampled(cut(x[0], below), passes(sums, below, boxes, rule.rows, rule.columns, x.device))
    torch.testing.assert_close(up, cut(y[0], boxes))
    for box in boxes:
        signal = torch.zeros_like(y)
        signal[..., box[0] : box[2], box[1] : box[3]] = 1 + torch.rand(3, 1, 1)
        source = x.clone().requires_grad_()
        function(source).backward(signal)
        whole = np.array([[0, 0, *size]])
        axes = rule.rows.transposed, rule.columns.transposed
        down = resampled(cut(signal[0], box[None]), passes(sums, box[None], whole, *axes, x.device))
        torch.testing.assert_close(down, cut(source.grad[0], whole))


@given(*[st.integers(1, 9)] * 4)
def test_maxima_are_exact(height, width, down, right):
    x = images(1, (height, width), 3)
    x[0, 0, height // 2, width // 2] = torch.nan
    graph = traced(
        Model(lambda m, x: F.adaptive_max_pool2d(x, (down, right))), images(1, (height, width), 3)
    )
    rule = graph.nodes[-1].rule
    if isinstance(rule, AdaptiveMaxPool):
        whole, all_of_it = np.array([[0, 0, height, width]]), np.array([[0, 0, down, right]])
        axes = passes(maxima, whole, all_of_it, rule.rows, rule.columns, x.device)
        found = resampled(cut(x[0], whole), axes)
        wanted = cut(F.adaptive_max_pool2d(x, (down, right))[0], all_of_it)
        torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)


def cut(maps: Tensor, boxes: np.ndarray) -> Tensor:
    """Pixels of maps [C,h,w] in boxes, one after another."""
    return torch.cat([maps[:, a:c, b:d].permute(1, 2, 0).reshape(-1, 3) for a, b, c, d in boxes])


def test_receptive_fields():
    def field(function):
        return receptive_fields(Net(function).double().eval(), images(1, (16, 16)), ["pool"])[
            "pool"
        ]

    halved = field(lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear"))
    assert (halved.size, halved.stride, halved.start) == ((6, 6), (4, 4), (-1, -1))
    assert isinstance(field(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")), str)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_one_column_is_the_models_own(mode, order):
    """For which torch answers otherwise where maps lie in another order of memory."""
    net = Model(
        lambda m, x: m.tail(F.interpolate(x, size=(34, 1), mode=mode, antialias=True)).flatten(1),
        tail=nn.Conv2d(2, 3, (34, 1)),
    ).double()
    x = torch.randn(1, 2, 17, 5, dtype=torch.float64).contiguous(memory_format=order)
    wanted = zfcuda.occlusion(net, x, size=3, stride=3, method="dense")
    with pytest.warns(UserWarning, match="order of memory"):
        found = zfcuda.occlusion(net, x, size=3, stride=3)
    torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-10, atol=1e-10)
