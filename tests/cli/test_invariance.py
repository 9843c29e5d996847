"""`zfcuda invariance`: one study of all images."""

import pytest

from zfcuda import cli
from zfcuda.results import InvarianceStudy

pytestmark = pytest.mark.usefixtures("tiny")


def run(*arguments):
    return cli.main(["invariance", "--model", "tiny", "--quiet", *map(str, arguments)])


def test_all_images_are_in_one_study(photo, tmp_path, capsys):
    out = tmp_path / "out"
    paths = [photo("cat.png"), photo("dogs.png")]
    assert run("--image", *paths, "--out", out, "--target", "cat", "4", "--fill", "mean") == 0
    *written, _ = capsys.readouterr().out.splitlines()
    assert sorted(written) == sorted(str(path) for path in out.iterdir())
    assert len(written) == 3
    study = InvarianceStudy.load(out / "cat-invariance")
    assert study.names == ("cat", "dogs") and study.layers == ("2", "5")
    assert list(study.experiments) == [
        "vertical translation",
        "horizontal translation",
        "scale",
        "rotation",
    ]
    for experiment in study.experiments.values():
        assert experiment.target.tolist() == [0, 4] and experiment.fill == 0.0


def test_one_target_goes_for_all(photo, tmp_path):
    arguments = ["--image", photo("a.png"), photo("bb.png"), "--target", "DOG", "--layer", "0"]
    assert run(*arguments, "--out", tmp_path) == 0
    study = InvarianceStudy.load(tmp_path / "a-invariance")
    assert study.experiments["scale"].target.tolist() == [1, 1] and study.layers == ("0",)


def test_a_name_that_leaves_no_room_for_more(photo, tmp_path):
    name = "long" * 62 + ".png"
    assert run("--image", photo(name), "--layer", "0", "--out", tmp_path / "out") == 0
    stems = {path.stem for path in (tmp_path / "out").iterdir()}
    assert stems == {f"{'long' * 50}-invariance"}


def test_what_is_wrong_is_said_in_one_line(photo, tmp_path, capsys):
    for arguments, message in (
        (["--image", photo(), "--target", "1", "2", "3"], "--target names 3 classes: expected 1"),
        (["--image", photo(), "--target", "catt"], "did you mean 'cat'?"),
        ([], "invariance needs --image FILE"),
    ):
        assert run(*arguments, "--out", tmp_path / "out") == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not [*tmp_path.glob("out/*")]
