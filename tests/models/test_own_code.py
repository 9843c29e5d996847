"""MODULE:FUNCTION, ONNX files and what files say about themselves."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import zfcuda
from zfcuda import cli
from zfcuda.cli.network import Network
from zfcuda.data import Preprocessing
from zfcuda.models import class_names, load, preprocessing, squeezenet1_1, with_weights
from zfcuda.models.weights import Metadata
from zfcuda.results import Predictions

CODE = """
import torch
from torch import nn
from zfcuda.data import Preprocessing

PREPROCESSING = Preprocessing(size=32, resize=None)
CLASS_NAMES = ["cat", "dog"]
WIDTH = 3

def build():
    import helper_of_the_users
    return nn.Sequential(nn.Conv2d(3, helper_of_the_users.CHANNELS, 3), nn.Dropout())

def number():
    return 7
"""
USERS = "network_of_the_users:build"


@pytest.fixture
def code(tmp_path, monkeypatch):
    """The current folder holds two modules of the user's."""
    (tmp_path / "network_of_the_users.py").write_text(CODE)
    (tmp_path / "helper_of_the_users.py").write_text("CHANNELS = 5")
    (tmp_path / "bare_network.py").write_text("from torch import nn\nbuild = lambda: nn.ReLU()")
    (tmp_path / "broken_network.py").write_text("import no_such_module_at_all")
    monkeypatch.chdir(tmp_path)
    before = {*sys.modules}
    yield tmp_path
    for name in {*sys.modules} - before:
        if name.endswith(("_users", "_network")):
            del sys.modules[name]


def test_a_function_of_the_users(code):
    path = list(sys.path)
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    model = load(USERS)
    assert torch.equal(torch.rand(2), expected)
    assert model[0].out_channels == 5 and not model.training
    assert torch.equal(model[0].weight, load(USERS)[0].weight)
    assert preprocessing(USERS).size == 32
    assert class_names(USERS) == ("cat", "dog")
    assert preprocessing("bare_network:build") == Preprocessing()
    assert class_names("bare_network:build") is None
    assert sys.path == path


def test_weights_for_a_function_of_the_users(code):
    spec = with_weights(f"{USERS}?size=48", code / "mine.safetensors")
    save_file({"0.weight": torch.ones(5, 3, 3, 3), "0.bias": torch.zeros(5)}, "mine.safetensors")
    assert (load(spec)[0].weight == 1).all()
    assert preprocessing(spec).size == 48
    save_file({"0.weight": torch.ones(5, 3, 3, 3)}, "mine.safetensors")
    with pytest.raises(ValueError, match=r"missing: 0\.bias"):
        load(spec)


def test_what_the_spec_says_has_the_last_word(code):
    spec = f"{USERS}?size=64&mean=1,2,3&std=2&scale=255&channels=bgr"
    assert preprocessing(spec) == Preprocessing(64, None, (1, 2, 3), (2, 2, 2), 255, "bgr")
    assert preprocessing(f"{USERS}?size=64&resize=70").resize == 70


@pytest.mark.parametrize(
    ("spec", "error", "match"),
    [
        ("network_of_the_users:biuld", ValueError, r"no function 'biuld' \(did you mean build\?\)"),
        ("network_of_the_users:WIDTH", ValueError, "no function 'WIDTH'"),
        ("network_of_the_users:number", TypeError, r"number\(\) returns a int: expected a torch"),
        ("no_such_network:build", ValueError, "there is no module 'no_such_network' in this fold"),
        ("zfnt:weights", ValueError, "did you mean zfnet"),
        ("broken_network:build", ModuleNotFoundError, "no_such_module_at_all"),
        (f"{USERS}:", ValueError, "names no file"),
        (f"{USERS}?size=x", ValueError, "size=x in .*: expected a number or HEIGHTxWIDTH"),
        (f"{USERS}?size=2x3x4", ValueError, "expected a number or HEIGHTxWIDTH"),
        (f"{USERS}?size=9x0", ValueError, "size 0: expected at least 1 pixel"),
        (f"{USERS}?mean=1,2", ValueError, "expected one or three numbers"),
        (f"{USERS}?std=0", ValueError, r"in 'network.*std above 0"),
        (f"{USERS}?weights=none", ValueError, "unknown option 'weights'"),
        ("bare_network.py:build", ValueError, "drop .py, .* expected 'bare_network:build'"),
        ("bare_network.py", ValueError, "drop .py, .* expected 'bare_network:FUNCTION'"),
        ("nets/bare_network.py:build", ValueError, "drop .py, .* expected 'nets.bare_network:bui"),
        ("bare_network", ValueError, r"did you mean bare_network:FUNCTION\?"),
        ("bare_networkk:build", ValueError, r"mean bare_network:build\?\): there is no module"),
    ],
)
def test_what_is_wrong_is_said(code, spec, error, match):
    with pytest.raises(error, match=match):
        load(spec)
        preprocessing(spec)


