"""zfcuda.models.onnx on whole networks: the zoo's kind of ZF network, and what torch exports."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_files import answers, array, check, model, node, nodes, onnx, saved, zf
from torch import Tensor, nn

import zfcuda
from zfcuda.graph import trace
from zfcuda.graph.rules import Opaque
from zfcuda.models.onnx import load


@pytest.fixture
def zf_network(tmp_path) -> nn.Module:
    with pytest.warns(UserWarning, match=r"final Softmax \('gpu_0/softmax'\) is left out"):
        return load(saved(tmp_path, zf())).double()


# --- the zoo's kind -------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [7, 8, 9, 11, 12, 13, 17])
def test_a_zf_network_as_caffe2_exported_it(tmp_path, opset):
    check(tmp_path, zf(opset))


def test_its_layers_bear_the_names_of_its_values(zf_network):
    names = [name for name, _ in zf_network.named_children()]
    assert names[:5] == ["conv1", "conv1_relu", "norm1", "pool1", "conv2"]
    assert names[-5:] == ["flat", "fc6", "fc6_relu", "drop6", "fc8"]
    assert zf_network.conv1.weight.shape == (6, 3, 7, 7)
    assert (zf_network.image_shape, zf_network.left_out) == ((3, 64, 64), "gpu_0/softmax")


def test_without_its_softmax_it_answers_logits(tmp_path, zf_network):
    x = torch.randn(3, 3, 64, 64)
    probabilities = load(saved(tmp_path, zf()), logits=False).double()(x.double())
    torch.testing.assert_close(zf_network(x.double()).softmax(1), probabilities)


def test_occlusion_inside_cones(zf_network):
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dense = zfcuda.occlusion(zf_network, x, size=12, stride=9, method="dense").logits
        cone = zfcuda.occlusion(zf_network, x, size=12, stride=9, method="cone")
    assert cone.method == "cone"
    assert (cone.logits - dense).norm() / dense.norm() < 1e-9


def test_the_plan_knows_its_layers(zf_network):
    plan = zfcuda.plan(zf_network, torch.randn(1, 3, 64, 64).double(), size=8, stride=4)
    kinds = {step.name: step.kind for step in plan.steps}
    assert {kinds[f"conv{i}"] for i in (1, 2, 3, 4, 5)} == {"conv"}
    assert {kinds[name] for name in ("norm1", "norm2")} == {"lrn"}
    assert {kinds[name] for name in ("pool1", "pool2")} == {"maxpool"}


@pytest.mark.parametrize("layer", ["conv2", "norm1", "pool2"])
def test_projections(zf_network, layer):
    """Inside the cone and by autograd on the whole network; norms are passed by, as the paper's."""
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    cones = zfcuda.project(zf_network, x, layer)
    opaque = copy.deepcopy(zf_network)
    opaque.fc8.register_forward_hook(lambda *_: None)  # hooks: no graph, no cones
    whole = zfcuda.project(opaque, x, layer)
    sides = [(p.boxes[:, 2:] - p.boxes[:, :2]).prod(1) for p in (cones, whole)]
    assert (sides[0] < 64 * 64).all() and (sides[1] == 64 * 64).all()
    assert cones.full().abs().max() > 0
    torch.testing.assert_close(cones.full(), whole.full())


def test_the_network_can_be_trained_copied_and_saved(tmp_path, zf_network):
    twin = copy.deepcopy(zf_network)
    twin.load_state_dict(zf_network.state_dict())
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    twin.train()(x).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in twin.parameters())
    torch.testing.assert_close(twin.eval()(x), zf_network(x))


def test_images_of_another_shape_are_named(zf_network):
    with pytest.raises(ValueError, match=r"takes images \[N, 3, 64, 64\], got \[1, 3, 60, 64\]"):
        zf_network(torch.zeros(1, 3, 60, 64))


def test_an_open_size_is_the_callers(tmp_path):
    made = model([node("GlobalAveragePool", ["x"], ["y"])], shape=("n", 3, "h", "w"))
    assert load(saved(tmp_path, made)).image_shape == (3, 224, 224)
    network = load(saved(tmp_path, made), size=(20, 30))
    assert network(torch.zeros(2, 3, 20, 30)).shape == (2, 3)


@pytest.mark.parametrize("shape", [("n", 9, 8, 3), (1, "h", "w", 3), (1, 9, 8, 4)])
def test_a_transpose_of_the_image_is_left_out(tmp_path, shape):
    """As TensorFlow's networks are exported: the file takes [N,H,W,C], the network [N,C,H,W]."""
    made = nodes("""
        [first] t = Transpose<perm = [0, 3, 1, 2]>(x)
        [conv] c = Conv<pads = [1, 1, 1, 1]>(t, w)
        r = Relu(c)
        y = GlobalAveragePool(r)
    """)
    path = saved(tmp_path, model(made, {"w": array(5, shape[3], 3, 3)}, shape=shape))
    network = load(path, size=(9, 8), logits=False)
    assert network.image_shape == (shape[3], 9, 8) and not hasattr(network, "first")
    x = torch.randn(2, shape[3], 9, 8)
    torch.testing.assert_close(network(x), answers(path, x.permute(0, 2, 3, 1)))
    assert zfcuda.plan(network, x[:1], size=2, stride=2, layers=["conv"])


