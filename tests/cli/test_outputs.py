"""Commands say whether P comes from logits or from the network itself, or that there are values."""

import json

import pytest
from PIL import Image

from zfcuda import cli
from zfcuda.models import preprocessing
from zfcuda.models.specs import outputs_in, parse
from zfcuda.results import OcclusionResult

MODULE = """
import torch
from torch import nn
from zfcuda.data import Preprocessing

PREPROCESSING = Preprocessing(size=32, resize=None)

def _made(count, *last):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, count), *last)

def one():
    return _made(1)

def soft():
    return _made(5, nn.Softmax(1))
"""

SAID = {
    "own_outputs:one": "The probability is the sigmoid of the network's one output.",
    "own_outputs:soft": "Probabilities are the network's own: its last step makes them.",
    "own_outputs:one?outputs=value": "Shown is what the network answers, a value",
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "own_outputs.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def jsons(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("*.json"))]


ONE, SOFT, VALUE = SAID


@pytest.mark.parametrize(
    ("command", "spec"),
    [
        ("predict", ONE), ("predict", SOFT), ("predict", VALUE),
        ("occlude --size 16 --stride 16", ONE), ("occlude --size 16 --stride 16", VALUE),
        ("rotate --angles 0,90", VALUE), ("background --mask photo.png", VALUE),
        ("invariance", SOFT),
    ],
)  # fmt: skip
def test_sentences_and_results_say_it(here, photo, capsys, command, spec):
    arguments = [*command.split(), "--model", spec, "--image", photo(), "--quiet"]
    assert cli.main([*arguments, "--out", "out"]) == 0
    out = capsys.readouterr().out
    assert SAID[spec] in out
    assert ("P(" in out or "probability" in out.split("Shown")[0]) <= ("value" not in spec)
    kinds = ("value",) if "value" in spec else ("logit", "probabilities")
    text = json.dumps(jsons(here / "out"))
    assert any(f'"outputs": "{kind}"' in text for kind in kinds)


def test_over_a_data_set(here, photo, capsys):
    photo("many/a.png"), photo("many/b.png")
    for command in ("occlude --size 16 --stride 16", "invariance"):
        arguments = [*command.split(), "--model", VALUE, "--data", "many", "--quiet"]
        assert cli.main([*arguments, "--out", "out"]) == 0
        out = capsys.readouterr().out
        assert SAID[VALUE] in out and "probability" not in out.split("Shown")[0]


def test_a_spec_says_it():
    spec = "own_outputs:one?size=32&outputs=value"
    assert outputs_in(spec) == "value" and outputs_in("zfnet") is None
    assert parse(spec).preprocessing == {"size": 32}
    assert preprocessing("squeezenet1_1?outputs=logits").size == 227
    with pytest.raises(ValueError, match=r"outputs=odds in .* expected logits or probabilities"):
        parse("own_outputs:one?outputs=odds")


def test_values_have_no_uncertainty(here, capsys):
    arguments = ["uncertainty", "--model", VALUE, "--data", "garments"]
    assert cli.main([*arguments, "--quiet"]) != 0
    assert "values of a regression" in capsys.readouterr().err


@pytest.mark.usefixtures("tiny")
def test_sentences_say_only_what_was_asked_and_found(photo, tmp_path, capsys):
    def said(*arguments):
        common = ["--model", "tiny", "--device", "cpu", "--quiet", "--out", str(tmp_path / "out")]
        assert cli.main([*arguments, *common]) == 0
        return capsys.readouterr().out.splitlines()[-1]

    image = ["--image", photo()]
    occlude = ["occlude", "--size", "16", "--stride", "16"]
    alone, watched = said(*occlude, *image), said(*occlude, *image, "--layer", "3")
    assert " map " not in alone and "the sum of the strongest map of 3 (" in watched
    result = OcclusionResult.load(tmp_path / "out" / "photo-occlude")
    low, base = result.target_probability.min(), result.base_probabilities[0, result.target[0]]
    assert f" is {base:.3g} without it and {low:.3g} " in alone
    assert result.unchanged.all() == ("label stays" in alone)
    turned = ["rotate", "--angles", "0,90", *image]
    assert "features" not in said(*turned) and "the features at 1, 3 " in said(
        *turned, "--layer", "1", "--layer", "3"
    )
    deconv = ["deconv", *image, "--layer", "3"]
    assert "the strongest unit of" in said(*deconv)
    assert "the chosen unit of" in said(*deconv, "--channel", "1")
    # An image that loses too little for panels c and d.
    Image.new("RGB", (40, 40)).save(tmp_path / "black.png")
    (tmp_path / "many").mkdir()
    (tmp_path / "black.png").rename(tmp_path / "many" / "black.png")
    many = said(*occlude, "--data", str(tmp_path / "many"))
    assert "(a)" in many and "(b)" in many and "(c)" not in many and "(d)" not in many


def test_a_single_output_stands_for_the_second_of_two_classes(here, photo, capsys):
    (here / "names.txt").write_text("cat\ndog\n")
    common = ["--model", ONE, "--image", photo(), "--quiet", "--out", "out"]
    named = [*common, "--classes", "names.txt"]
    for command in ("predict", "occlude --size 16 --stride 16", "rotate --angles 0,90"):
        assert cli.main([*command.split(), *named]) == 0
        out = capsys.readouterr().out
        assert "P(dog)" in out and "cat" not in out.splitlines()[-1]
        assert cli.main([*command.split(), *common]) == 0
        out = capsys.readouterr().out
        assert "class 0" not in out and "P" in out and "P()" not in out
    assert cli.main(["rotate", "--angles", "0,90", *named, "--target", "dog"]) == 0
    assert cli.main(["rotate", "--angles", "0,90", *named, "--target", "cat"]) == 2
    assert "target 'cat': the network's one output stands for 'dog'" in capsys.readouterr().err
    photo("many/a.png"), photo("many/b.png")
    over = ["--model", ONE, "--data", "many", "--classes", "names.txt", "--out", "over"]
    assert cli.main(["occlude", "--size", "16", "--stride", "16", *over]) == 0
    error = capsys.readouterr().err
    assert "dog" in error and "cat" not in error
