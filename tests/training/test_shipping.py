"""From a finished run to the package's data, and what ships."""

import torch

import zfcuda
from zfcuda import cli, data
from zfcuda.models import from_files
from zfcuda.models.weights import load_checked, read_state
from zfcuda.training import Checkpoints, TrainingResult


def test_packing_a_run(idx_folder, script, tmp_path, capsys):
    pack = script("pack_zfnet_small").pack
    folder, run, package = idx_folder(training=60, test=60), tmp_path / "run", tmp_path / "package"
    arguments = ["--data", str(folder), "--out", str(run), "--epochs", "3", "--threads", "1"]
    assert cli.main(["train", *arguments, "--quiet"]) == 0
    (package / "data").mkdir(parents=True)
    (package / "models").mkdir()
    pack(run, str(folder), package)
    pack(run, str(folder), package)  # replaces what is there
    assert "in float32" in capsys.readouterr().out
    result = TrainingResult.load(from_files.run_record(package))
    assert result.weights_sha256 == TrainingResult.load(run / "training").weights_sha256
    # The convolutions of the paper's epochs and the chosen one, under the network's own names.
    epochs = from_files.epochs(package)
    assert list(epochs) == sorted({1, 2, result.best})
    trunk = from_files.convolutions()
    load_checked(trunk, read_state(epochs[2]), "epoch 2")
    whole = read_state(Checkpoints(run).weights(2))
    assert torch.equal(trunk.conv5.weight, whole["conv5.weight"].half().float())
    assert trunk(torch.zeros(1, 3, 64, 64)).shape == (1, 96, 3, 3)
    weights = package / "models" / "zfnet_small.safetensors"
    assert zfcuda.models.load(weights).fc8.weight.dtype == torch.float32
    assert zfcuda.models.class_names(weights) == result.class_names


def test_garments_that_ship():
    pre = zfcuda.models.preprocessing("zfnet_small?weights=none")
    found = data.garments(pre)
    assert len(found.pictures) == 120 == len(found.numbers) == len(found.opacity)
    assert found.pictures.labels.bincount().tolist() == [12] * 10
    assert found.pictures.class_names[9] == "ankle boot"
    x, _ = found.pictures.batch(torch.arange(120))
    assert x.shape == (120, 3, 64, 64)
    # Where nothing is garment the picture is one colour; where all is, it is grey (rounded).
    images = found.pictures.images.float()
    spread = images.max(1).values - images.min(1).values
    assert (spread[found.opacity == 255] <= 1).all()
    for image, opacity in zip(images, found.opacity, strict=True):
        background = image[:, opacity == 0]
        assert (
            background.shape[1] > 100 and float((background - background[:, :1]).abs().max()) <= 1
        )
