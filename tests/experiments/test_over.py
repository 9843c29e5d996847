"""Runs whose files were damaged, exchanged or moved, whose images vanish or come back."""

from __future__ import annotations

import json
import re

import pytest
import torch
from PIL import Image
from small_runs import SETTINGS, Faulty, images, network

import zfcuda
from zfcuda.data import Preprocessing
from zfcuda.data.images import ImageFiles
from zfcuda.experiments.occlusion import engines
from zfcuda.storage.run_folder import write as write_settings


@pytest.fixture
def net():
    return network()


@pytest.fixture
def x():
    return images()


def test_results_that_were_exchanged_are_noticed(net, x, tmp_path):
    zfcuda.occlusion_over(net, x[:3], tmp_path, **SETTINGS)
    drawer = tmp_path / "images" / "0000"
    for suffix in (".npz", ".json"):
        one, other = (drawer / f"000000{n}-image-{n}{suffix}" for n in (0, 2))
        one.rename(drawer / "aside")
        other.rename(one)
        (drawer / "aside").rename(other)
    with pytest.raises(ValueError, match=r"0000000-image-0\.json' is of image 2, not of image 0"):
        zfcuda.occlusion_over(net, x[:3], tmp_path, **SETTINGS)
    for path in (*drawer.glob("0000000*"), *drawer.glob("0000002*")):
        path.unlink()
    zfcuda.occlusion_over(net, x[:3], tmp_path, **SETTINGS)


def test_damaged_settings_are_noticed(net, x, tmp_path):
    zfcuda.occlusion_over(net, x[:3], tmp_path, **SETTINGS)
    for path in (tmp_path / "settings.json", tmp_path / "images/0000/0000001-image-1.json"):
        content = path.read_text()
        path.write_text(re.sub(r'("size": \[\s+)6', r"\g<1>7", content, count=1))
        with pytest.raises(ValueError, match=rf"{path.name}.* damaged"):
            zfcuda.occlusion_over(net, x[:3], tmp_path, **SETTINGS)
        path.write_text(content)


@pytest.mark.parametrize("count", [6, 13])
def test_an_image_that_identifies_the_data_can_be_read_later(net, x, tmp_path, contents, count):
    """Some images' inputs are part of the settings: those that could be read."""
    zfcuda.occlusion_over(net, x[:count], tmp_path / "all", **SETTINGS)
    data = Faulty(x[:count], {0, 3})
    assert len(zfcuda.occlusion_over(net, data, tmp_path / "some", **SETTINGS).skipped) == 2
    data.bad = {1}
    assert not zfcuda.occlusion_over(net, data, tmp_path / "some", **SETTINGS).skipped
    everything, some = contents(tmp_path / "all" / "images"), contents(tmp_path / "some" / "images")
    assert all(everything[name] == some[name] for name in everything if name.endswith("npz"))
    other = x[:count] + 1
    with pytest.raises(ValueError, match="the images' contents"):
        zfcuda.occlusion_over(net, other, tmp_path / "some", **SETTINGS)


def test_a_file_that_is_repaired_is_done_then_and_one_that_changed_is_named(net, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    paths = [folder / f"{number:02d}.png" for number in range(12)]
    for number, path in enumerate(paths):
        Image.effect_noise((18, 18), 10 + 5 * number).convert("RGB").save(path)
    images = ImageFiles(paths, Preprocessing(size=18, resize=None), folder)
    assert "1" in images.identity()["inputs"] and "5" not in images.identity()["inputs"]
    whole = {number: paths[number].read_bytes() for number in (1, 5)}
    for number, content in whole.items():
        paths[number].write_bytes(content[:60])
    assert len(zfcuda.occlusion_over(net, images, tmp_path / "run", **SETTINGS).skipped) == 2
    for number, content in whole.items():
        paths[number].write_bytes(content)
    assert not zfcuda.occlusion_over(net, images, tmp_path / "run", **SETTINGS).skipped
    Image.new("RGB", (18, 18)).save(paths[2])
    with pytest.raises(ValueError, match=r"of 02\.png when it had \d+ bytes; now it has"):
        zfcuda.occlusion_over(net, images, tmp_path / "run", **SETTINGS)
    for path in (tmp_path / "run" / "images").glob("*/0000002*"):
        path.unlink()
    zfcuda.occlusion_over(net, images, tmp_path / "run", **SETTINGS)


class Vanishing(Faulty):
    """Images none of which can be read after the first so many."""

    left = 8 + 1  # those that identify the data, and the example

    def __getitem__(self, number):
        self.left -= 1
        if self.left < 0:
            raise OSError("gone")
        return self.x[number]


def test_a_run_whose_images_vanish_goes_on_when_they_are_back(net, x, tmp_path):
    for name, call in {
        "occlusion": lambda data: zfcuda.occlusion_over(net, data, tmp_path / "o", **SETTINGS),
        "invariance": lambda data: zfcuda.invariance_over(net, data, tmp_path / "i", "3"),
    }.items():
        with pytest.raises(ValueError, match="none of the 13 images can be read; the last: image"):
            call(Vanishing(x, ()))
        assert len(call(x).names) == 13, name


def test_images_that_vanish_after_their_results(net, x, tmp_path):
    first = zfcuda.occlusion_over(net, x, tmp_path, **SETTINGS)
    data = Vanishing(x, ())
    again = zfcuda.occlusion_over(net, data, tmp_path, **SETTINGS)
    assert torch.equal(first.mean, again.mean) and len(first.shown) and not len(again.shown)
    assert zfcuda.occlusion_over(net, x, tmp_path, **SETTINGS).shown.equal(first.shown)


def test_a_folder_that_is_renamed_during_a_run(net, x, tmp_path, contents, monkeypatch):
    monkeypatch.setattr(engines.Cones, "together", lambda *_: 4)

    class Renaming(Faulty):
        seen = 0

        def __getitem__(self, number):
            self.seen += number == 5
            if self.seen == 1 and (tmp_path / "run" / "images").exists():
                (tmp_path / "run").rename(tmp_path / "other")
            return self.x[number]

    with pytest.raises(FileNotFoundError, match="run' was deleted or renamed during the run"):
        zfcuda.occlusion_over(net, Renaming(x, ()), tmp_path / "run", **SETTINGS)
    assert not (tmp_path / "run").exists()
    zfcuda.occlusion_over(net, x, tmp_path / "other", **SETTINGS)
    zfcuda.occlusion_over(net, x, tmp_path / "whole", **SETTINGS)
    assert contents(tmp_path / "other") == contents(tmp_path / "whole")


def test_the_build_of_torch_counts_unless_0_1_0_left_it_out(net, x, tmp_path, monkeypatch):
    def torch_is(version):
        monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion(version))

    torch_is("2.13.0+cu130")
    zfcuda.occlusion_over(net, x[:2], tmp_path, **SETTINGS)
    torch_is("2.13.0+cpu")
    with pytest.raises(ValueError, match=r"torch 2\.13\.0\+cu130 there, 2\.13\.0\+cpu here"):
        zfcuda.occlusion_over(net, x[:2], tmp_path, **SETTINGS)
    settings = json.loads((tmp_path / "settings.json").read_text())
    settings["settings"]["versions"]["torch"] = "2.13.0"
    for path in (tmp_path / "images").glob("*/*"):
        path.unlink()
    write_settings(tmp_path / "settings.json", settings["settings"])
    zfcuda.occlusion_over(net, x[:2], tmp_path, **SETTINGS)
    torch_is("2.14.0+cpu")
    with pytest.raises(ValueError, match="torch"):
        zfcuda.occlusion_over(net, x[:2], tmp_path, **SETTINGS)
