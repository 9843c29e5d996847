"""load, preprocessing, class_names: every kind of spec, and what is said when one is wrong."""

import enum
import re
import sys
import types
import warnings
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import zfcuda.nn
from zfcuda.data import Preprocessing
from zfcuda.models import class_names, load, preprocessing, squeezenet1_1, zfnet


@pytest.fixture
def squeezenet_file(tmp_path):
    torch.manual_seed(1)
    model = squeezenet1_1(num_classes=3)
    save_file(model.state_dict(), tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors", model.eval()


@pytest.fixture(scope="module")
def zfnet_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("zfnet") / "mine.pt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        torch.save(zfnet(num_classes=2).half().state_dict(), path)
    return path


# --- our own models -------------------------------------------------------------------------------


def test_random_states_of_gpus_are_left_alone(monkeypatch):
    """Also of those that nobody has used yet: torch would seed them when they are."""
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("seeded"))
    load("zfnet_small?weights=none")


def test_zfnet_is_random_but_the_same_each_time_and_says_so():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        first = load("zfnet")
    assert torch.equal(torch.rand(3), expected)  # torch's own random state is untouched
    (warning,) = caught
    assert "zfnet has random weights" in str(warning.message) and warning.filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = load("zfnet?weights=none")  # asked for: no warning
    assert torch.equal(first.fc8.weight, second.fc8.weight)
    assert not first.training and first.fc8.out_features == 1000
    assert class_names("zfnet") is None


def test_trained_squeezenet():
    model = load("squeezenet1_1")
    assert not model.training
    assert not torch.equal(
        model.features[0].weight, load("squeezenet1_1?weights=none").features[0].weight
    )
    pre = preprocessing("squeezenet1_1")
    assert (pre.size, pre.resize, pre.channels, pre.scale) == (227, None, "bgr", 255)
    assert pre.mean == (104, 117, 123)


def test_imagenet_names():
    names = class_names("squeezenet1_1")
    assert len(names) == len(set(names)) == 1000
    assert all(name and name == name.strip() for name in names)
    known = {0: "tench", 285: "Egyptian cat", 504: "coffee mug", 967: "espresso"}
    assert {label: names[label] for label in known} == known
    assert class_names("squeezenet1_1?weights=none") is None


def test_zfnet_preprocessing():
    pre = preprocessing("zfnet")
    assert (pre.size, pre.resize, pre.channels, pre.scale) == (224, 256, "rgb", 255)
    assert pre.mean == (123.68, 116.779, 103.939) and pre.std == (1, 1, 1)


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "squeezenet1_1:"])
def test_squeezenet_file(squeezenet_file, prefix):
    path, model = squeezenet_file
    loaded = load(f"{prefix}{path}" if prefix else path)  # a path, or its text
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(loaded(x), model(x), rtol=0, atol=0)
    # Torchvision's layout most likely means torchvision's weights, not Caffe's.
    assert preprocessing(f"{prefix}{path}") == Preprocessing()
    assert class_names(f"{prefix}{path}") is None


def test_file_with_a_thousand_classes_is_taken_for_imagenet(tmp_path):
    save_file(squeezenet1_1().state_dict(), tmp_path / "a.safetensors")
    assert class_names(tmp_path / "a.safetensors") == class_names("squeezenet1_1")


def test_zfnet_file(zfnet_file):
    model = load(zfnet_file)
    assert model.fc8.weight.shape == (2, 4096) and model.fc8.weight.dtype == torch.float32
    assert isinstance(model.norm1, zfcuda.nn.LocalResponseNorm)
    assert preprocessing(zfnet_file) == preprocessing("zfnet")
    assert torch.equal(model.conv1.weight.half(), torch.load(zfnet_file)["conv1.weight"])


@pytest.mark.parametrize("prefix", ["", "zfnet:"])
def test_zfnet_file_without_normalisation(zfnet_file, prefix):
    assert not hasattr(load(f"{prefix}{zfnet_file}?lrn=false"), "norm1")


def test_file_of_another_model_is_named(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(nn.Linear(2, 2).state_dict(), path)
    for ask in (load, preprocessing, class_names):
        with pytest.raises(ValueError, match=r"a\.pt' holds no squeezenet1_1 or .* \(but wei"):
            ask(path)


def test_last_layer_of_another_width_is_not_taken_for_a_class_count(tmp_path):
    state = squeezenet1_1(num_classes=3).state_dict()
    state["classifier.1.bias"] = torch.zeros(5)
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"classifier\.1\.weight is \[3, 512, 1, 1\] instead of"):
        load(tmp_path / "a.safetensors")


# --- wrong specs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("sqeezenet", r"unknown model 'sqeezenet' \(did you mean squeezenet1_1"),
        ("ZFNet", r"unknown model 'ZFNet' \(did you mean zfnet"),
        ("resnet18", r"zfnet, torchvision:NAME, MODULE:FUNCTION or a file \(\.safetensors"),
        ("squeezenet1.1", "did you mean squeezenet1_1"),
        ("", "unknown model ''"),
        ("zfnet:", "names no file"),
        ("zfnet?lrn=maybe", r"lrn=maybe in .*: expected true or false"),
        ("zfnet?weights=imagenet", r"weights=imagenet in .*: expected default or none"),
        ("squeezenet1_1?lrn=false", r"unknown option 'lrn' in "),
        ("zfnet:a.pt?weights=none", r"unknown option 'weights' in .*: expected .*lrn"),
        ("torchvision:tinynett", r"'tinynett' \(did you mean tinynet\?\): expected a classif"),
        ("torchvision:a_detector", "unknown torchvision model 'a_detector'"),
        ("torchvision:", "unknown torchvision model ''"),
        ("torchvision:tinynet?weights=V9", "expected none, default or one of IMAGENET1K_V1"),
        ("torchvision:tinynet?lrn=false", "unknown option 'lrn'"),
    ],
)
def test_wrong_specs(torchvision, spec, match):
    for ask in (load, preprocessing, class_names):
        with pytest.raises(ValueError, match=match):
            ask(spec)


