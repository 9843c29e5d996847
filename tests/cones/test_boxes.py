"""Predicted rectangles against what really changes, and against what really has a gradient."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from traces import values_of
from zoo import Model

from zfcuda.cones.boxes import descend_boxes, propagate_boxes
from zfcuda.cones.operators.behaviours import backward_boxes, forward_boxes
from zfcuda.cones.operators.rectangles import clip, join_boxes
from zfcuda.graph import rules as kinds
from zfcuda.graph import trace
from zfcuda.ops.reference import pooled_size


def bounding_box(mask: Tensor) -> list[int]:
    """Around the true elements of [H,W]; zeros if there are none."""
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    if not len(rows):
        return [0, 0, 0, 0]
    return [int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1]


def contains(outer: np.ndarray, inner: list[int]) -> bool:
    if inner[0] == inner[2]:
        return True
    return bool((outer[:2] <= inner[:2]).all() and (outer[2:] >= inner[2:]).all())


@st.composite
def boxes_on(draw, size):
    """One box; maybe empty, maybe the whole map."""
    y0, x0 = (draw(st.integers(0, length)) for length in size)
    return (y0, x0, draw(st.integers(y0, size[0])), draw(st.integers(x0, size[1])))


# --- boxes ----------------------------------------------------------------------------------------


def test_join():
    a = np.array([[1, 2, 3, 4], [0, 0, 0, 0], [5, 5, 6, 6], [0, 0, 0, 0]])
    b = np.array([[2, 0, 4, 3], [7, 7, 8, 9], [0, 0, 0, 0], [3, 3, 3, 9]])
    expected = [[1, 0, 4, 4], [7, 7, 8, 9], [5, 5, 6, 6], [0, 0, 0, 0]]
    assert join_boxes(a, b).tolist() == expected
    assert join_boxes(b, a).tolist() == expected
    assert join_boxes(a, b, a).tolist() == expected
    assert a.tolist()[0] == [1, 2, 3, 4], "an argument was changed"


def test_clip():
    boxes = np.array([[-3, -2, 2, 99], [5, 5, 5, 7], [8, 0, 12, 3], [6, 6, 2, 2]])
    assert clip(boxes, (8, 9)).tolist() == [[0, 0, 2, 9], *[[0, 0, 0, 0]] * 3]


@pytest.mark.parametrize("rule", [kinds.Opaque(), kinds.Shape()], ids=str)
def test_rules_without_a_cone(rule):
    box = np.array([[0, 0, 1, 1]])
    with pytest.raises(TypeError, match=type(rule).__name__):
        forward_boxes(rule, [box], [(4, 4)], (4, 4))
    with pytest.raises(TypeError, match=type(rule).__name__):
        backward_boxes(rule, box, (4, 4), (4, 4))


STILL = [
    kinds.Affine(torch.ones(1), torch.ones(1)),
    kinds.Pointwise("relu", torch.relu),
    kinds.Pixelwise("flip", lambda x: x.flip(1)),
    kinds.Lrn(5, 1e-4, 0.75, 1.0),
    kinds.Identity(),
]


@pytest.mark.parametrize("rule", STILL, ids=lambda rule: type(rule).__name__)
def test_rules_that_leave_boxes_where_they_are(rule):
    boxes = np.array([[1, 2, 3, 4], [-1, 0, 5, 99], [2, 2, 2, 3]])
    expected = [[1, 2, 3, 4], [0, 0, 5, 6], [0, 0, 0, 0]]
    assert forward_boxes(rule, [boxes], [(5, 6)], (5, 6)).tolist() == expected
    assert backward_boxes(rule, boxes, (5, 6), (5, 6)).tolist() == expected


@pytest.mark.parametrize(
    "rule", [kinds.Concat(), kinds.Binary("add", torch.add)], ids=["concat", "binary"]
)
def test_rules_of_two_maps(rule):
    a, b = np.array([[1, 2, 3, 4], [0, 0, 0, 0]]), np.array([[3, 0, 5, 3], [1, 1, 2, 2]])
    joined = [[1, 0, 5, 4], [1, 1, 2, 2]]
    assert forward_boxes(rule, [a, b], [(6, 6)] * 2, (6, 6)).tolist() == joined
    assert backward_boxes(rule, a, (6, 6), (6, 6)).tolist() == a.tolist()


# --- one rule, exactly ----------------------------------------------------------------------------


def windows(max_padding):
    """(kernel, stride, padding, dilation) of an axis."""
    return st.tuples(
        st.integers(1, 5), st.integers(1, 6), st.integers(0, 5), st.integers(1, 4)
    ).map(lambda w: (w[0], w[1], min(w[2], max_padding(w[0])), w[3]))


@st.composite
def cases(draw, max_padding=lambda kernel: 99, ceil_modes=(False,), max_dilation=4):
    """A window on both axes, sizes before and after, a box on each side."""
    axes = [draw(windows(max_padding)) for _ in "hw"]
    axes = [(k, s, p, min(d, max_dilation)) for k, s, p, d in axes]
    ceil_mode = draw(st.sampled_from(ceil_modes))
    # At least one window fits.
    size = [max(1, d * (k - 1) + 1 - 2 * p) + draw(st.integers(0, 12)) for k, _, p, d in axes]
    out = [pooled_size(n, *axis, ceil_mode) for n, axis in zip(size, axes, strict=True)]
    kernel, stride, padding, dilation = zip(*axes, strict=True)
    boxes = draw(boxes_on(size)), draw(boxes_on(out))
    return (kernel, stride, padding, dilation, ceil_mode), size, out, *boxes


def check_exact(rule, call, size, out, below, above):
    """Against a ``call`` in which every tap of every window counts."""
    x = torch.zeros(1, 1, *size, dtype=torch.float64)
    x[..., below[0] : below[2], below[1] : below[3]] = 1.0
    changed = call(x) != call(torch.zeros_like(x))
    predicted = forward_boxes(rule, [np.array([below])], [size], out)
    assert list(changed.shape[2:]) == list(out)
    assert predicted.dtype == np.int64
    assert predicted[0].tolist() == bounding_box(changed[0, 0])

    x = torch.zeros_like(x).requires_grad_()
    y = call(x)[0, 0, above[0] : above[2], above[1] : above[3]]
    needed = torch.autograd.grad(y.sum(), x)[0] != 0 if y.numel() else torch.zeros_like(x) > 0
    predicted = backward_boxes(rule, np.array([above]), size, out)
    assert predicted[0].tolist() == bounding_box(needed[0, 0])


@given(cases())
def test_convolution(case):
    (kernel, stride, padding, dilation, _), *rest = case
    weight = torch.ones(1, 1, *kernel, dtype=torch.float64)
    rule = kinds.Conv(weight, None, stride, padding, dilation, 1)
    check_exact(rule, lambda x: F.conv2d(x, weight, None, stride, padding, dilation), *rest)


@given(cases(lambda kernel: kernel // 2, (False, True), max_dilation=1), st.booleans())
def test_average_pooling(case, include_pad):
    (kernel, stride, padding, _, ceil_mode), *rest = case
    window = (kernel, stride, padding, ceil_mode, include_pad)
    check_exact(kinds.AvgPool(*window, None), lambda x: F.avg_pool2d(x, *window), *rest)


@given(cases(lambda kernel: kernel // 2, (False, True)))
def test_max_pooling(case):
    (kernel, stride, padding, dilation, ceil_mode), *rest = case

    def reaches(x):
        """The sum over each window: unlike a maximum, it depends on every tap."""
        size, pads = x.shape[2:], []
        for n, o, k, s, p, d in zip(size, rest[1], kernel, stride, padding, dilation, strict=True):
            pads.append((p, max(0, (o - 1) * s - p + d * (k - 1) + 1 - n)))
        padded = F.pad(x, (*pads[1], *pads[0]))
        taps = F.unfold(padded, kernel, dilation, 0, stride)
        rows = pooled_size(padded.shape[2], kernel[0], stride[0], 0, dilation[0], False)
        sums = taps.sum(1).unflatten(1, (rows, -1))
        return sums[:, None, : rest[1][0], : rest[1][1]]

    check_exact(kinds.MaxPool(kernel, stride, padding, dilation, ceil_mode), reaches, *rest)


def test_many_boxes_at_once():
    boxes = np.array(
        [(y, x, y + h, x + 2) for y, x, h in itertools.product(range(9), range(9), (0, 1, 3))]
    )
    rule = kinds.MaxPool((3, 2), (2, 3), (1, 0), (1, 2), True)
    together = forward_boxes(rule, [boxes], [(9, 9)], (5, 4))
    back = backward_boxes(rule, together, (9, 9), (5, 4))
    for i, box in enumerate(boxes):
        assert (forward_boxes(rule, [box[None]], [(9, 9)], (5, 4))[0] == together[i]).all()
        assert (backward_boxes(rule, together[i : i + 1], (9, 9), (5, 4))[0] == back[i]).all()


# --- whole graphs ---------------------------------------------------------------------------------


class RandomNet(nn.Module):
    """A DAG of layers, each on maps drawn from those there are; weights and biases positive, so
    that nothing that changes cancels and no ReLU hides it."""

    def __init__(self, draw) -> None:
        super().__init__()
        self.plan: list[tuple] = []
        channels, sizes = [2], [(draw(st.integers(6, 20)), draw(st.integers(6, 20)))]
        for i in range(draw(st.integers(1, 7))):
            source = draw(st.integers(max(0, len(sizes) - 3), len(sizes) - 1))
            kind = draw(st.sampled_from(["conv", "max", "avg", "point", "norm", "add", "cat"]))
            c, size = channels[source], sizes[source]
            others = [j for j, other in enumerate(sizes) if other == size]
            other = draw(st.sampled_from(others))
            if kind == "add" and channels[other] != c:
                kind = "cat"
            if kind in ("conv", "max", "avg"):
                layer = self._windowed(draw, kind, c)
                try:
                    size = tuple(layer(torch.zeros(1, c, *size)).shape[2:])
                except RuntimeError:  # no window fits
                    continue
                c = 3 if kind == "conv" else c
            elif kind == "point":
                layer = draw(st.sampled_from([nn.ReLU(inplace=True), nn.Sigmoid(), nn.Softplus()]))
            elif kind == "norm":
                layer = nn.BatchNorm2d(c)
                nn.init.uniform_(layer.running_var, 0.5, 2.0)
            else:
                layer = nn.Identity()
                c = c if kind == "add" else c + channels[other]
            self.add_module(f"layer{i}", layer)
            self.plan.append((kind, f"layer{i}", source, other))
            channels.append(c)
            sizes.append(size)
        self.size = sizes[0]
        self.double()
        for weight in self.parameters():
            nn.init.uniform_(weight, 0.2, 1.0)

    @staticmethod
    def _windowed(draw, kind: str, channels: int) -> nn.Module:
        def pair(low, high):
            return tuple(draw(st.integers(low, high)) for _ in "hw")

        kernel, stride, dilation = pair(1, 4), pair(1, 3), pair(1, 2)
        padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
        if kind == "conv":
            return nn.Conv2d(channels, 3, kernel, stride, padding, dilation)
        ceil_mode = draw(st.booleans())
        if kind == "avg":
            return nn.AvgPool2d(kernel, stride, padding, ceil_mode, draw(st.booleans()))
        return nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil_mode)

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for kind, name, source, other in self.plan:
            layer = getattr(self, name)
            a, b = values[source], values[other]
            if kind == "add":
                values.append(layer(a + b))
            elif kind == "cat":
                values.append(layer(torch.cat([a, b], 1)))
            elif isinstance(layer, nn.ReLU):
                values.append(layer(a * 1))  # works in place, but not on what others look at
            else:
                values.append(layer(a))
        return values[-1]


nets = st.composite(RandomNet)


@given(nets(), st.data())
@settings(max_examples=40)
def test_what_changes(net, data):
    """Every map of a random network, on two inputs that differ in one rectangle."""
    net.eval()
    x = torch.rand(1, 2, *net.size, dtype=torch.float64)
    graph = trace(net, x)
    box = data.draw(boxes_on(net.size))
    changed = x.clone()
    # Much larger, so that every maximum that can see the box does.
    changed[..., box[0] : box[2], box[1] : box[3]] += 100.0
    before, after = values_of(graph, x), values_of(graph, changed)
    predicted = propagate_boxes(graph, np.array([box]))
    for node, boxes, old, new in zip(graph.nodes, predicted, before, after, strict=True):
        real = bounding_box((old != new)[0].any(0))
        assert boxes is not None and contains(boxes[0], real), node.name
        above = [n.rule for n in graph.nodes[: node.index + 1]]
        saturating = any(isinstance(rule, kinds.Pointwise) for rule in above)
        # A dilated window leaves gaps in what changes, which a stride may pick; a box has none.
        gaps = any(max(getattr(rule, "dilation", (1,))) > 1 for rule in above)
        if not (saturating or gaps):  # a changed sigmoid may round to the same number
            assert boxes[0].tolist() == real, node.name


@given(nets(), st.data())
@settings(max_examples=40)
def test_what_is_needed(net, data):
    """The gradient of one rectangle of a random network's output."""
    net.eval()
    x = torch.rand(1, 2, *net.size, dtype=torch.float64)
    graph = trace(net, x)
    output = graph.nodes[graph.output]
    box = data.draw(boxes_on(output.shape[1:]))
    found = descend_boxes(graph, output, np.array([box]))
    x.requires_grad_()
    y = net(x)[..., box[0] : box[2], box[1] : box[3]]
    if 0 in found and y.numel():
        (gradient,) = torch.autograd.grad(y.sum(), x, allow_unused=True)
        real = [0] * 4 if gradient is None else bounding_box((gradient != 0)[0].any(0))
        assert contains(found[0][0], real)
        routes = (kinds.MaxPool, kinds.Pointwise)  # a maximum takes one tap, a sigmoid may be flat
        if not any(isinstance(node.rule, routes) for node in graph.nodes):
            assert found[0][0].tolist() == real


