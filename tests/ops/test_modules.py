"""zfcuda.nn's modules where torch.nn's go: traced, scripted, and exchanged for torch's."""

import copy
import io
import warnings

import pytest
import torch
from strategies import image
from torch import nn

import zfcuda
import zfcuda.nn

MODULES = {
    "pool": zfcuda.nn.MaxPool2d(2),
    "padded pool": zfcuda.nn.MaxPool2d((3, 2), (2, 1), 1, ceil_mode=True),
    "rectifying pool": zfcuda.nn.MaxPool2d(3, relu=True),
    "indices": zfcuda.nn.MaxPool2d(3, 2, 1, return_indices=True),
    "rectified indices": zfcuda.nn.MaxPool2d(3, 2, return_indices=True, relu=True),
    "switches": zfcuda.nn.MaxPool2d(3, 2, return_switches=True),
    "norm": zfcuda.nn.LocalResponseNorm(5),
    "other norm": zfcuda.nn.LocalResponseNorm(3, 1, 0.5, 2),
}
X = image(2, 8, (9, 11), torch.float32)


def parts(result):
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES.keys())
def test_scripted(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(nn.Sequential(module))
    for x in (X, X[0]):
        for ours, theirs in zip(parts(module(x)), parts(scripted(x)), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES.keys())
def test_a_single_call_in_a_trace(module):
    traced = torch.fx.symbolic_trace(nn.Sequential(nn.ReLU(), module))
    kinds = [(node.op, node.target) for node in traced.graph.nodes]
    assert kinds[1:3] == [("call_module", "0"), ("call_module", "1")] and len(kinds) == 4
    assert traced.get_submodule("1") is module
    for ours, theirs in zip(parts(module(X.relu())), parts(traced(X)), strict=True):
        assert torch.equal(ours, theirs)


def test_a_traced_network_goes_on_in_zfcuda():
    model = zfcuda.models.zfnet_small().eval()
    x = image(1, 3, (64, 64), torch.float32)
    traced = torch.fx.symbolic_trace(model)
    assert torch.equal(traced(x), model(x))
    assert torch.equal(zfcuda.deconv(traced, x, "pool1"), zfcuda.deconv(model, x, "pool1"))


def test_feature_extraction_of_torchvision(torchvision_model):
    from torchvision.models import feature_extraction as extraction

    model = zfcuda.models.zfnet_small().eval()
    assert {"pool1", "norm1"} <= set(extraction.get_graph_node_names(model)[0])
    x = image(1, 3, (64, 64), torch.float32)
    features = extraction.create_feature_extractor(model, ["norm1"])(x)["norm1"]
    assert torch.equal(features, model[:4](x))


def test_to_torch():
    torch.manual_seed(0)
    model = zfcuda.models.zfnet_small(fused=True)
    model.pool1.register_forward_hook(lambda *_: seen.append("pool1"))
    before = copy.deepcopy(model.state_dict())
    twin = zfcuda.nn.to_torch(model)
    kinds = {type(module).__module__.split(".")[0] for module in twin.modules()}
    assert kinds == {"torch"} and type(model.pool1) is zfcuda.nn.MaxPool2d
    assert model.pool1.relu and model.training and twin.training and twin.pool1[0].training
    assert list(twin.state_dict()) == list(before)
    assert all(torch.equal(twin.state_dict()[key], value) for key, value in before.items())
    names = [name for name, _ in model.named_modules()]
    assert set(names) < {name for name, _ in twin.named_modules()}
    seen = []
    x = image(2, 3, (64, 64), torch.float32)
    torch.testing.assert_close(twin.eval()(x), model.eval()(x))
    assert seen == ["pool1", "pool1"]
    with torch.no_grad():
        twin.conv1.weight.zero_()
    assert model.conv1.weight.any()


def test_a_module_that_goes_by_two_names_stays_one():
    pool = zfcuda.nn.MaxPool2d(2, relu=True)
    twin = zfcuda.nn.to_torch(nn.ModuleDict({"a": pool, "b": nn.Sequential(pool)}))
    assert twin["a"] is twin["b"][0] and type(twin["a"]) is nn.Sequential


@pytest.mark.parametrize("name", [name for name in MODULES if name != "switches"])
def test_each_module_to_torch(name):
    module = MODULES[name]
    twin = zfcuda.nn.to_torch(module)
    assert type(twin).__module__.startswith("torch.nn.") and "zfcuda" not in repr(twin)
    for x in (X, X[0]):
        for ours, theirs in zip(parts(module(x)), parts(twin(x)), strict=True):
            torch.testing.assert_close(ours, theirs)
    copy.deepcopy(twin)
    torch.save(twin, io.BytesIO())


def test_what_has_no_twin_in_torch():
    with pytest.raises(ValueError, match=r"'1' returns its switches.*return_indices=True"):
        zfcuda.nn.to_torch(nn.Sequential(nn.ReLU(), MODULES["switches"]))

    class Own(zfcuda.nn.MaxPool2d):
        def forward(self, x):
            return super().forward(-x)

    with pytest.raises(TypeError, match=r"'0' is a Own, a subclass of zfcuda\.nn\.MaxPool2d"):
        zfcuda.nn.to_torch(nn.Sequential(Own(2)))


def test_onnx(tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model = nn.Sequential(
        *(nn.Conv2d(3, 6, 3), zfcuda.nn.MaxPool2d(2, relu=True), zfcuda.nn.LocalResponseNorm(3)),
    ).eval()
    x, file = image(1, 3, (12, 12), torch.float32), tmp_path / "network.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(zfcuda.nn.to_torch(model), (x,), file, dynamo=True, verbose=False)
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(answer), model(x), rtol=1e-4, atol=1e-5)
