"""A run: what it learns and leaves behind, and that being cut short anywhere changes nothing."""

import dataclasses
import itertools
import json
import os
import shutil
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file
from sets import weights_of
from torch import nn

from zfcuda.storage.ranks import Shard
from zfcuda.storage.run_folder import claimed
from zfcuda.training import Checkpoints, Recipe, TrainingResult, evaluate, train

RECIPE = Recipe(epochs=3, batch=16, rate=0.02)


def run(network, data, folder, recipe=RECIPE, **more):
    return train(network(), data, folder, recipe, progress=False, **more)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_it_learns(network, data, tmp_path):
    model = network()
    recipe = Recipe(epochs=20, batch=8, patience=20)
    result = train(model, data, tmp_path, recipe, progress=False)
    assert result.test_accuracy > 0.9 and result.training_loss[-1] < 0.8 * result.training_loss[0]
    logits, labels = evaluate(model, data.test)
    assert float((logits.argmax(1) == labels).double().mean()) == result.test_accuracy
    assert result.confusion.sum() == len(data.test)
    assert result.confusion.diagonal().sum() == round(result.test_accuracy * len(data.test))


def test_what_is_left_behind(network, data, tmp_path):
    result = run(network, data, tmp_path, name="small")
    assert names(tmp_path) == sorted(
        [f"epoch-000{i}.{suffix}" for i in (1, 2, 3) for suffix in ("json", "safetensors")]
        + ["momentum-0002.safetensors", "momentum-0003.safetensors"]
        + ["run.json", "training.json", "training.npz", "weights.safetensors"]
    )
    again = TrainingResult.load(tmp_path / "training")
    assert torch.equal(again.validation_loss, result.validation_loss)
    assert again.settings["model"] == "small" and again.weights_sha256 == weights_of(tmp_path)
    best = 1 + int(result.validation_accuracy.argmax())
    assert result.best == best
    chosen = load_file(Checkpoints(tmp_path).weights(best))
    shipped = load_file(tmp_path / "weights.safetensors")
    assert all(torch.equal(chosen[name], shipped[name]) for name in chosen)
    assert (result.images_per_second > 0).all() and (result.cpu_seconds > 0).all()


def test_test_pictures_decide_nothing(network, data, tmp_path):
    """Other test labels: the same weights."""
    run(network, data, tmp_path / "a")
    other = dataclasses.replace(data, test=data.validation)
    run(network, other, tmp_path / "b")
    assert weights_of(tmp_path / "a") == weights_of(tmp_path / "b")