def test_a_barrier_ends_both_cones():
    """Two branches that meet, then a barrier, then maps again."""

    def forward(m, x):
        return m.after(torch.cat([m.narrow(x), m.wide(x)], 1).cumsum(2))

    layers = {"narrow": nn.Conv2d(1, 2, 1), "wide": nn.Conv2d(1, 2, 5, padding=2)}
    net = Model(forward, **layers, after=nn.Conv2d(4, 1, 3, padding=1)).eval()
    graph = trace(net, torch.rand(1, 1, 9, 9))
    box = np.array([[4, 4, 5, 5]])
    by_name = {
        node.name: boxes
        for node, boxes in zip(graph.nodes, propagate_boxes(graph, box), strict=True)
    }
    assert by_name["narrow"].tolist() == [[4, 4, 5, 5]]
    assert by_name["wide"].tolist() == by_name["cat"].tolist() == [[2, 2, 7, 7]]
    assert by_name["cumsum"] is None and by_name["after"] is None

    found = descend_boxes(graph, graph.layer("after"), box)
    names = {graph.nodes[index].name: boxes for index, boxes in found.items()}
    assert names["after"].tolist() == [[4, 4, 5, 5]]
    assert names["cumsum"].tolist() == [[3, 3, 6, 6]]
    assert [names[name] for name in ("cat", "narrow", "wide", "x")] == [None] * 4

    found = descend_boxes(graph, graph.layer("wide"), box)
    assert {graph.nodes[index].name for index in found} == {"wide", "x"}
    joined = descend_boxes(graph, next(n for n in graph.nodes if n.name == "cat"), box)
    assert joined[0].tolist() == [[2, 2, 7, 7]], "what both branches need"
