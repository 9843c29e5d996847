"""`zfcuda train` as it is typed: killed, on a full disk, on wrong data."""

import json
import resource
import signal
import subprocess
import sys
import time

import torch
from sets import weights_of

import zfcuda
from zfcuda import cli, training
from zfcuda.training import Recipe, TrainingResult, checkpoints


def command(folder, out, *more):
    return ["train", "--data", str(folder), "--out", str(out), "--epochs", "3", "--batch", "16",
            "--threads", "1", "--quiet", *map(str, more)]  # fmt: skip


def test_it_writes_numbers_curves_and_weights(idx_folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(command(idx_folder(), out, "--plain")) == 0
    written = capsys.readouterr().out
    for name in ("training.npz", "training.json", "training.png"):
        assert str(out / name) in written and (out / name).stat().st_size > 0
    result = TrainingResult.load(out / "training")
    assert result.settings["data"] == "IDX files, black backgrounds"
    assert f"{result.test_accuracy:.2%} of the 12 test pictures, read once, are right" in written
    # The weights say what they are.
    path = out / "weights.safetensors"
    model = zfcuda.models.load(path)
    assert zfcuda.models.class_names(path) == ("class 0", "class 1", "class 2")
    pre = zfcuda.models.preprocessing(path)
    assert pre == zfcuda.models.preprocessing("zfnet_small?weights=none")
    assert model(torch.zeros(1, 3, pre.size, pre.size)).shape == (1, 3)
    assert isinstance(model.relu1, torch.nn.ReLU)  # a layer one can look at, not the fused pool


def test_pictures_that_cannot_be_read_are_counted(picture_folder, tmp_path, capsys):
    folder = picture_folder({"cat": 10, "dog": 10})
    (folder / "cat" / "3.png").write_bytes(b"broken")
    assert cli.main(command(folder, tmp_path / "out")) == 0
    captured = capsys.readouterr()
    assert (
        "could not be read and were skipped: 1." in captured.out and "3.png' is not" in captured.err
    )


def test_killed_and_called_again(idx_folder, tmp_path):
    folder, whole, cut = idx_folder(), tmp_path / "whole", tmp_path / "cut"
    assert cli.main(command(folder, whole)) == 0
    arguments = [sys.executable, "-m", "zfcuda", *command(folder, cut)]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    while not (cut / "epoch-0001.json").exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (cut / "weights.safetensors").exists()
    assert cli.main(command(folder, cut)) == 0
    assert weights_of(cut) == weights_of(whole)


def test_full_disk(idx_folder, tmp_path, capsys):
    """A limit on the size of files fails as a full disk does: in the middle of a write."""
    arguments, out = command(idx_folder(), tmp_path / "out"), tmp_path / "out"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        assert cli.main(arguments) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot write" in line and "epoch-0001.safetensors" in line
    assert not out.exists()
    assert cli.main(arguments) == 0 and (out / "weights.safetensors").exists()


def test_a_run_that_an_older_version_began_keeps_its_parts(picture_folder, tmp_path, capsys):
    """They were drawn from all pictures together; its run.json does not say so."""
    folder, out = picture_folder({"cat": 45, "dog": 5}), tmp_path / "out"
    assert cli.main([*command(folder, out), "--epochs", "1"]) == 0
    new = json.loads((out / "run.json").read_text())
    assert new["settings"]["drawn"] == "by class"

    old = tmp_path / "old"
    parts = zfcuda.data.image_folder(
        folder, zfcuda.models.preprocessing("zfnet_small?weights=none"), by_class=False
    )
    with checkpoints.training_run(old, "zfnet_small", parts, Recipe(epochs=1, batch=16)):
        pass
    record = json.loads((old / "run.json").read_text())
    del record["settings"]["drawn"], record["checksum"]
    (old / "run.json").write_text(json.dumps(record))
    assert cli.main([*command(folder, old), "--epochs", "1"]) == 0
    assert not training.draws_by_class(old) and training.draws_by_class(out)
    # Other parts into the same folder are refused.
    capsys.readouterr()
    record["settings"]["drawn"] = ""
    (old / "run.json").write_text(json.dumps(record))
    assert cli.main([*command(folder, old), "--epochs", "1"]) == 2
    assert "other settings: drawn none there, by class here. Go on" in capsys.readouterr().err


def test_some_of_the_pictures_and_evolve_of_other_classes(idx_folder, tmp_path):
    """evolve takes the network, with its number of classes, from what train wrote."""
    out = tmp_path / "out"
    assert cli.main([*command(idx_folder(), out), "--epochs", "1", "--limit", "16"]) == 0
    result = TrainingResult.load(out / "training")
    assert [*result.settings["pictures"]] == [16, 5, 12] and result.images.tolist() == [16]
    arguments = ["evolve", "--checkpoints", out, "--data", "garments", "--limit", 4, "--maps", 1]
    more = ["--layer", "relu1", "--out", tmp_path / "seen", "--device", "cpu", "--quiet"]
    assert cli.main([*map(str, [*arguments, *more])]) == 0
    found = zfcuda.experiments.evolution.EvolutionResult.load(tmp_path / "seen" / "evolution")
    assert found.checkpoints == ("1",)
