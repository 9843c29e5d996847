"""Runs over data sets in which something is wrong: said before the first image, or survived."""

import json

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from zfcuda._identity import weights_digest
from zfcuda._sources import Files
from zfcuda.data import Preprocessing
from zfcuda.maxima import (
    StoredActivations,
    projecting,
    record_activations,
    recording,
    top_activations,
)
from zfcuda.maxima.scanning import Spotter


@pytest.fixture
def model():
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3)).eval()


@pytest.fixture
def images():
    return torch.randn(9, 3, 8, 7)


@pytest.mark.parametrize("maps", [[5], -1, True, "some", 2.5, {"2": 1}])
def test_maps_that_are_none_are_found_before_the_pass(model, images, tmp_path, monkeypatch, maps):
    monkeypatch.setattr(Spotter, "take", lambda *_: pytest.fail("images were looked through"))
    for run in (
        lambda: top_activations(model, images, ["0", "2"], maps=maps),
        lambda: record_activations(tmp_path / "run", model, images, ["0", "2"], maps=maps),
    ):
        with pytest.raises(ValueError, match=r"maps (must be|name the layers)"):
            run()
    assert not (tmp_path / "run").exists()


def test_a_difference_that_is_no_number_warns_and_ends(model, images, tmp_path, monkeypatch):
    found = iter([0.0, torch.inf])
    monkeypatch.setattr(projecting, "difference", lambda *_: next(found))
    with pytest.warns(UserWarning, match="layer '2': activations differ by inf"):
        stored = record_activations(tmp_path, model, images, ["0", "2"], k=2, maps=1)
    manifest = json.loads((tmp_path / "manifest.json").read_text(), parse_constant=pytest.fail)
    assert [about["difference"] for about in manifest["layers"]] == [0.0, None]
    assert stored.result().difference == {"0": 0.0, "2": torch.inf}


class NaNLater(Dataset):
    """Images that are none any more when they are read again."""

    def __init__(self, images):
        self.images, self.reads = images, 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.reads += 1
        return self.images[index] * (torch.nan if self.reads > len(self) else 1.0)


def test_images_that_turn_into_nan_are_noticed(model, images):
    with pytest.warns(UserWarning, match="activations differ by inf"):
        result = top_activations(model, NaNLater(images), ["0", "2"], k=2, maps=1)
    assert result.difference == {"0": torch.inf, "2": torch.inf}


def test_what_else_lies_beside_the_states_stays(model, images, tmp_path):
    (tmp_path / "progress").mkdir()
    other = tmp_path / "progress" / ".nfs0001"
    other.write_bytes(b"of a file server")
    assert record_activations(tmp_path, model, images, "0", k=2, maps=1).count == 9
    assert other.exists()


def test_a_damaged_layer_is_made_again(model, images, tmp_path, monkeypatch):
    whole = record_activations(tmp_path / "whole", model, images, "0", k=2, maps=1)
    with monkeypatch.context() as patch:
        patch.setattr(recording._Run, "finish", lambda *_: pytest.fail("stopped"))
        with pytest.raises(pytest.fail.Exception):
            record_activations(tmp_path / "run", model, images, "0", k=2, maps=1)
    (file,) = (tmp_path / "run" / "layers").iterdir()
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match="is damaged: .*; it is made again"):
        record_activations(tmp_path / "run", model, images, "0", k=2, maps=1)
    assert file.read_bytes() == content == whole.layer("0").path.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="is damaged"):
        StoredActivations.open(tmp_path / "run").layer("0")


def test_other_roundings_are_another_run(model, images, tmp_path):
    record_activations(tmp_path, model, images, "0", k=2, maps=1)
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(ValueError, match=r"another run .*autocast 'bfloat16' instead of 'off'"),
    ):
        record_activations(tmp_path, model, images, "0", k=2, maps=1)


def test_files_of_other_contents_are_other_images(model, tmp_path):
    paths = [tmp_path / name for name in ("a.png", "b.png")]
    for number, path in enumerate(paths):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(path)
    files = Files(paths, Preprocessing(size=9, resize=None))
    record_activations(tmp_path / "run", model, files, "0", k=2, maps=1)
    before = files.identity()
    Image.effect_noise((9, 9), 50).convert("RGB").save(paths[1])
    assert files.identity() != before
    with pytest.raises(ValueError, match=r"another run .*images_sha256"):
        record_activations(tmp_path / "run", model, files, "0", k=2, maps=1)
    paths[1].unlink()
    assert files.identity() != before


class Broken(Dataset):
    def __init__(self, images, broken):
        self.images, self.broken = images, broken

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if index in self.broken:
            raise OSError("truncated")
        return self.images[index], 0


def test_images_of_a_dataset_that_cannot_be_read(model, images, tmp_path):
    stored = record_activations(tmp_path, model, Broken(images, {0, 5}), "2", k=9, maps=1, batch=4)
    assert [one["image"] for one in stored.skipped] == [0, 5]
    assert stored.skipped[1]["problem"] == "image 5 cannot be read: truncated"
    assert {*stored.layer("2").images.flatten().tolist()} == {-1, 1, 2, 3, 4, 6, 7, 8}


def test_no_image_that_can_be_read(model, images, tmp_path):
    with pytest.raises(ValueError, match=r"images can be read; the last: image 8 .*truncated"):
        record_activations(tmp_path, model, Broken(images, range(9)), "2")


def test_a_state_dict_may_hold_more_than_tensors():
    class Own(nn.Module):
        def __init__(self, settings):
            super().__init__()
            self.settings = settings

        def get_extra_state(self):
            return self.settings

    digests = [weights_digest(Own({"alpha": alpha})) for alpha in (0.1, 0.1, 0.2)]
    assert digests[0] == digests[1] != digests[2]


def test_another_torch_is_another_run(model, images, tmp_path, monkeypatch):
    """Its convolutions round differently."""
    record_activations(tmp_path, model, images, "2", k=2, maps=1)
    monkeypatch.setattr(recording, "versions", lambda *names: {"torch": "1.0"})
    with pytest.raises(ValueError, match=r"another run \(versions .*'1\.0'"):
        record_activations(tmp_path, model, images, "2", k=2, maps=1)