def test_an_image_with_channels_last_that_is_transposed_later(tmp_path):
    made = nodes("d = Sub(x, mean) t = Transpose<perm = [0, 3, 1, 2]>(d) y = Conv(t, w)")
    weights = {"mean": array(3), "w": array(5, 3, 3, 3)}
    path = saved(tmp_path, model(made, weights, shape=(1, 9, 8, 3)))
    network = load(path, logits=False)
    assert network.image_shape == (3, 9, 8)
    x = torch.randn(2, 3, 9, 8)
    torch.testing.assert_close(network(x), answers(path, x.permute(0, 2, 3, 1)))


def test_a_softmax_that_is_not_the_last_layer_stays(tmp_path):
    network = load(saved(tmp_path, model(nodes("s = Softmax<axis = 1>(x) y = Mul(s, x)"))))
    assert network.left_out == "" and isinstance(network.s, nn.Softmax)


@pytest.mark.parametrize(("count", "outputs"), [(1, "probability"), (4, "probabilities")])
def test_a_sigmoid_stays_and_is_known_for_one(tmp_path, count, outputs):
    made = nodes(
        "g = GlobalAveragePool(x) f = Flatten(g) z = Gemm<transB = 1>(f, w) y = Sigmoid(z)"
    )
    network = load(saved(tmp_path, model(made, {"w": array(count, 4)})))
    said = zfcuda.predict(network, torch.randn(1, 4, 9, 8))
    assert said.outputs == outputs and torch.equal(said.probabilities, said.logits)


def test_a_softmax_before_a_change_of_shape_is_the_last_layer(tmp_path):
    """As in the zoo's SqueezeNet."""
    made = nodes("g = GlobalAveragePool(x) s = Softmax<axis = 1>(g) y = Reshape(s, shape)")
    path = saved(tmp_path, model(made, {"shape": [1, 4]}))
    with pytest.warns(UserWarning, match=r"Softmax \('s'\)"):
        network = load(path)
    x = torch.randn(3, 4, 9, 8)
    torch.testing.assert_close(network(x), x.mean((2, 3)))


def test_two_loads_leave_the_random_state_alone(tmp_path):
    path = saved(tmp_path, zf())
    before = torch.get_rng_state()
    load(path, logits=False)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions(tmp_path, dtype):
    kind = {torch.float64: 11, torch.float16: 10, torch.bfloat16: 16}[dtype]
    weight = torch.randn(5, 4, 3, 3, dtype=dtype)
    bits = weight.view(torch.uint8).numpy().tobytes()
    stored = onnx.helper.make_tensor("w", kind, weight.shape, bits, raw=True)
    made = model([node("Conv", ["x", "w"], ["y"])], dtype=kind, opset=22)
    made.graph.initializer.append(stored)
    network = load(saved(tmp_path, made))
    assert torch.equal(network.y.weight, weight)
    assert network(torch.randn(2, 4, 9, 8, dtype=dtype)).dtype == dtype


# --- names ----------------------------------------------------------------------------------------


def named(*names: str) -> onnx.ModelProto:
    values = ["x", *(f"v{i}" for i in range(len(names) - 1)), "y"]
    made = [node("Relu", [values[i]], [values[i + 1]], name=name) for i, name in enumerate(names)]
    return model(made)


@pytest.mark.parametrize(
    ("names", "layers"),
    [
        (["a", "b"], ["a", "b"]),
        (["Relu_0", "Relu_1"], ["Relu_0", "Relu_1"]),
        (["/features/features.0/Relu", "/relu/Relu"], ["features.0", "relu"]),
        (
            ["/layer1/layer1.0/relu/Relu", "/layer1/layer1.0/Relu"],
            ["layer1.0.relu", "layer1.0.relu_2"],
        ),
        (["net/one/Relu", "net/two/Relu"], ["one.Relu", "two.Relu"]),
        (["/net/one/Relu", "/net/two/Relu"], ["net.one", "net.two"]),
        (["a", "a/b"], ["a.relu", "a.b"]),
        (["a", "a"], ["a.relu", "a.relu_2"]),
        (["forward", "training", "image_shape"], ["forward_", "training_", "image_shape_"]),
        (["x.y z", "\x1b[31m<b>"], ["x_y_z", "__31m_b_"]),
    ],
)
def test_layers_are_named_after_nodes(tmp_path, names, layers):
    network = load(saved(tmp_path, named(*names)))
    found = [name for name, module in network.named_modules() if isinstance(module, nn.ReLU)]
    assert found == layers
    x = torch.randn(1, 4, 9, 8)
    assert torch.equal(network(x), x.relu())