def test_the_same_seed_gives_the_same_weights_and_another_does_not(network, data, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(int.from_bytes(os.urandom(4), "big"))  # whatever else was drawn
        run(network, data, tmp_path / name, dataclasses.replace(RECIPE, seed=seed))
    a, b, c = (weights_of(tmp_path / name) for name in "abc")
    assert a == b != c


def test_global_random_state_and_mode_are_left_alone(network, data, tmp_path):
    model = network().eval()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    train(model, data, tmp_path, RECIPE, progress=False)
    assert torch.equal(torch.get_rng_state(), before) and not model.training


def test_every_part_keeps_its_own_mode(network, data, tmp_path):
    model = network().train()
    model[0].eval()  # as a frozen normalisation would be
    modes = [module.training for module in model.modules()]
    evaluate(model, data.test)
    assert [module.training for module in model.modules()] == modes
    train(model, data, tmp_path, dataclasses.replace(RECIPE, epochs=1), progress=False)
    assert [module.training for module in model.modules()] == modes


class Killed(Exception):
    pass


@pytest.fixture
def killing(monkeypatch):
    """Ends everything before the n-th file gets its final name, or right after."""

    def at(n, after):
        count, replace = 0, os.replace

        def replaced(*paths):
            nonlocal count
            count += 1
            if count == n and not after:
                raise Killed
            replace(*paths)
            if count == n:
                raise Killed

        monkeypatch.setattr(os, "replace", replaced)
        return lambda: monkeypatch.setattr(os, "replace", replace)

    return at


@pytest.fixture(scope="module")
def folder_of_one(tmp_path_factory):
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def uninterrupted(folder_of_one, network, data):
    """The folder of a training that nothing cut short; there is one for all tests."""
    if not names(folder_of_one):
        run(network, data, folder_of_one)
    return folder_of_one


@pytest.fixture
def at_batch(data, monkeypatch):
    """Does something before the n-th batch of training."""

    def at(n, act):
        batch, count = data.training.batch, itertools.count(1)

        def counted(*arguments):
            if next(count) == n:
                act()
            return batch(*arguments)

        monkeypatch.setattr(data.training, "batch", counted)

    return at


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("n", range(1, 15))
def test_killed_at_any_file_it_ends_with_the_same_weights(
    network, data, tmp_path, killing, uninterrupted, n, after
):
    restore = killing(n, after)
    try:
        run(network, data, tmp_path)
    except Killed:
        pass
    else:
        assert n == 14  # there are 13: run.json, 3 an epoch, weights, and 2 of the result
    restore()
    torch.manual_seed(n)
    result = run(network, data, tmp_path)
    assert weights_of(tmp_path) == weights_of(uninterrupted)
    assert names(tmp_path) == names(uninterrupted)  # nothing half-written stays
    assert len(result.epoch) == 3
    whole = TrainingResult.load(uninterrupted / "training")
    for name in ("training_loss", "validation_loss", "rate"):
        assert torch.equal(getattr(result, name), getattr(whole, name))


def test_two_trainings_in_one_folder_are_one_too_many(network, data, tmp_path):
    with claimed(tmp_path, Shard()):
        with pytest.raises(ValueError, match="another run is at work in"):
            run(network, data, tmp_path)
        assert names(tmp_path) == []
    run(network, data, tmp_path)


def damaged_best(folder):
    """Flip a bit of the best epoch, and take away what the end of a training writes."""
    records = [json.loads(path.read_text()) for path in folder.glob("epoch-*.json")]
    best = max(records, key=lambda row: (row["validation_accuracy"], -row["epoch"]))["epoch"]
    assert best < len(records)  # the last one is compared before it is gone on from
    for name in ("weights.safetensors", "training.npz", "training.json"):
        (folder / name).unlink()
    path = Checkpoints(folder).weights(best)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 64]) + whole[-8:])
    return path, whole


def test_a_damaged_best_epoch_is_not_chosen(network, data, tmp_path):
    recipe = dataclasses.replace(RECIPE, epochs=6)
    first = run(network, data, tmp_path, recipe)
    path, whole = damaged_best(tmp_path)
    message = rf"{path.name}' is damaged, and its validation error is the lowest: put a copy"
    with pytest.raises(ValueError, match=message):
        run(network, data, tmp_path, recipe)
    assert not (tmp_path / "weights.safetensors").exists()
    with pytest.raises(ValueError, match=f"{path.name}' is damaged"):
        Checkpoints(tmp_path).require_intact(first.best)
    path.write_bytes(whole)
    assert run(network, data, tmp_path, recipe).weights_sha256 == first.weights_sha256


def test_a_damaged_record_is_noticed(network, data, tmp_path):
    run(network, data, tmp_path)
    path = tmp_path / "epoch-0002.json"
    path.write_text(path.read_text().replace('"validation_accuracy": ', '"validation_accuracy": 1'))
    with pytest.raises(ValueError, match=r"epoch-0002\.json' is damaged"):
        run(network, data, tmp_path)


