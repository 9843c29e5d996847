"""zfcuda.models.onnx, operator by operator, against onnxruntime."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from onnx_files import array, check, model, node, nodes, saved
from torch import nn

from zfcuda.graph import trace
from zfcuda.graph.rules import Affine, AvgPool, Binary, Conv, GlobalPool, Lrn, MaxPool, Pointwise
from zfcuda.models.onnx import load

MAX = 3.4028234663852886e38


def one(kind: str, *inputs: str, **attributes) -> list:
    return [node(kind, ["x", *inputs], ["y"], **attributes)]


def only(network: nn.Module) -> nn.Module:
    """The one layer of a network."""
    (layer,) = network.children()
    return layer


# --- windows --------------------------------------------------------------------------------------


@st.composite
def windows(draw: st.DrawFn) -> tuple[str, int, dict, tuple[int, int]]:
    kind = draw(st.sampled_from(["Conv", "MaxPool", "AveragePool"]))
    opset = draw(st.sampled_from([7, 9, 11, 13, 17, 19, 22]))

    def pair(least: int, most: int) -> list[int]:
        return [draw(st.integers(least, most)), draw(st.integers(least, most))]

    kernel = pair(1, 4)
    settings = {"kernel_shape": kernel, "strides": pair(1, 3)}
    how = draw(st.sampled_from(["pads", "alike", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if how == "pads":
        settings["pads"] = pair(0, 2) + pair(0, 2)
    elif how == "alike":
        settings["pads"] = [draw(st.integers(0, kernel[0] // 2)), 0] * 2
    else:
        settings["auto_pad"] = how
        # Where windows leave gaps onnxruntime pads less than nothing.
        settings["strides"] = [*map(min, settings["strides"], kernel)]
    if kind == "Conv" or (kind == "MaxPool" and opset >= 10):
        # With SAME_*, onnxruntime does not know dilated convolutions, and pools as if not dilated.
        choices = [[1, 1]] if how.startswith("SAME") else [[1, 1], [2, 1], [2, 2]]
        settings["dilations"] = draw(st.sampled_from(choices))
    if kind != "Conv" and opset >= 10:
        settings["ceil_mode"] = draw(st.integers(0, 1))
    if kind == "AveragePool":
        settings["count_include_pad"] = draw(st.integers(0, 1))
    return kind, opset, settings, tuple(pair(4, 12))


@given(windows())
def test_windows_of_any_shape_and_padding(case):
    kind, opset, settings, size = case
    weights = {"w": array(6, 2, *settings["kernel_shape"]), "b": array(6)} if kind == "Conv" else {}
    groups = {"group": 2} if weights else {}
    made = model(one(kind, *weights, **settings, **groups), weights, (1, 4, *size), opset)
    with tempfile.TemporaryDirectory() as folder:
        try:
            check(Path(folder), made)
        except Exception as error:
            assume("no window of" not in str(error))  # ... fits on the map
            assume("ONNXRuntimeError" not in str(error))  # what onnxruntime does not do
            raise


@pytest.mark.parametrize(
    ("settings", "size", "rule"),
    [
        ({"pads": [0, 0, 1, 1]}, (9, 8), "ceil"),
        ({"pads": [0, 0, 1, 1], "ceil_mode": 0}, (56, 55), "ceil"),
        ({"pads": [1, 1, 1, 1]}, (9, 8), "floor"),
        ({"pads": [1, 1, 0, 0]}, (9, 10), None),
        ({"auto_pad": "SAME_UPPER"}, (12, 8), "ceil"),
    ],
)
def test_pools_of_caffe_become_torchs(tmp_path, settings, size, rule):
    pool = {"kernel_shape": [3, 3], "strides": [2, 2], **settings}
    network = check(tmp_path, model(one("MaxPool", **pool), shape=(1, 4, *size)))
    if rule is None:
        assert isinstance(only(network), nn.Sequential)  # padded first; no cone goes through
    else:
        assert type(only(network)) is nn.MaxPool2d
        assert only(network).ceil_mode == (rule == "ceil")


@pytest.mark.parametrize("pads", [[0, 0, 1, 1], [2, 1, 0, 3]])
@pytest.mark.parametrize("dilation", [1, 2])
def test_convolutions_with_sides_padded_differently_have_cones(tmp_path, pads, dilation):
    weights = {"w": array(6, 4, 3, 3)}
    settings = {"pads": [p * dilation for p in pads], "dilations": [dilation] * 2}
    made = model(one("Conv", "w", strides=[2, 1], **settings), weights)
    network = check(tmp_path, made)
    assert only(network).weight.shape == (6, 4, 3, 3)  # as in the file
    graph = trace(network, torch.randn(2, 4, 9, 8))
    assert isinstance(graph.nodes[graph.output].rule, Conv)


@pytest.mark.parametrize(("pads", "size"), [([1, 1, 2, 2], (11, 10)), ([1, 2, 0, 1], (9, 10))])
def test_padding_that_no_window_reaches_is_left_out(tmp_path, pads, size):
    weights = {"w": array(6, 4, 3, 3)}
    made = model(one("Conv", "w", strides=[3, 3], pads=pads), weights, (1, 4, *size))
    network = check(tmp_path, made)
    assert type(only(network)) is nn.Conv2d and only(network).padding == tuple(pads[:2])


def test_a_pad_that_only_convolutions_take_is_theirs(tmp_path):
    """As Keras writes its networks."""
    made = nodes("""
        [pad] p = Pad(x, pads)
        [a] a = Conv(p, w)
        [b] b = Conv<pads = [0, 1, 1, 0], strides = [2, 2]>(p, w)
        [pad_of_pool] q = Pad(a, pads)
        [c] c = MaxPool<kernel_shape = [3, 3], strides = [2, 2]>(q)
        [d] d = Conv(c, v)
        [e] y = Add(d, s)
    """)
    weights = {"w": array(6, 4, 3, 3), "v": array(6, 6, 1, 1), "s": array(6, 1, 1)}
    network = check(tmp_path, model(made, weights | {"pads": [0, 0, 1, 2, 0, 0, 2, 1]}))
    assert "pad" not in dict(network.named_modules())
    assert isinstance(network.pad_of_pool, nn.ZeroPad2d)  # zeros, which a pool's padding is not


# --- one operator each ----------------------------------------------------------------------------

BATCH_NORM = {n: np.abs(array(4)) + 0.5 for n in ("scale", "shift", "mean", "variance")}
WEIGHTS = {
    "slope": array(4, 1, 1),
    "one": array(1),
    "c": array(4, 1, 1),
    "s": np.float32(1.7),
    "axes": [2, 3],
    "pads": [0, 0, 1, 2, 0, 0, 2, 1],
    "half": np.float32(0.5),
    "sizes": [1, 3],
    "first": [0],
    "end": [2**63 - 1],
    "map": [1],
    "two": [2, 0],
    "last": np.array(-1),
}
PAD = "pads = [0, 0, 1, 2, 0, 0, 2, 1], value = 0.5"
KINDS = ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "Selu", "Softplus", "Softsign",
         "HardSigmoid", "Exp", "Abs", "Neg", "Erf", "Identity", "GlobalAveragePool",
         "GlobalMaxPool", "Flatten")  # fmt: skip

OPERATORS = [
    *((13, f"y = {kind}(x)") for kind in KINDS),
    (13, "y = LeakyRelu<alpha = 0.2>(x)"),
    (13, "y = Elu<alpha = 0.7>(x)"),
    (13, "y = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x)"),
    (13, "y = PRelu(x, slope)"),
    (13, "y = PRelu(x, one)"),
    (13, "y = Add(x, c)"),
    (13, "y = Add(x, x)"),
    (13, "y = Mul(x, s)"),
    (13, "y = Sub(c, x)"),
    (13, "y = Div(s, x)"),
    (13, "y = Max(x, x, c)"),
    (13, "y = Sum(x, x, x)"),
    (13, "y = Min(x, s)"),
    (13, "a = Abs(x) y = Pow(a, s)"),
    (13, "y = Concat<axis = 1>(x, x, x)"),
    (13, "y = Concat<axis = -1>(x, x)"),
    (13, "y = Flatten<axis = -3>(x)"),
    (13, "y = LRN<size = 3>(x)"),
    (13, "y = LRN<size = 5, alpha = 2.0, beta = 0.5, bias = 2.0>(x)"),
    (13, "y = Transpose<perm = [0, 3, 1, 2]>(x)"),
    (13, "y = ReduceMean<axes = [2, 3]>(x)"),
    (13, "y = ReduceMean<axes = [-1], keepdims = 0>(x)"),
    (13, "y = Cast<to = 1>(x)"),
    (13, "a = Split<axis = 1>(x) y = Neg(a)"),  # into one part
    (
        13,
        """
        a, b = Split<axis = 1>(x, sizes)
        c = Slice(a, first, end, map)
        d = Gather<axis = 1>(b, two)
        e = Gather<axis = 1>(b, last)
        f = Unsqueeze(e, map)
        y = Concat<axis = 1>(c, d, f)
        """,
    ),
    (14, "y = HardSwish(x)"),
    (18, "y = Mish(x)"),
    (20, "y = Gelu(x)"),
    (20, 'y = Gelu<approximate = "tanh">(x)'),
    (18, "y = ReduceMean(x, axes)"),
    (22, "y = HardSwish(x)"),
    *((9, f'y = Pad<{PAD}, mode = "{mode}">(x)') for mode in ("constant", "reflect", "edge")),
    *((13, f'y = Pad<mode = "{m}">(x, pads, half)') for m in ("constant", "reflect", "edge")),
    *(  # over all later axes before opset 13
        (opset, f"y = {kind}{axis}(x)")
        for opset in (9, 11, 13)
        for kind in ("Softmax", "LogSoftmax")
        for axis in ("", "<axis = 1>", "<axis = -1>")
    ),
]


@pytest.mark.parametrize(("opset", "text"), OPERATORS)
def test_operators(tmp_path, opset, text):
    made = nodes(text)
    taken = {name for n in made for name in n.input} - {name for n in made for name in n.output}
    weights = {name: value for name, value in WEIGHTS.items() if name in taken}
    check(tmp_path, model(made, weights, opset=opset))


LINEAR = {"w": array(32, 10), "wt": array(10, 32), "b": array(10), "b1": array(1, 10)}
COMPUTED = {"zero": np.array(0), "axes": [0], "rest": [-1]}


@pytest.mark.parametrize(
    ("text", "weights", "kind"),
    [
        # x.view(x.size(0), -1) as torch exports it for any number of images.
        (
            """
            shape = Shape(x)
            n = Gather<axis = 0>(shape, zero)
            n1 = Unsqueeze(n, axes)
            target = Concat<axis = 0>(n1, rest)
            y = Reshape(x, target)
            """,
            COMPUTED,
            nn.Flatten,
        ),
        # TensorFlow's convolutions hold their filters the other way round.
        (
            """
            v = Transpose<perm = [3, 2, 0, 1]>(w)
            half = Constant<value_float = 0.5>()
            u = Mul(v, half)
            y = Conv<pads = [1, 1, 1, 1]>(x, u)
            """,
            {"w": array(3, 3, 2, 5)},
            nn.Conv2d,
        ),
        # As Keras writes a dense layer.
        (
            "f = Reshape(x, shape) y = MatMul(f, w) z = Add(y, b)",
            {"w": LINEAR["w"], "b": LINEAR["b"], "shape": [-1, 32]},
            nn.Linear,
        ),
    ],
)
def test_shapes_and_weights_that_are_computed(tmp_path, text, weights, kind):
    made = nodes(text)
    network = check(tmp_path, model(made, weights, ("n", 2, 4, 4), output=made[-1].output[0]))
    assert type(network.y) is kind


@pytest.mark.parametrize("opset", [7, 9, 11, 13])
@pytest.mark.parametrize(
    "gemm",
    [
        "Gemm(f, w)",
        "Gemm<transB = 1>(f, wt)",
        "Gemm<alpha = 0.5, beta = 2.0>(f, w, b)",
        "Gemm<transB = 1>(f, wt, b1)",
        "Gemm(f, w, s)",
    ],
)
def test_gemm(tmp_path, opset, gemm):
    made = nodes(f"f = Flatten(x) y = {gemm}")
    _, *inputs = made[1].input
    weights = {name: (LINEAR | {"s": array(1)})[name] for name in inputs}
    if opset < 11 and len(inputs) == 1:
        pytest.skip("the bias may be left out from opset 11 on")
    network = check(tmp_path, model(made, weights, (1, 2, 4, 4), opset))
    assert type(network.y) is nn.Linear


@pytest.mark.parametrize("opset", [7, 9, 13, 14, 15])
def test_batch_norm(tmp_path, opset):
    made = model(one("BatchNormalization", *BATCH_NORM, epsilon=1e-3), BATCH_NORM, opset=opset)
    network = check(tmp_path, made)
    assert type(only(network)) is nn.BatchNorm2d


@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [
        (0.0, 6.0, nn.ReLU6),
        (0.0, None, nn.ReLU),
        (0.0, MAX, nn.ReLU),
        (-0.5, 0.5, None),
        (None, 0.3, None),
        (None, None, None),
    ],
)
@pytest.mark.parametrize("opset", [7, 11, 13])
def test_clip_has_its_ends_as_attributes_and_later_as_inputs(tmp_path, opset, low, high, kind):
    ends = {name: end for name, end in (("min", low), ("max", high)) if end is not None}
    if opset < 11:
        made = model(one("Clip", **ends), opset=opset)
    else:
        inputs = ["min" if low is not None else "", "max" if high is not None else ""]
        weights = {name: np.array(end, np.float32) for name, end in ends.items()}
        made = model(one("Clip", *inputs), weights, opset=opset)
    network = check(tmp_path, made)
    assert kind is None or type(only(network)) is kind


@pytest.mark.parametrize("opset", [7, 10, 12, 13, 22])
def test_dropout_has_its_ratio_as_attribute_and_later_as_input(tmp_path, opset):
    """And a mask, which nobody takes."""
    weights = {"ratio": np.array(0.25, np.float32)} if opset >= 12 else {}
    dropout = "Dropout(a, ratio)" if weights else "Dropout<ratio = 0.25>(a)"
    made = nodes(f"a = Relu(x) d, mask = {dropout} y = Neg(d)")
    network = check(tmp_path, model(made, weights, opset=opset))
    assert network.get_submodule("d").p == 0.25


@pytest.mark.parametrize(
    "shape", [[1, 32], [1, -1], [-1, 32], [0, -1], [0, 2, -1], [1, 4, 2, 4], [0, 0, 16], [-1, 4, 8]]
)
@pytest.mark.parametrize("images", [1, "n"])
def test_reshape_keeps_images_apart(tmp_path, shape, images):
    if images == "n" and shape[0] == 1:
        pytest.skip("such a file takes one image only, whatever it says")
    check(tmp_path, model(one("Reshape", "shape"), {"shape": shape}, (images, 2, 4, 4)))


def test_squeeze_without_axes_leaves_the_images_their_axis(tmp_path):
    """Even if the file was made for one image, and would lose it."""
    network = load(saved(tmp_path, model(nodes("g = GlobalAveragePool(x) y = Squeeze(g)"))))
    x = torch.randn(3, 4, 9, 8)
    torch.testing.assert_close(network(x), x.mean((2, 3)))


def test_one_branch_is_taken_where_it_does_not_depend_on_the_images(tmp_path):
    made = nodes("""
        a = Relu(x)
        shape = Shape(a)
        channels = Gather(shape, one)
        alike = Equal(channels, four)
        b = If<
            then_branch = then () => (float t) { t = Neg(a) },
            else_branch = otherwise () => (float e) { e = Exp(a) }
        >(alike)
        c = Relu(b)
        y = Sub(a, b)
    """)
    network = check(tmp_path, model(made, {"one": np.array(1), "four": np.array(4)}))
    assert [name for name, _ in network.named_children()] == ["a", "t", "y"]


def test_a_channel_shuffle_is_seen_as_one(tmp_path):
    made = nodes("""
        a = Reshape(x, apart)
        b = Transpose<perm = [0, 2, 1, 3, 4]>(a)
        c = Reshape(b, together)
        y = Relu(c)
    """)
    weights = {"apart": [1, 2, 2, 9, 8], "together": [1, 4, 9, 8]}
    network = check(tmp_path, model(made, weights))
    graph = trace(network, torch.randn(2, 4, 9, 8))
    assert [type(node.rule).__name__ for node in graph.nodes[-2:]] == ["Pixelwise", "Pointwise"]


@pytest.mark.parametrize(
    ("nodes", "weights", "rule"),
    [
        (one("LRN", size=3), {}, Lrn),
        (one("MaxPool", kernel_shape=[2, 2]), {}, MaxPool),
        (one("AveragePool", kernel_shape=[2, 2]), {}, AvgPool),
        (one("GlobalAveragePool"), {}, GlobalPool),
        (one("BatchNormalization", *BATCH_NORM), BATCH_NORM, Affine),
        (one("Clip", "low", "high"), {"low": np.float32(0), "high": np.float32(6)}, Pointwise),
        (one("Add", "x"), {}, Binary),
        (one("Mul", "c"), {"c": array(4, 1, 1)}, Affine),
        (one("LeakyRelu"), {}, Pointwise),
        (one("HardSigmoid"), {}, Affine),
    ],
    ids=lambda value: value[0].op_type if isinstance(value, list) else "",
)
def test_cones_know_the_layers(tmp_path, nodes, weights, rule):
    network = load(saved(tmp_path, model(nodes, weights)), logits=False)
    graph = trace(network, torch.randn(2, 4, 9, 8))
    assert any(isinstance(node.rule, rule) for node in graph.nodes)
    assert all(type(node.rule).__name__ not in ("Opaque", "Shape") for node in graph.nodes)
