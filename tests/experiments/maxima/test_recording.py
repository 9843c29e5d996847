"""A run over a data set in a folder: what it writes, and that nothing undoes it."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from ranks import LAYERS, network, results
from safetensors import safe_open
from torch.utils.data import TensorDataset

import zfcuda
from zfcuda import StoredActivations
from zfcuda.data import Preprocessing
from zfcuda.data.images import ImageFiles
from zfcuda.experiments.maxima import recording
from zfcuda.experiments.maxima.finding import top_activations
from zfcuda.experiments.maxima.recording import record_activations


@pytest.fixture
def model():
    return network()


@pytest.fixture
def images():
    return torch.randn(53, 3, 14, 12)


QUICK = {"k": 4, "maps": 3, "batch": 8}


def test_as_in_memory(model, images, tmp_path):
    stored = record_activations(tmp_path / "run", model, images, LAYERS, **QUICK)
    plain = top_activations(model, images, LAYERS, **QUICK)
    result = stored.result()
    assert result.layers == stored.layers == ("1", "4") and result.count == stored.count == 53
    assert stored.k == result.k == 4 and stored.skipped == []
    for name in ("values", "images", "positions", "channels", "boxes", "patches"):
        for layer in LAYERS:
            assert torch.equal(getattr(result, name)[layer], getattr(plain, name)[layer]), name
    for layer in LAYERS:
        torch.testing.assert_close(result.projections[layer], plain.projections[layer])
        assert result.difference[layer] < 1e-6
    some = stored.layer("4").pictures(slice(1, 2))
    assert torch.equal(some[0], result.projections["4"][1:2])
    assert not [*(tmp_path / "run").glob("progress")]


def test_index_and_manifest(model, images, tmp_path):
    stored = record_activations(
        tmp_path, model, images, LAYERS, **QUICK, about={"model": "of a test"}
    )
    with stored.index.open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert len(rows) == (6 + 5) * 4
    layer = stored.layer("4")
    for row in (row for row in rows if row["layer"] == "4"):
        channel, rank = int(row["map"]), int(row["rank"]) - 1
        assert int(row["image"]) == layer.images[channel, rank]
        assert float(row["value"]) == layer.values[channel, rank].double()
        place = [int(row["row"]), int(row["column"])]
        assert place == layer.positions[channel, rank].tolist()
        box = [row[name] for name in ("y0", "x0", "y1", "x1")]
        if channel in layer.channels:
            at = layer.channels.tolist().index(channel)
            assert [*map(int, box)] == layer.boxes[at, rank].tolist()
        else:
            assert box == [""] * 4
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["complete"] and manifest["about"] == {"model": "of a test"}
    assert manifest["rates"]["images"] == 53 and manifest["rates"]["images_per_second"] > 0
    about = manifest["layers"][1]
    assert about["projected"] == 3 and about["window"] == [8, 8]
    assert about["bytes"] == (tmp_path / about["file"]).stat().st_size
    with safe_open(tmp_path / about["file"], "pt") as file:
        assert file.metadata() == {"layer": "4"}


def test_pandas_opens_the_index(model, images, tmp_path):
    pandas = pytest.importorskip("pandas")
    stored = record_activations(tmp_path, model, images, LAYERS, **QUICK)
    table = pandas.read_csv(stored.index, dtype={"layer": str})
    assert len(table) == 44 and table["value"].is_monotonic_decreasing is False
    assert (table.groupby(["layer", "map"])["value"].diff().dropna() <= 0).all()


class Stop(Exception):
    pass


@pytest.mark.parametrize("after", [0, 1, 5, 7])
def test_interrupted_anywhere(model, images, tmp_path, monkeypatch, after):
    """The run is stopped after any block, and goes on to the same bytes."""
    whole = record_activations(tmp_path / "whole", model, images, LAYERS, **QUICK)
    save, left = recording.Progress.save, [after]

    def stopping(self, *arguments):
        if not left[0]:
            raise Stop
        left[0] -= 1
        save(self, *arguments)

    arguments = (tmp_path / "run", model, images, LAYERS)
    with monkeypatch.context() as patch:
        patch.setattr(recording.Progress, "save", stopping)
        with pytest.raises(Stop):
            record_activations(*arguments, **QUICK, every=8)
    seen, take = [], recording.Spotter.take
    monkeypatch.setattr(
        recording.Spotter, "take", lambda self, *a: (seen.append(a[2]), take(self, *a))[1]
    )
    stored = record_activations(*arguments, **QUICK, every=8)
    assert results(stored.folder) == results(whole.folder)
    assert seen == [8 * block for block in range(min(after, 7), 7)], "what was done stays done"


def test_interrupted_between_layers(model, images, tmp_path, monkeypatch):
    whole = record_activations(tmp_path / "whole", model, images, LAYERS, **QUICK)
    project, calls = recording.project_layer, []

    def stopping(path, *arguments):
        calls.append(path.name)
        if len(calls) == 2:
            raise Stop
        project(path, *arguments)

    monkeypatch.setattr(recording, "project_layer", stopping)
    with pytest.raises(Stop):
        record_activations(tmp_path / "run", model, images, LAYERS, **QUICK)
    with pytest.raises(ValueError, match="is not done"):
        zfcuda.StoredActivations.open(tmp_path / "run")
    first = (tmp_path / "run" / "layers" / calls[0]).stat().st_mtime_ns
    monkeypatch.setattr(recording, "project_layer", project)
    stored = record_activations(tmp_path / "run", model, images, LAYERS, **QUICK)
    assert (stored.folder / "layers" / calls[0]).stat().st_mtime_ns == first
    assert results(stored.folder) == results(whole.folder)


def test_a_kill_while_states_are_merged(model, images, tmp_path, monkeypatch):
    """A state and those it was made of are both there: each block counts once."""
    whole = record_activations(tmp_path / "whole", model, images, LAYERS, **QUICK)
    run = tmp_path / "run"
    arguments = (run, model, images, LAYERS)
    monkeypatch.setattr(recording._Run, "project", lambda *a: (_ for _ in ()).throw(Stop))
    with pytest.raises(Stop):
        record_activations(*arguments, **QUICK)
    (state,) = (run / "progress").iterdir()
    other = state.with_name("0000-of-another.safetensors")
    other.write_bytes(state.read_bytes())  # as an orphan would leave it
    (run / "progress" / "fff-damaged.safetensors").write_bytes(state.read_bytes()[:-9])
    monkeypatch.undo()
    with pytest.warns(UserWarning, match="damaged.*does not count"):
        stored = record_activations(*arguments, **QUICK)
    assert results(stored.folder) == results(whole.folder)


def test_what_killed_writers_left_is_deleted(model, images, tmp_path, monkeypatch):
    (tmp_path / "progress").mkdir()
    (tmp_path / "layers").mkdir()
    left = ["progress/.a.0123abcd.safetensors", "layers/.00-1.89abcdef.safetensors"]
    for name in left:
        (tmp_path / name).write_bytes(b"half of")
    (tmp_path / ".profile").write_text("of another")
    stored = record_activations(tmp_path, model, images, LAYERS, **QUICK)
    assert not any((tmp_path / name).exists() for name in left)
    assert (tmp_path / ".profile").exists()
    assert len([*stored.folder.glob("layers/*")]) == 2


@pytest.fixture
def files(tmp_path):
    """Eleven pictures, the first and two more of which cannot be read."""
    folder = tmp_path / "photos"
    folder.mkdir()
    paths = [folder / f"{i:02d}.png" for i in range(11)]
    for i, path in enumerate(paths):
        pixels = np.random.default_rng(i).integers(0, 255, (14, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    for broken in (0, 6, 7):
        paths[broken].write_bytes(b"\x89PNG not really")
    return ImageFiles(paths, Preprocessing(size=10, resize=None))


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_cannot_be_read(model, files, tmp_path, workers):
    files.workers = workers
    stored = record_activations(tmp_path / "run", model, files, LAYERS, k=9, maps=2, batch=2)
    assert stored.count == 8 and [one["image"] for one in stored.skipped] == [0, 6, 7]
    assert stored.skipped[1]["name"] == "06.png" and "06.png" in stored.skipped[1]["problem"]
    found = set(stored.layer("4").images.flatten().tolist())
    assert found == {-1, 1, 2, 3, 4, 5, 8, 9, 10}
    names = {row.split(",")[4] for row in stored.index.read_text().splitlines()[1:]}
    assert names == {f"{i:02d}.png" for i in found - {-1}}
    whole = top_activations(model, files, LAYERS, k=9, maps=2)
    assert whole.count == 8 and torch.equal(whole.patches["4"], stored.result().patches["4"])


def test_neighbours_that_cannot_be_read_change_nothing(model, tmp_path):
    """An image's values do not depend on whether another of its block is there."""
    images = torch.randn(12, 3, 14, 12)

    class Some(ImageFiles):
        def __init__(self, gone):
            super().__init__([f"{i}.png" for i in range(12)], Preprocessing(size=10))
            self.gone = gone

        def read(self, number):
            if number in self.gone:
                raise ValueError("gone")
            return images[number]

    a = record_activations(tmp_path / "a", model, Some([]), "4", k=12, maps=0, batch=4)
    b = record_activations(tmp_path / "b", model, Some([5, 8]), "4", k=12, maps=0, batch=4)
    for channel in range(5):
        one, other = (stored.layer("4") for stored in (a, b))
        kept = [n not in (5, 8) for n in one.images[channel].tolist()]
        assert torch.equal(one.values[channel][kept], other.values[channel][:10])
        assert torch.equal(one.images[channel][kept], other.images[channel][:10])


