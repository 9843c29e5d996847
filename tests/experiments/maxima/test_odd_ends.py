"""Runs over data sets where something is missing, left over, too much, or said twice."""

import json
import resource

import pytest
import torch
from PIL import Image
from ranks import LAYERS, network

from zfcuda.data import Preprocessing
from zfcuda.data.images import ImageFiles
from zfcuda.experiments.maxima.finding import top_activations
from zfcuda.experiments.maxima.recording import record_activations

QUICK = {"k": 4, "maps": 3, "batch": 8}


@pytest.fixture
def images():
    return torch.randn(21, 3, 14, 12)


def results(folder):
    files = [*folder.glob("layers/*"), folder / "index.csv"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


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


def test_more_wanted_than_there_is(images, tmp_path):
    stored = record_activations(tmp_path, network(), images[:3], LAYERS, k=5, maps=2)
    for name in LAYERS:
        layer = stored.layer(name)
        assert (layer.images[:, :3] >= 0).all() and (layer.images[:, 3:] == -1).all()
        assert layer.values[:, 3:].isneginf().all()
        assert not layer.pictures()[0][:, 3:].any()
    assert len(stored.index.read_text().splitlines()) == 1 + 3 * (6 + 5)


def test_a_layer_named_twice_is_one(images, tmp_path):
    once = record_activations(tmp_path / "once", network(), images, "4", **QUICK)
    twice = record_activations(tmp_path / "twice", network(), images, ["4", "4"], **QUICK)
    assert twice.layers == ("4",) and results(twice.folder) == results(once.folder)
    record_activations(tmp_path / "once", network(), images, ["4", "4"], **QUICK)


def test_a_run_of_other_code_is_refused(images, tmp_path):
    """Settings that were not known then, and ones that are not known any more."""
    record_activations(tmp_path, network(), images, LAYERS, **QUICK)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["settings"]["together"], manifest["checksum"]
    manifest["settings"]["stride"] = 2
    path.write_text(json.dumps(manifest))
    message = r"other settings: stride 2 there, none here. Go on"
    with pytest.raises(ValueError, match=message):
        record_activations(tmp_path, network(), images, LAYERS, **QUICK)
    manifest["settings"] = "none"
    path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"manifest\.json' cannot be read as the settings"):
        record_activations(tmp_path, network(), images, LAYERS, **QUICK)


def test_layers_of_nobody_knows_which_run_are_not_taken_over(images, tmp_path):
    record_activations(tmp_path, network(), images, LAYERS, **QUICK)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"holds 00-1\.safetensors of a run, but not its manifest"):
        record_activations(tmp_path, network(), images + 1, LAYERS, **QUICK)
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize(("limit", "named"), [(500, "progress"), (8_000, "01-4.safetensors")])
def test_a_full_disk(images, tmp_path, limit, named):
    """A limit on the size of files fails as a full disk does: in the middle of a write."""
    whole = record_activations(tmp_path / "whole", network(), images, LAYERS, **QUICK)
    run = tmp_path / "run"
    run.mkdir()
    begun = {"complete": False, "settings": whole.manifest["settings"], "about": {}}
    (run / "manifest.json").write_text(json.dumps(begun))  # larger than a limit may be
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match=f"cannot write '.*{named}.*File too large"):
            record_activations(run, network(), images, LAYERS, **QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [path for path in run.rglob(".*") if path.name != ".lock"]
    record_activations(run, network(), images, LAYERS, **QUICK)
    assert results(run) == results(whole.folder)


def test_a_run_goes_on_with_the_threads_it_was_begun_with(images, tmp_path):
    model, seen = network(), []
    model[0].register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    torch.set_num_threads(2)
    record_activations(tmp_path, model, images, LAYERS, **QUICK)
    for path in tmp_path.glob("layers/*"):
        path.unlink()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["threads"] == 2
    del manifest["checksum"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"complete": False}))
    torch.set_num_threads(1)
    seen.clear()
    record_activations(tmp_path, model, images, LAYERS, **QUICK)
    assert seen.count(2) >= 3, "three blocks"
    assert torch.get_num_threads() == 1


class InPlace(torch.nn.Module):
    """Overwrites what it is given."""

    def __init__(self):
        super().__init__()
        self.first = network()

    def forward(self, x):
        return self.first(x.mul_(2))


def test_models_may_work_in_place_and_workers_change_nothing(tmp_path):
    paths = [tmp_path / f"{number:02d}.png" for number in range(11)]
    for number, path in enumerate(paths):
        Image.effect_noise((12, 14), 10 * number).convert("RGB").save(path)
    found = []
    for workers in (0, 2):
        files = ImageFiles(paths, Preprocessing(size=12, resize=None), workers=workers)
        stored = record_activations(
            tmp_path / str(workers), InPlace(), files, ["first.1"], k=3, maps=2, batch=4
        )
        found.append(results(stored.folder))
    assert found[0] == found[1]
    images = files.block(range(11)).images
    before = images.clone()
    top = top_activations(InPlace(), images, ["first.1"], k=3, maps=2)
    assert torch.equal(images, before), "the user's own tensor"
    torch.testing.assert_close(top.values["first.1"], stored.layer("first.1").values)
    doubled = top_activations(network(), images * 2, ["1"], k=3, maps=2)
    torch.testing.assert_close(top.values["first.1"], doubled.values["1"])