# --- what torch exports ---------------------------------------------------------------------------


def exported(net: nn.Module, x: Tensor, path: Path, dynamo: bool, any_number: bool) -> None:
    if dynamo:
        pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    options = {}
    if any_number and dynamo:
        options["dynamic_shapes"] = ({0: torch.export.Dim("n", min=1)},)
    elif any_number:
        options |= {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}}
    images = x if any_number else x[:1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(net, (images,), path, dynamo=dynamo, verbose=False, **options)
        except ModuleNotFoundError as error:
            pytest.skip(f"this torch exports with {error.name}")


def alive(net: nn.Module) -> nn.Module:
    """With weights that let signals through all layers."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.eval()


def small_zf() -> nn.Module:
    """zfnet's kinds of layers on 64 pixels."""
    norm = {"alpha": 0.5, "beta": 0.75, "k": 2.0}
    layers = {
        "conv1": nn.Conv2d(3, 8, 7, 2, 1),
        "relu1": nn.ReLU(),
        "pool1": nn.MaxPool2d(3, 2, ceil_mode=True),
        "norm1": nn.LocalResponseNorm(5, **norm),
        "conv2": nn.Conv2d(8, 12, 5, 2),
        "relu2": nn.ReLU(),
        "pool2": nn.MaxPool2d(3, 2, ceil_mode=True),
        "norm2": nn.LocalResponseNorm(3, **norm),
        "flatten": nn.Flatten(),
        "fc6": nn.Linear(108, 10),
    }
    return nn.Sequential(OrderedDict(layers))


@pytest.mark.parametrize("any_number", [False, True])
@pytest.mark.parametrize("dynamo", [False, True])
def test_a_zf_network_exported_by_torch(tmp_path, dynamo, any_number):
    """Contrast normalisation, which torch takes apart, is put together again."""
    net, path, x = alive(small_zf()), tmp_path / "zf.onnx", torch.randn(3, 3, 64, 64)
    exported(net, x, path, dynamo, any_number)
    found = load(path)
    assert isinstance(found.norm1, nn.LocalResponseNorm) and found.norm2.size == 3
    assert [*dict(found.named_children())] == [*dict(net.named_children())]
    with torch.no_grad():
        torch.testing.assert_close(found(x), net(x))
    wanted = answers(path, x)
    torch.testing.assert_close(found(x).detach(), wanted, rtol=1e-5, atol=1e-5)
    rules = [[type(n.rule) for n in trace(m, x).nodes] for m in (found, net)]
    assert rules[0] == rules[1]


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "squeezenet1_1",
        "resnet18",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "shufflenet_v2_x0_5",
        "densenet121",
        "efficientnet_b0",
        "convnext_tiny",
        "googlenet",
    ],
)
def test_torchvisions_networks(tmp_path, torchvision_model, name, dynamo):
    if dynamo and name == "convnext_tiny":
        pytest.skip("torch's exporter writes a Reshape over all images into its last norm")
    options = {"aux_logits": False} if name == "googlenet" else {}
    net = alive(torchvision_model(name, num_classes=20, **options))
    path, x = tmp_path / "net.onnx", torch.randn(3, 3, 96, 96)
    exported(net, x, path, dynamo, any_number=False)
    found = load(path)
    wanted = answers(path, x)
    with torch.no_grad():
        assert (found(x) - wanted).norm() / wanted.norm() < 1e-5

    def opaque(model: nn.Module) -> int:
        return sum(isinstance(node.rule, Opaque) for node in trace(model, x).nodes)

    assert opaque(found) <= opaque(net) + 1


def test_a_normalisation_that_only_looks_like_one_is_left_as_it_is(tmp_path):
    """Averages over the maps above only."""
    made = nodes("""
        squares = Mul(x, x)
        u = Unsqueeze(squares, one)
        p = Pad(u, pads)
        a = AveragePool<kernel_shape = [3, 1, 1]>(p)
        s = Squeeze(a, one)
        m = Mul(s, alpha)
        k_m = Add(m, k)
        root = Pow(k_m, beta)
        y = Div(x, root)
    """)
    constants = {"alpha": 0.5, "k": 2.0, "beta": 0.75}
    weights = {name: np.array(value, np.float32) for name, value in constants.items()}
    for below, above, kind in ((1, 1, nn.LocalResponseNorm), (0, 2, None)):
        pads = [0, 0, below, 0, 0, 0, 0, above, 0, 0]
        lrn = model(made, weights | {"one": [1], "pads": pads}, (1, 7, 5, 6))
        network = check(tmp_path, lrn)
        assert (type(network.y) is nn.LocalResponseNorm) == (kind is not None)
