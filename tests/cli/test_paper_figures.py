"""The paper script: its command lines exist, and what it makes ends in one gallery."""

import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from samples import training

from zfcuda import cli
from zfcuda.cli.network import Network
from zfcuda.report.gallery import read_entry
from zfcuda.results import Predictions


@pytest.fixture
def script(script):
    return script("paper_figures")


def plan_of(script, folder, *arguments):
    """The options, and what comes of them with a network without weights."""
    options = script._parser().parse_args(["--model", "zfnet_small?weights=none", *arguments])
    return options, script._plan(options, Network.load(options.model, "cpu"), folder)


def test_every_experiment_is_a_command_with_these_options(script, tmp_path):
    checkpoints = ["--checkpoints", "a.pt", "b.pt"]
    options, plan = plan_of(script, tmp_path, "--quick", *checkpoints)
    model = Network.load(options.model, "cpu").model
    jobs = script._jobs(options.only, plan, tmp_path)
    assert {job.command for job in jobs} == set(script.EXPERIMENTS) <= {*cli.COMMANDS}
    assert len({job.folder for job in jobs}) == len(jobs)
    for job in jobs:
        parsed = vars(cli._parser().parse_args(job.words()))
        assert job.settings.items() <= parsed.items()
        for layer in job.settings.get("layer", []) if job.command != "occlude" else ():
            model.get_submodule(layer)


def test_the_pictures_are_of_five_classes_with_masks(script, tmp_path):
    _, plan = plan_of(script, tmp_path)
    assert len({picture.label for picture in plan.pictures}) == len(plan.pictures) == 5
    for picture in plan.pictures:
        with Image.open(picture.image) as image, Image.open(picture.mask) as mask:
            assert image.mode == "RGB" and mask.mode == "L" and image.size == mask.size


def test_a_training_without_checkpoints_has_no_evolution(script, tmp_path):
    _, plan = plan_of(script, tmp_path)
    assert script._jobs(["evolve"], plan, tmp_path) == []
    assert plan.layer("pool1", "relu7") == {"layer": ["pool1", "relu7"]}
    assert plan.layer("pool1", "features.3") == {}


def test_the_pictures_are_right_but_not_beyond_doubt(script, tmp_path, monkeypatch):
    """Answers that are right with 0.5, 0.9 and 1 in turn: the second is taken, of every class."""

    def predict(_model, x):
        garments = script.garments(network.preprocessing)
        labels = garments.pictures.labels
        sure = torch.tensor([0.5, 0.9, 1.0]).repeat(len(labels))[: len(labels)]
        logits = ((1 - sure) / 9).log()[:, None].repeat(1, 10)
        logits[torch.arange(len(labels)), labels] = sure.log()
        asked.append(sure)
        return Predictions(logits)

    asked = []
    network = Network.load("zfnet_small?weights=none", "cpu")
    monkeypatch.setattr(script.zfcuda, "predict", predict)
    pictures = script._garments(network, tmp_path)
    garments = script.garments(network.preprocessing)
    places = {f"-{number}.png": i for i, number in enumerate(garments.numbers.tolist())}
    for picture in pictures:
        (place,) = [i for end, i in places.items() if picture.image.name.endswith(end)]
        assert asked[0][place] == 0.9


@pytest.mark.usefixtures("tiny")
def test_a_run_ends_in_a_gallery_and_is_taken_up_again(script, photo, tmp_path, capsys):
    photo("mine/one.png")
    arguments = ["--model", "tiny", "--images", str(tmp_path / "mine"), "--quiet"]
    arguments += ["--out", str(tmp_path / "out"), "--only", "predict", "occlude"]
    assert script.main(arguments) == 0
    out = capsys.readouterr().out
    assert "2 done, 0 skipped, 0 failed" in out and "2 figures" in out
    page = (tmp_path / "out" / "index.html").read_text()
    assert 'href="occlude/one/one-occlude.png"' in page and 'id="talk-figure-3"' in page
    Path(photo("mine/one.png")).rename(tmp_path / "mine" / "two.png")
    assert script.main(arguments[:-1]) == 0  # predict only
    assert "1 done, 0 skipped" in capsys.readouterr().out
    page = (tmp_path / "out" / "index.html").read_text()
    assert "predict/two/two-predict.png" in page and "one-" not in page
    (tmp_path / "mine" / "two.png").rename(tmp_path / "mine" / "one.png")
    assert script.main(arguments) == 0
    assert "0 done, 2 skipped" in capsys.readouterr().out
    assert "predict/two" not in (tmp_path / "out" / "index.html").read_text()


@pytest.mark.usefixtures("tiny")
def test_pictures_of_one_name_and_data_that_grow(script, photo, tmp_path):
    for name in ("cat.png", "cat.bmp", "dog.png"):
        photo(f"mine/{name}")
    photo("data/a.png")
    options = ["--model", "tiny", "--images", str(tmp_path / "mine")]
    options = script._parser().parse_args([*options, "--data", str(tmp_path / "data")])
    plan = script._plan(options, Network.load("tiny", "cpu"), tmp_path / "out")
    jobs = script._jobs(["predict", "top9"], plan, tmp_path / "out")
    assert [job.folder.name for job in jobs] == ["cat.bmp", "cat.png", "dog", "top9"]
    assert [[path.name for path in job.reads] for job in jobs] == [
        ["cat.bmp"], ["cat.png"], ["dog.png"], ["data"],
    ]  # fmt: skip


@pytest.mark.usefixtures("tiny")
def test_a_failure_is_told(script, photo, tmp_path, capsys):
    photo("mine/one.png")
    (tmp_path / "mine" / "two.png").write_text("no picture")
    arguments = ["--model", "tiny", "--images", str(tmp_path / "mine"), "--quiet"]
    assert script.main([*arguments, "--out", str(tmp_path / "out"), "--only", "predict"]) == 1
    out = capsys.readouterr().out
    assert "1 done, 0 skipped, 1 failed" in out and "failed: predict/two: " in out


def test_the_curves_come_with_their_record(script, tmp_path):
    training_result = training(epochs=1)
    script._curves(tmp_path / "nothing", tmp_path / "train" / "training")
    assert not (tmp_path / "train").exists()
    training_result.save(tmp_path / "run" / "training", {"entry": {"title": "Training"}})
    script._curves(tmp_path / "run" / "training", tmp_path / "train" / "training")
    entry = read_entry(tmp_path / "train" / "training.png")
    assert entry.title == "Training"
    assert [path.suffix for path in entry.files] == [".png", ".pdf", ".npz", ".json"]
    assert type(training_result).load(tmp_path / "train" / "training")


def test_maps_that_never_fire_are_said():
    from zfcuda.cli.network import silent_layers

    values = torch.tensor([[0.0, 0.0], [2.0, 0.0], [-1.0, -2.0], [-math.inf, -math.inf]])
    images = torch.tensor([[0, 1], [0, 1], [0, 1], [-1, -1]])
    assert silent_layers([(values, images)]) == " 1 of the 4 maps shown never fires (light grey)."
    assert silent_layers([(values[1:], images[1:])]) == ""
