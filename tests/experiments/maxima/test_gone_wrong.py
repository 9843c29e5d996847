"""Runs over data sets in which something is wrong: said before the first image, or survived."""

import json

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from zfcuda.data import Preprocessing
from zfcuda.data.images import ImageFiles
from zfcuda.experiments.maxima import projecting, recording
from zfcuda.experiments.maxima.finding import top_activations
from zfcuda.experiments.maxima.recording import record_activations
from zfcuda.experiments.maxima.scanning import Spotter
from zfcuda.results.stored import StoredActivations
from zfcuda.storage.identity import weights_digest


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


SMALL = {"k": 2, "maps": 1, "batch": 3, "every": 3}


class Stopping(Dataset):
    """Images, of which some cannot be read; ``stop`` ends the run when it is read."""

    def __init__(self, images, stop=None, bad=()):
        self.images, self.stop, self.bad = images, stop, bad

    def __len__(self):
        return len(self.images)

    def __getitem__(self, number):
        if number == self.stop:
            raise KeyboardInterrupt
        if number in self.bad:
            raise OSError("gone")
        return self.images[number]


def content_of(folder):
    return {p.name: p.read_bytes() for p in (*folder.glob("layers/*"), folder / "index.csv")}


def flipped(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_a_damaged_state_is_said_and_computed_again(model, images, tmp_path):
    """A bit that safetensors cannot know of, and a page that never reached the disk."""
    whole = record_activations(tmp_path / "whole", model, Stopping(images), "0", **SMALL)
    for name, damage in (("bit", 1), ("page", 64)):
        run = tmp_path / name
        with pytest.raises(KeyboardInterrupt):
            record_activations(run, model, Stopping(images, 7), "0", **SMALL)
        (state,) = (run / "progress").glob("*.safetensors")
        flipped(state, -3)
        if damage > 1:
            state.write_bytes(state.read_bytes()[:-damage] + bytes(damage))
        with pytest.warns(UserWarning, match="does not count: it is damaged"):
            record_activations(run, model, Stopping(images), "0", **SMALL)
        assert content_of(run) == content_of(whole.folder)


def test_a_layer_that_was_damaged_before_the_end_is_made_again(
    model, images, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(recording._Run, "finish", lambda *_: pytest.fail("stopped"))
        with pytest.raises(pytest.fail.Exception):
            record_activations(tmp_path, model, images, "0", **SMALL)
    (file,) = (tmp_path / "layers").iterdir()
    content = file.read_bytes()
    flipped(file, -3)
    with pytest.warns(UserWarning, match="is damaged: it is not what was written; it is made"):
        record_activations(tmp_path, model, images, "0", **SMALL)
    assert file.read_bytes() == content


@pytest.mark.parametrize("name", ["index.csv", "layers/00-0.safetensors", "manifest.json"])
def test_what_was_damaged_after_the_end_is_noticed(model, images, tmp_path, name):
    stored = record_activations(tmp_path, model, images, "0", **SMALL)
    whole = content_of(tmp_path)
    StoredActivations.open(tmp_path, verify=True)
    flipped(stored.folder / name, -9 if name != "manifest.json" else -30)
    verify = name.startswith("layers")
    if verify:
        StoredActivations.open(tmp_path)
    with pytest.raises(ValueError, match=f"{name}' is (damaged|not JSON)") as error:
        StoredActivations.open(tmp_path, verify)
    if "delete it and start the same run again" in str(error.value):  # as it says
        (tmp_path / name).unlink()
        with pytest.raises(ValueError, match="is missing: start the same run again"):
            StoredActivations.open(tmp_path, verify=True)
        record_activations(tmp_path, model, images, "0", **SMALL)
        StoredActivations.open(tmp_path, verify=True)
        assert content_of(tmp_path) == whole
    else:
        assert name == "manifest.json"


def test_a_folder_that_is_renamed_or_deleted_during_a_run(model, images, tmp_path):
    class Renaming(Stopping):
        def __getitem__(self, number):
            if number == 5 and (tmp_path / "run").exists():
                (tmp_path / "run").rename(tmp_path / "other")
            return self.images[number]

    whole = record_activations(tmp_path / "whole", model, Stopping(images), "0", **SMALL)
    with pytest.raises(FileNotFoundError, match=r"run' was deleted or renamed during the run"):
        record_activations(tmp_path / "run", model, Renaming(images), "0", **SMALL)
    assert not (tmp_path / "run").exists()
    record_activations(tmp_path / "other", model, Stopping(images), "0", **SMALL)
    assert content_of(tmp_path / "other") == content_of(whole.folder)


def test_a_run_without_a_readable_image_is_not_complete(model, images, tmp_path):
    whole = record_activations(tmp_path / "whole", model, Stopping(images), "0", **SMALL)
    data = Stopping(images)

    class Vanishing(Stopping):
        left = 2 + 3  # identity and example

        def __getitem__(self, number):
            self.left -= 1
            if self.left < 0:
                raise OSError("gone")
            return self.images[number]

    with pytest.raises(ValueError, match="none of the 9 images can be read; the last: image 8"):
        record_activations(tmp_path / "run", model, Vanishing(images), "0", **SMALL)
    assert record_activations(tmp_path / "run", model, data, "0", **SMALL).count == 9
    assert content_of(tmp_path / "run") == content_of(whole.folder)


def test_a_block_without_a_readable_image_is_tried_again(model, images, tmp_path, monkeypatch):
    whole = record_activations(tmp_path / "whole", model, Stopping(images), "0", **SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(recording._Run, "project", lambda *_: pytest.fail("stopped"))
        with pytest.raises(pytest.fail.Exception):
            bad = Stopping(images, bad=(3, 4, 5))
            record_activations(tmp_path / "run", model, bad, "0", **SMALL)
    assert record_activations(tmp_path / "run", model, Stopping(images), "0", **SMALL).skipped == []
    assert content_of(tmp_path / "run") == content_of(whole.folder)


def test_versions_of_torch_are_told_apart_by_their_build(model, images, tmp_path, monkeypatch):
    here = torch.torch_version.TorchVersion("2.13.0+cu130")
    monkeypatch.setattr(torch, "__version__", here)
    stored = record_activations(tmp_path, model, images, "0", **SMALL)
    assert stored.manifest["versions"]["torch"] == "2.13.0+cu130"
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.13.0+cpu"))
    with pytest.raises(ValueError, match=r"other settings: versions"):
        record_activations(tmp_path, model, images, "0", **SMALL)
    # As 0.1.0 wrote it with PyPI's torch.
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    del manifest["checksum"]
    manifest["settings"]["versions"]["torch"] = "2.13.0"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    for version in ("2.13.0+cpu", "2.13.0+cu130", "2.13.0"):
        monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion(version))
        record_activations(tmp_path, model, images, "0", **SMALL)
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.14.0+cpu"))
    with pytest.raises(ValueError, match=r"other settings: versions"):
        record_activations(tmp_path, model, images, "0", **SMALL)


def test_other_roundings_are_another_run(model, images, tmp_path):
    record_activations(tmp_path, model, images, "0", k=2, maps=1)
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(ValueError, match=r"other settings: autocast off there, bfloat16 here"),
    ):
        record_activations(tmp_path, model, images, "0", k=2, maps=1)


def test_files_of_other_contents_are_other_images(model, tmp_path):
    paths = [tmp_path / name for name in ("a.png", "b.png")]
    for number, path in enumerate(paths):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(path)
    files = ImageFiles(paths, Preprocessing(size=9, resize=None))
    record_activations(tmp_path / "run", model, files, "0", k=2, maps=1)
    before = files.digest()
    Image.effect_noise((9, 9), 50).convert("RGB").save(paths[1])
    assert files.digest() != before
    with pytest.raises(ValueError, match="the images' contents "):
        record_activations(tmp_path / "run", model, files, "0", k=2, maps=1)
    paths[1].unlink()
    assert files.digest() != before


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
    with pytest.raises(ValueError, match=r"versions torch .* 1\.0 here"):
        record_activations(tmp_path, model, images, "2", k=2, maps=1)