def test_a_dataset_with_ties(model, tmp_path):
    images = (torch.arange(20.0) % 7).view(-1, 1, 1, 1).expand(-1, 3, 9, 9)
    data = TensorDataset(images, torch.zeros(20))
    stored = record_activations(tmp_path, model, data, "1", k=5, maps=0, batch=3, workers=1)
    whole = top_activations(model, data, "1", k=5, maps=0, batch=20)
    assert torch.equal(stored.layer("1").images, whole.images["1"])


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["layers"][0].update(file="../outside.safetensors"),
        lambda m: m["layers"][0].update(file="/etc/passwd"),
        lambda m: m["layers"][0].update(file="link.safetensors"),
        lambda m: m["layers"][0].update(file="layers/../layers/" + "x.safetensors"),
        lambda m: m["layers"][0].update(file=None),
        lambda m: m["layers"][0].pop("name"),
        lambda m: m["layers"][0].update(undefined=[]),
        lambda m: m.update(layers=3),
        lambda m: m.update(image_size=[3]),
        lambda m: m.update(skipped=[{}]),
        lambda m: m.update(settings=[]),
        lambda m: m.pop("count"),
    ],
)
def test_a_manifest_that_leads_elsewhere_or_nowhere(model, images, tmp_path, change):
    """A folder from somebody else names files of its own only, and says all that is asked."""
    folder = tmp_path / "run"
    manifest = dict(record_activations(folder, model, images, LAYERS, **QUICK).manifest)
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes((folder / manifest["layers"][0]["file"]).read_bytes())
    (folder / "link.safetensors").symlink_to(outside)
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"manifest\.json' is damaged: "):
        StoredActivations.open(folder)


def test_a_run_goes_on_with_the_memory_it_was_begun_with(model, images, tmp_path):
    """Defaults differ between devices and versions; what is given has to be the same."""
    begun = record_activations(tmp_path, model, images, LAYERS, **QUICK, max_memory=2**24)
    again = record_activations(tmp_path, model, images, LAYERS, **QUICK)
    assert again.folder == begun.folder and again.count == 53
    with pytest.raises(ValueError, match=r"max_memory 16777216 there, 33554432 here"):
        record_activations(tmp_path, model, images, LAYERS, **QUICK, max_memory=2**25)