@pytest.mark.parametrize("spec", ["squeezenet1_1:a.pt", "zfnet?weights=none"])
def test_weights_given_twice(spec):
    with pytest.raises(ValueError, match="names its weights already"):
        with_weights(spec, "b.pt")


def test_with_weights_keeps_the_options():
    assert with_weights("zfnet?lrn=false", "b.pt") == "zfnet:b.pt?lrn=false"
    assert with_weights("torchvision:vgg16", "b.pt") == "torchvision:vgg16:b.pt"


def test_an_onnx_file_that_is_not_there():
    with pytest.raises(FileNotFoundError, match=r"'no/such\.onnx' does not exist"):
        load("no/such.onnx")
    assert class_names("no/such.onnx") is None
    assert preprocessing("no/such.onnx?size=64&scale=255").size == 64


def test_an_onnx_file(tmp_path):
    pytest.importorskip("onnx")
    from onnx_files import model, nodes, saved

    weights = {"weight": torch.randn(1000, 3, 32, 32), "bias": torch.randn(1000)}
    made = nodes("maps = Conv(x, weight, bias) y = Flatten(maps)")
    arrays = {name: value.numpy() for name, value in weights.items()}
    path = saved(tmp_path, model(made, arrays, ("n", 3, 32, 32), 17))
    network = Network.load(str(path), "cpu")
    assert network.preprocessing == Preprocessing(32, None)
    assert network.class_names == class_names("squeezenet1_1")
    x = torch.randn(2, 3, 32, 32)
    expected = nn.functional.conv2d(x, **weights).flatten(1)
    torch.testing.assert_close(network.model(x), expected)
    assert preprocessing(f"{path}?scale=255", network.model).scale == 255


# --- what a file says about itself ----------------------------------------------------------------


def test_metadata_come_back(tmp_path):
    said = Metadata("zfnet_small", ("shirt", "bag"), Preprocessing(64, None, std=(0.5, 0.5, 0.5)))
    save_file(nn.Linear(1, 1).state_dict(), tmp_path / "a.safetensors", metadata=said.strings())
    assert Metadata.read(tmp_path / "a.safetensors") == said
    save_file(nn.Linear(1, 1).state_dict(), tmp_path / "b.safetensors", metadata={"format": "pt"})
    for name in ("b.safetensors", "missing.safetensors", "c.pt"):
        assert Metadata.read(tmp_path / name) == Metadata()


def test_a_file_names_its_classes_and_its_preprocessing(tmp_path):
    path = tmp_path / "a.safetensors"
    expects = Preprocessing(96, None)
    said = Metadata("squeezenet1_1", ("a", "b", "c"), expects)
    save_file(squeezenet1_1(num_classes=3).state_dict(), path, metadata=said.strings())
    assert class_names(path) == ("a", "b", "c") and preprocessing(path) == expects
    assert load(path).classifier[1].out_channels == 3


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "[" * 100_000,
        '{"preprocessing": {"size": 0}}',
        '{"preprocessing": {"size": 1000000000, "resize": null}}',
        '{"preprocessing": {"size": [20, 20000], "resize": null}}',
        '{"preprocessing": {"size": [20, 20, 20], "resize": null}}',
        '{"preprocessing": {"size": 64.5, "resize": null}}',
        '{"preprocessing": {"size": "64", "resize": null}}',
        '{"preprocessing": {"mean": [NaN, 0, 0]}}',
        '{"preprocessing": {"std": ["1", "1", "1"]}}',
        '{"preprocessing": {"scale": Infinity}}',
        '{"preprocessing": {"scale": "1"}}',
        '{"preprocessing": {"channels": []}}',
        '{"preprocessing": {"interpolation": []}}',
        '{"preprocessing": [1, 2]}',
        '{"preprocessing": {"sizes": 3}}',
        '{"class_names": 3}',
    ],
)
def test_damaged_metadata(tmp_path, text):
    path = tmp_path / "a.safetensors"
    save_file(squeezenet1_1(num_classes=3).state_dict(), path, metadata={"zfcuda": text})
    with pytest.raises(ValueError, match=r"a\.safetensors': its metadata are damaged"):
        class_names(path)


NAMED = """
from torch import nn
CLASS_NAMES = ["ant", "bee", "cow"]
def build(): return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
def other(): return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
def one(): return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1))
"""


@pytest.fixture
def named(code):
    (code / "named_network.py").write_text(NAMED)
    (code / "names.txt").write_text("Ameise\nBiene\n Küh, schöne \n\n", encoding="utf-8")
    return "named_network:build"


def test_names_of_ones_own_classes(named):
    german = ("Ameise", "Biene", "Küh, schöne")
    assert class_names(named, load(named)) == ("ant", "bee", "cow")
    assert class_names(f"{named}?size=8&classes=names.txt", load(named)) == german
    assert Network.load(named, "cpu", "names.txt").class_names == german
    sys.modules["named_network"].CLASS_NAMES = None
    assert class_names(named) is None
    assert class_names("zfnet_small?classes=names.txt") == german