def test_missing_file_and_wrong_type():
    with pytest.raises(FileNotFoundError, match=r"'no/such\.safetensors' does not exist"):
        load("no/such.safetensors")
    with pytest.raises(TypeError, match="expected a model's name or a path, got int"):
        load(3)


def test_folder_and_other_suffix(tmp_path):
    (tmp_path / "a.pkl").touch()
    for path in (tmp_path, tmp_path / "a.pkl"):
        with pytest.raises(ValueError, match=r"expected one of the suffixes \.safetensors"):
            load(path)


# --- torchvision ----------------------------------------------------------------------------------


class TinyNet(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.Conv2d(3, num_classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class TinyNet_Weights(enum.Enum):
    IMAGENET1K_V1 = "https://example.invalid/tiny.pth"
    DEFAULT = IMAGENET1K_V1

    url = property(lambda self: self.value)
    meta = property(lambda self: {"categories": ["cat", "dog"]})

    def transforms(self):
        return SimpleNamespace(
            crop_size=[288],
            resize_size=[300],
            mean=[0.5, 0.4, 0.3],
            std=[0.1, 0.2, 0.3],
            interpolation=SimpleNamespace(value="bicubic"),
        )

    def get_state_dict(self, *, progress, check_hash, weights_only):
        assert check_hash and weights_only
        return TinyNet(2).state_dict()


@pytest.fixture
def torchvision(monkeypatch):
    """As much of torchvision's interface as is used; the real one needs its own compiled part."""
    models = types.ModuleType("torchvision.models")

    def get_model(name, weights, num_classes=2):
        model = TinyNet(num_classes)
        if weights:
            nn.init.constant_(model[0].bias, 7.0)
        return model

    models.get_model = get_model
    models.get_model_weights = lambda name: TinyNet_Weights
    models.list_models = lambda module: ["tinynet"] if module is models else ["a_detector"]
    package = types.ModuleType("torchvision")
    package.models = models
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)


def test_torchvision_model_with_its_weights(torchvision):
    for spec in ("torchvision:tinynet", "torchvision:tinynet?weights=IMAGENET1K_V1"):
        model = load(spec)
        assert not model.training and (model[0].bias == 7).all()
        assert class_names(spec) == ("cat", "dog")
        assert preprocessing(spec) == Preprocessing(
            288, 300, (0.5, 0.4, 0.3), (0.1, 0.2, 0.3), interpolation="bicubic"
        )


def test_torchvision_model_with_random_weights(torchvision):
    spec = "torchvision:tinynet?weights=none"
    model = load(spec)
    assert (model[0].bias != 7).any() and torch.equal(model[0].bias, load(spec)[0].bias)
    assert class_names(spec) is None and preprocessing(spec) == Preprocessing()


def test_torchvision_model_with_weights_of_a_file(torchvision, tmp_path):
    torch.save(TinyNet(5).state_dict(), tmp_path / "a.pt")
    spec = f"torchvision:tinynet:{tmp_path / 'a.pt'}"
    assert load(spec)[0].out_channels == 5
    assert class_names(spec) is None and preprocessing(spec) == Preprocessing()


def test_weights_that_cannot_be_downloaded(torchvision, monkeypatch):
    def fail(self, **settings):
        raise OSError("Name or service not known")

    monkeypatch.setattr(TinyNet_Weights, "get_state_dict", fail)
    with pytest.raises(
        RuntimeError,
        match=r"could not be had from https://example\.invalid/tiny\.pth \(Name or service not "
        r"known\); use 'torchvision:tinynet\?weights=none' for random weights or",
    ):
        load("torchvision:tinynet")
    assert preprocessing("torchvision:tinynet").size == 288  # needs no download


@pytest.mark.parametrize(
    ("error", "match"),
    [
        (
            ModuleNotFoundError("No module named 'torchvision'", name="torchvision"),
            r"torchvision is not installed; .*torchvision[=>]=0",
        ),
        (
            RuntimeError("operator torchvision::nms does not exist"),
            r"does not import beside torch .*nms does not exist",
        ),
    ],
)
def test_a_torchvision_that_cannot_be_imported(monkeypatch, error, match):
    module = "zfcuda.models.from_torchvision.importlib.import_module"
    monkeypatch.setattr(module, mock.Mock(side_effect=error))
    for ask in (load, preprocessing, class_names):
        with pytest.raises(type(error), match=match):
            ask("torchvision:resnet18")


@pytest.mark.parametrize(
    ("running", "fits"),
    [("2.11.0", "==0.26.*"), ("2.13.0+cpu", "==0.28.*"), ("2.14.1", ">=0.29"), ("3.0.0", ">=0.29")],
)
def test_which_torchvision_fits(monkeypatch, running, fits):
    monkeypatch.setattr(torch, "__version__", running)
    module = "zfcuda.models.from_torchvision.importlib.import_module"
    missing = ModuleNotFoundError("No module named 'torchvision'", name="torchvision")
    monkeypatch.setattr(module, mock.Mock(side_effect=missing))
    with pytest.raises(ModuleNotFoundError, match=re.escape(f'"torchvision{fits}"')):
        load("torchvision:resnet18")
