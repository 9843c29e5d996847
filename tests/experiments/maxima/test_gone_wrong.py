"""Runs over data sets where something is wrong, missing, left over, too much or said twice: said
before the first image, or survived."""

import itertools
import json
import resource

import pytest
import torch
from PIL import Image
from ranks import LAYERS, network, results
from small_runs import Faulty, Images
from torch import nn
from zoo import Model

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


def test_images_that_turn_into_nan_are_noticed(model, images):
    """None any more when they are read again."""
    reads = itertools.count(1)
    data = Images(images, lambda number: next(reads) == 10 and images.fill_(torch.nan))
    with pytest.warns(UserWarning, match="activations differ by inf"):
        result = top_activations(model, data, ["0", "2"], k=2, maps=1)
    assert result.difference == {"0": torch.inf, "2": torch.inf}


def test_what_else_lies_beside_the_states_stays(model, images, tmp_path):
    (tmp_path / "progress").mkdir()
    other = tmp_path / "progress" / ".nfs0001"
    other.write_bytes(b"of a file server")
    assert record_activations(tmp_path, model, images, "0", k=2, maps=1).count == 9
    assert other.exists()


SMALL = {"k": 2, "maps": 1, "batch": 3, "every": 3}


def flipped(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_a_damaged_state_is_said_and_computed_again(model, images, tmp_path):
    """A bit that safetensors cannot know of, and a page that never reached the disk."""

    def stop(number):
        if number == 7:
            raise KeyboardInterrupt

    whole = record_activations(tmp_path / "whole", model, Images(images), "0", **SMALL)
    for name, damage in (("bit", 1), ("page", 64)):
        run = tmp_path / name
        with pytest.raises(KeyboardInterrupt):
            record_activations(run, model, Images(images, stop), "0", **SMALL)
        (state,) = (run / "progress").glob("*.safetensors")
        flipped(state, -3)
        if damage > 1:
            state.write_bytes(state.read_bytes()[:-damage] + bytes(damage))
        with pytest.warns(UserWarning, match="does not count: it is damaged"):
            record_activations(run, model, Images(images), "0", **SMALL)
        assert results(run) == results(whole.folder)


@pytest.mark.parametrize("what", ["half of it", "a bit"])
def test_a_damaged_layer_is_made_again(model, images, tmp_path, monkeypatch, what):
    whole = record_activations(tmp_path / "whole", model, images, "0", **SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(recording._Run, "finish", lambda *_: pytest.fail("stopped"))
        with pytest.raises(pytest.fail.Exception):
            record_activations(tmp_path / "run", model, images, "0", **SMALL)
    (file,) = (tmp_path / "run" / "layers").iterdir()
    content = file.read_bytes()
    if what == "a bit":
        flipped(file, -3)
    else:
        file.write_bytes(content[: len(content) // 2])
    said = "is damaged: it is not what was written; it is made again"
    with pytest.warns(UserWarning, match=said if what == "a bit" else "is damaged: .*; it is made"):
        record_activations(tmp_path / "run", model, images, "0", **SMALL)
    assert file.read_bytes() == content == whole.layer("0").path.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="is damaged"):
        StoredActivations.open(tmp_path / "run").layer("0")


@pytest.mark.parametrize("name", ["index.csv", "layers/00-0.safetensors", "manifest.json"])
def test_what_was_damaged_after_the_end_is_noticed(model, images, tmp_path, name):
    stored = record_activations(tmp_path, model, images, "0", **SMALL)
    whole = results(tmp_path)
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
        assert results(tmp_path) == whole
    else:
        assert name == "manifest.json"


def test_a_block_without_a_readable_image_is_tried_again(model, images, tmp_path, monkeypatch):
    whole = record_activations(tmp_path / "whole", model, Images(images), "0", **SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(recording._Run, "project", lambda *_: pytest.fail("stopped"))
        with pytest.raises(pytest.fail.Exception):
            bad = Faulty(images, (3, 4, 5))
            record_activations(tmp_path / "run", model, bad, "0", **SMALL)
    assert record_activations(tmp_path / "run", model, Images(images), "0", **SMALL).skipped == []
    assert results(tmp_path / "run") == results(whole.folder)


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


def test_images_of_a_dataset_that_cannot_be_read(model, images, tmp_path):
    stored = record_activations(tmp_path, model, Faulty(images, (0, 5)), "2", k=9, maps=1, batch=4)
    assert [one["image"] for one in stored.skipped] == [0, 5]
    assert stored.skipped[1]["problem"] == "image 5 cannot be read: truncated file 5"
    assert {*stored.layer("2").images.flatten().tolist()} == {-1, 1, 2, 3, 4, 6, 7, 8}


def test_a_state_dict_may_hold_more_than_tensors():
    class Own(nn.Module):
        def __init__(self, settings):
            super().__init__()
            self.settings = settings

        def get_extra_state(self):
            return self.settings

    digests = [weights_digest(Own({"alpha": alpha})) for alpha in (0.1, 0.1, 0.2)]
    assert digests[0] == digests[1] != digests[2]


# --- left over, too much, or said twice -----------------------------------------------------------

QUICK = {"k": 4, "maps": 3, "batch": 8}


@pytest.fixture
def many():
    return torch.randn(21, 3, 14, 12)


def test_no_image_can_be_read(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for path in paths[:4]:
        path.write_bytes(b"\x89PNG not really")
    files = ImageFiles(paths, Preprocessing(size=10, resize=None))
    message = r"none of the 5 images can be read; the last: '.*4\.png' does not exist"
    with pytest.raises(ValueError, match=message):
        record_activations(tmp_path / "run", network(), files, LAYERS, batch=2)
    with pytest.raises(ValueError, match=message):
        top_activations(network(), files, LAYERS)
    assert not (tmp_path / "run").exists()
    Image.new("RGB", (12, 12), "red").save(paths[4])
    stored = record_activations(tmp_path / "run", network(), files, LAYERS, batch=2)
    assert stored.count == 1 and len(stored.skipped) == 4


def test_more_wanted_than_there_is(many, tmp_path):
    stored = record_activations(tmp_path, network(), many[:3], LAYERS, k=5, maps=2)
    for name in LAYERS:
        layer = stored.layer(name)
        assert (layer.images[:, :3] >= 0).all() and (layer.images[:, 3:] == -1).all()
        assert layer.values[:, 3:].isneginf().all()
        assert not layer.pictures()[0][:, 3:].any()
    assert len(stored.index.read_text().splitlines()) == 1 + 3 * (6 + 5)


@pytest.mark.parametrize(("limit", "named"), [(500, "progress"), (8_000, "01-4.safetensors")])
def test_a_full_disk(many, tmp_path, limit, named):
    """A limit on the size of files fails as a full disk does: in the middle of a write."""
    whole = record_activations(tmp_path / "whole", network(), many, LAYERS, **QUICK)
    run = tmp_path / "run"
    run.mkdir()
    begun = {"complete": False, "settings": whole.manifest["settings"], "about": {}}
    (run / "manifest.json").write_text(json.dumps(begun))  # larger than a limit may be
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match=f"cannot write '.*{named}.*File too large"):
            record_activations(run, network(), many, LAYERS, **QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [path for path in run.rglob(".*") if path.name != ".lock"]
    record_activations(run, network(), many, LAYERS, **QUICK)
    assert results(run) == results(whole.folder)


def test_a_run_goes_on_with_the_threads_it_was_begun_with(many, tmp_path):
    model, seen = network(), []
    model[0].register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    torch.set_num_threads(2)
    record_activations(tmp_path, model, many, LAYERS, **QUICK)
    for path in tmp_path.glob("layers/*"):
        path.unlink()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["threads"] == 2
    del manifest["checksum"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"complete": False}))
    torch.set_num_threads(1)
    seen.clear()
    record_activations(tmp_path, model, many, LAYERS, **QUICK)
    assert seen.count(2) >= 3, "three blocks"
    assert torch.get_num_threads() == 1


def test_models_may_work_in_place_and_workers_change_nothing(tmp_path):
    in_place = Model(lambda m, x: m.first(x.mul_(2)), first=network())
    paths = [tmp_path / f"{number:02d}.png" for number in range(11)]
    for number, path in enumerate(paths):
        Image.effect_noise((12, 14), 10 * number).convert("RGB").save(path)
    found = []
    for workers in (0, 2):
        files = ImageFiles(paths, Preprocessing(size=12, resize=None), workers=workers)
        stored = record_activations(
            tmp_path / str(workers), in_place, files, ["first.1"], k=3, maps=2, batch=4
        )
        found.append(results(stored.folder))
    assert found[0] == found[1]
    images = files.block(range(11)).images
    before = images.clone()
    top = top_activations(in_place, images, ["first.1"], k=3, maps=2)
    assert torch.equal(images, before), "the user's own tensor"
    torch.testing.assert_close(top.values["first.1"], stored.layer("first.1").values)
    doubled = top_activations(network(), images * 2, ["1"], k=3, maps=2)
    torch.testing.assert_close(top.values["first.1"], doubled.values["1"])