def test_a_folder_that_is_renamed_during_a_training(network, data, at_batch, tmp_path):
    run(network, data, tmp_path / "whole")
    at_batch(5, lambda: (tmp_path / "run").rename(tmp_path / "other"))  # in the second epoch of 3
    with pytest.raises(FileNotFoundError, match="run' was deleted or renamed during the run"):
        run(network, data, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run(network, data, tmp_path / "other")
    assert weights_of(tmp_path / "other") == weights_of(tmp_path / "whole")


def test_what_a_kill_left_half_written_is_removed(network, data, tmp_path):
    run(network, data, tmp_path)
    expected = names(tmp_path)
    (tmp_path / ".epoch-0004.0123abcd.safetensors").write_bytes(b"half")
    (tmp_path / "mine.txt").touch()
    run(network, data, tmp_path)
    assert names(tmp_path) == sorted([*expected, "mine.txt"])


def test_killed_inside_an_epoch(network, data, at_batch, tmp_path, uninterrupted):
    at_batch(5, mock.Mock(side_effect=Killed))  # in the second epoch of three batches
    with pytest.raises(Killed):
        run(network, data, tmp_path)
    run(network, data, tmp_path)
    assert weights_of(tmp_path) == weights_of(uninterrupted)


def test_a_run_that_has_ended_is_not_run_again(network, data, tmp_path):
    first = run(network, data, tmp_path)
    batch = data.training.batch

    def unvaried(indices, rng=None):
        assert rng is None  # as it is in training
        return batch(indices)

    data.training.batch = unvaried
    data.test.batch = None  # would fail if it were used
    model = network()
    second = train(model, data, tmp_path, RECIPE, progress=False)
    assert second.test_accuracy == first.test_accuracy
    shipped = load_file(tmp_path / "weights.safetensors")
    assert all(torch.equal(v, shipped[k]) for k, v in model.state_dict().items())


def test_more_epochs_go_on(network, data, tmp_path, uninterrupted):
    run(network, data, tmp_path, dataclasses.replace(RECIPE, epochs=1))
    result = run(network, data, tmp_path)
    assert len(result.epoch) == 3 and weights_of(tmp_path) == weights_of(uninterrupted)
    # The test part was read again, and the result says so.
    assert result.test_read == (1, 3) and result.reading == "read after 1 and 3 epochs"
    assert run(network, data, tmp_path).test_read == (1, 3)  # not by asking once more


def test_what_an_older_version_read_counts(network, data, tmp_path):
    """Its results do not say after how many epochs."""
    short = run(network, data, tmp_path, dataclasses.replace(RECIPE, epochs=1))
    assert short.test_read == (1,) and short.reading == "read once"
    path = tmp_path / "training.json"
    record = json.loads(path.read_text())
    del record["settings"]["test_read"], record["settings_sha256"]
    path.write_text(json.dumps(record))
    assert TrainingResult.load(tmp_path / "training").reading == "read at least once"
    result = run(network, data, tmp_path, dataclasses.replace(RECIPE, epochs=2))
    assert result.test_read == (1, 2)


@pytest.mark.parametrize("kind", ["epoch", "momentum"])
def test_a_damaged_file_costs_one_epoch(network, data, tmp_path, uninterrupted, kind):
    shutil.copytree(uninterrupted, tmp_path / "a")
    path = tmp_path / "a" / f"{kind}-0003.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.warns(UserWarning, match=f"epoch 3 cannot be .*{path.name}' is damaged"):
        run(network, data, tmp_path / "a")
    assert weights_of(tmp_path / "a") == weights_of(uninterrupted)


# --- what can be wrong ---------------------------------------------------------------------------


def test_another_recipe_is_refused_with_its_difference(network, data, tmp_path):
    run(network, data, tmp_path)
    other = dataclasses.replace(RECIPE, rate=0.5, seed=3)
    with pytest.raises(ValueError, match=r"other settings: rate 0.02 there, 0.5 here; seed"):
        run(network, data, tmp_path, other)
    smaller = dataclasses.replace(data, training=data.test)
    with pytest.raises(ValueError, match=r"pictures \[48, 15, 15\] there, \[15, 15, 15\] here"):
        run(network, smaller, tmp_path)


def test_checkpoint_of_another_architecture_is_refused(network, data, tmp_path):
    run(network, data, tmp_path)
    model = network(width=5)
    before = model[0].weight.clone()
    with pytest.raises(ValueError, match=r"0003\.safetensors' does not fit the model: wrong: 0\.w"):
        train(model, data, tmp_path, RECIPE, progress=False)
    assert torch.equal(model[0].weight, before)


def test_other_threads_are_told(network, data, tmp_path):
    run(network, data, tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    del record["checksum"]
    (tmp_path / "run.json").write_text(json.dumps({**record, "threads": 99}))
    with pytest.warns(UserWarning, match="begun with 99 threads and goes on with"):
        run(network, data, tmp_path)


@pytest.mark.parametrize("content", ["{}", "[1]", "no json"])
def test_a_broken_run_file(network, data, tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run\.json' cannot be read as the settings"):
        run(network, data, tmp_path)


def test_a_loss_that_explodes_is_told(network, data, tmp_path):
    with pytest.raises(
        ValueError, match=r"loss is not finite at step \d+ of epoch 1: the learning"
    ):
        run(network, data, tmp_path / "new", dataclasses.replace(RECIPE, rate=1e30))
    assert names(tmp_path) == []  # so that a lower rate is not refused there


def test_an_empty_part(network, data, tmp_path):
    empty = type(data.test)(
        data.test.images[:0], data.test.labels[:0], ("a",), data.test.preprocessing
    )
    with pytest.raises(ValueError, match="the test part is empty"):
        run(network, dataclasses.replace(data, test=empty), tmp_path)
    assert names(tmp_path) == []


def test_weights_that_explode_in_the_last_step_are_told(network, data, tmp_path, monkeypatch):
    """The loss of a step is taken before it."""

    def answers(model, examples, *_):
        logits, labels = evaluate(model, examples)
        return (logits * torch.nan if examples is data.validation else logits), labels

    monkeypatch.setattr("zfcuda.training.loop.evaluate", answers)
    with pytest.raises(ValueError, match="validation loss is not finite after epoch 1: the learn"):
        run(network, data, tmp_path)
    assert names(tmp_path) == []


def test_tensors_that_share_memory(network, data, tmp_path):
    """A layer under two names, and a buffer that is a view of weights."""

    def shared():
        model = nn.Sequential(network(), nn.Identity())
        model[1].same = model[0][0]
        model.register_buffer("first", model[0][0].weight.data[:1])
        return model

    result = run(shared, data, tmp_path)
    again = run(shared, data, tmp_path)
    assert again.weights_sha256 == result.weights_sha256


def test_killed_between_the_files_of_a_second_result(network, data, tmp_path, killing):
    """More epochs than before: the numbers are new, what describes them is still the old."""
    run(network, data, tmp_path, dataclasses.replace(RECIPE, epochs=1))
    restore = killing(2 * 3 + 2, after=True)  # 3 files an epoch, the weights, the numbers
    with pytest.raises(Killed):
        run(network, data, tmp_path)
    restore()
    with pytest.raises(ValueError, match="was not written together"):
        TrainingResult.load(tmp_path / "training")
    result = run(network, data, tmp_path)
    assert len(TrainingResult.load(tmp_path / "training").epoch) == len(result.epoch) == 3


@pytest.mark.parametrize("outputs", [2, 4])
def test_a_model_for_another_number_of_classes(network, data, tmp_path, outputs):
    model = network()
    model[-1] = nn.Linear(150, outputs)
    with pytest.raises(ValueError, match=rf"answers \[1, {outputs}\] .* 3 classes"):
        train(model, data, tmp_path, RECIPE, progress=False)
    assert names(tmp_path) == []


def test_other_data_of_the_same_size_are_refused(network, data, tmp_path):
    """Digits after letters: the same number of pictures and classes, and no names."""
    run(network, data, tmp_path)
    own = data.training
    other = type(own)(own.images, own.labels.flip(0), own.class_names, own.preprocessing)
    with pytest.raises(ValueError, match=r"other settings: the pictures' labels"):
        run(network, dataclasses.replace(data, training=other), tmp_path)


@pytest.mark.parametrize("seconds", [0.0, 10.0])
def test_a_long_evaluation_has_a_bar(network, data, capsys, monkeypatch, seconds):
    monkeypatch.setattr("zfcuda.training.loop._LONG", seconds)
    evaluate(network(), data.test, progress=True)
    assert ("evaluation" in capsys.readouterr().err) == (seconds == 0)
    evaluate(network(), data.test)
    assert capsys.readouterr().err == ""


def test_a_softmax_before_the_loss_is_told(network, data, tmp_path):
    with pytest.warns(UserWarning, match="answers with probabilities"):
        model = nn.Sequential(network(), nn.Softmax(1))
        train(model, data, tmp_path, Recipe(epochs=1, batch=16), progress=False)
