"""`zfcuda diagram`."""

import json

import pytest

from zfcuda import cli
from zfcuda.results.diagram import Diagram

pytestmark = pytest.mark.usefixtures("tiny")


def run(*arguments):
    return cli.main(["diagram", "--model", "tiny", "--quiet", *map(str, arguments)])


def test_the_layer_of_the_first_pooling_is_drawn(photo, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("--image", photo(), "--out", out) == 0
    *written, _ = capsys.readouterr().out.splitlines()
    assert sorted(written) == sorted(str(path) for path in out.iterdir())
    assert {path.suffix for path in out.iterdir()} == {".json", ".npz", ".png"}
    result = Diagram.load(out / "photo-diagram")
    assert result.layer == "2" and result.switch.name == "2"
    assert [step.name for step in result.steps] == ["0", "1", "2"]
    about = json.loads((out / "photo-diagram.json").read_text())
    assert about["provenance"]["model"] == "tiny"
    assert about["entry"]["figure"] == "paper figure 1, talk figures 1, 2"


def test_layer_and_depth_can_be_chosen(photo, tmp_path):
    assert run("--image", photo(), "--out", tmp_path, "--layer", "4", "--depth", 1) == 0
    result = Diagram.load(tmp_path / "photo-diagram")
    assert [step.name for step in result.steps] == ["4"] and result.sources[0].name == "3"


def test_what_is_wrong_is_said_in_one_line(photo, tmp_path, capsys):
    for arguments, message in (
        (["--image", photo(), "--layer", "nope"], "no layer 'nope'"),
        (["--image", photo(), "--depth", "0"], "depth must be at least 1, got 0"),
        ([], "diagram needs --image FILE"),
    ):
        assert run(*arguments, "--out", tmp_path / "out") == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not [*tmp_path.glob("out/*")]