def test_as_many_names_as_classes(named):
    wrong = "named_network:other"
    with pytest.warns(UserWarning, match=r"CLASS_NAMES names 3 classes, but .* 4 out.*left out"):
        assert class_names(wrong, load(wrong)) is None
    with pytest.raises(ValueError, match=r"'names.txt' names 3 classes, but the network has 4 out"):
        Network.load(f"{wrong}?classes=names.txt", "cpu")
    with pytest.raises(ValueError, match=r"'names.txt' names 3 classes, but the network has 10"):
        Network.load("zfnet_small", "cpu", "names.txt")
    with pytest.raises(ValueError, match=r"3 classes, but .* 1 output: .* or two of which"):
        Network.load("named_network:one?classes=names.txt", "cpu")


def test_one_output_stands_for_the_second_of_two_names(named):
    Path("names.txt").write_text("cat\ndog\n")
    network = Network.load("named_network:one?classes=names.txt", "cpu")
    assert network.class_names == ("cat", "dog") and network.name(0, 1) == "dog"
    assert network.name(0) == "cat" and network.name(0, 2) == "cat"


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "cannot be read"), (b"\xff\xfe\xfa", "cannot be read"), (b"", "line 1 is empty"),
     (b"a\n\nb", "line 2 is empty")],
)  # fmt: skip
def test_files_of_no_names(tmp_path, content, problem):
    file = tmp_path / "names.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=f"class names '.*names.txt'.*{problem}"):
        class_names("zfnet_small", file=file)


def test_counting_outputs_leaves_a_model_in_training_as_it_is(tmp_path):
    model = nn.Sequential(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).train()
    (tmp_path / "names.txt").write_text("a\nb\nc")
    assert class_names("zfnet_small", model, tmp_path / "names.txt") == ("a", "b", "c")
    assert model[0].training and int(model[0].num_batches_tracked) == 0


def test_names_go_into_results(named, tmp_path, capsys):
    Image.new("RGB", (20, 20), "red").save("red.png")
    arguments = ["predict", "--model", named, "--classes", "names.txt", "--image", "red.png"]
    assert cli.main([*arguments, "--out", "out", "--device", "cpu"]) == 0
    (stem,) = {path.with_suffix("") for path in Path("out").glob("*.npz")}
    result = Predictions.load(stem)
    assert result.class_names == ("Ameise", "Biene", "Küh, schöne")
    provenance = json.loads(stem.with_suffix(".json").read_text())["provenance"]
    assert provenance["class_names"] == list(result.class_names)
    assert provenance["settings"]["classes"] == "names.txt"
    assert cli.main([*arguments[:3], "--classes", "red.png", *arguments[5:], "--out", "o"]) == 2
    assert "class names 'red.png' cannot be read" in capsys.readouterr().err


def test_the_most_probable_by_name():
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 1.0]])
    named = Predictions(logits, class_names=("a", "b", "c"))
    probabilities, labels = named.top(2)  # as ever
    assert named.top(2).names == (("b", "c"), ("a", "c"))
    assert torch.equal(named.top(2).labels, labels) and probabilities.shape == (2, 2)
    assert Predictions(logits).top(2).names is None
    texts = [label.get_text() for label in named.plot().axes[-1].get_yticklabels()]
    assert texts[0] == "b"
    with pytest.raises(ValueError, match="2 class names for 3 outputs"):
        Predictions(logits, class_names=("a", "b"))
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 2))
    found = zfcuda.predict(model, torch.zeros(1, 3, 4, 4), class_names=["x", "y"])
    assert set(found.top(2).names[0]) == {"x", "y"}


def test_a_network_of_another_size_is_told_how_to_name_it(code, capsys):
    (code / "sized_network.py").write_text(
        "from torch import nn\n"
        "build = lambda: nn.Sequential(nn.Conv2d(3, 2, 5, 7), nn.Flatten(), nn.Linear(32, 10))"
    )
    Image.new("RGB", (40, 48)).save("photo.png")
    for command in (["predict", "--image", "photo.png"], ["layers"]):
        assert cli.main([*command, "--model", "sized_network:build"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "mat1 and mat2" in error
        assert "an RGB image of 224×224 pixels" in error
        assert "'sized_network:build?size=32'" in error
    with pytest.raises(ValueError, match=r"of 48×48 pixels, and .* '.*build\?mean=0&size=32'"):
        Network.load("sized_network:build?size=48&mean=0", "cpu")
    assert Network.load("sized_network:build?size=32", "cpu").blank().shape == (1, 3, 32, 32)


def test_an_error_of_the_models_forward_keeps_its_type_and_tells_the_shape(code):
    model = nn.Sequential(nn.Flatten(), nn.Linear(27, 2))
    with pytest.raises(RuntimeError, match=r"mat1 and mat2.* forward of images \[1, 3, 4, 4\]\)"):
        zfcuda.predict(model, torch.zeros(5, 3, 4, 4))
