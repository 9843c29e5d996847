"""Runs over data sets of every kind: refused with other settings, gone on with whatever happened,
whose files were damaged, exchanged or moved, whose images vanish or come back."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from small_runs import SETTINGS, Faulty, Images, images, network
from torch.utils.data import DataLoader

import zfcuda
from zfcuda.cones.profile import AVX512
from zfcuda.data import Preprocessing
from zfcuda.data.images import ImageFiles
from zfcuda.experiments.invariance.over import InvarianceRun
from zfcuda.experiments.occlusion import engines
from zfcuda.experiments.occlusion.over import OcclusionRun
from zfcuda.storage import identity
from zfcuda.storage.ranks import Shard
from zfcuda.storage.run_folder import claimed


@dataclass(frozen=True)
class Kind:
    """One kind of run, the usual settings, and the file that has them."""

    call: Callable[..., Any]
    usual: dict[str, Any]
    file: str = "settings.json"

    def __call__(self, net, x, folder, **changes):
        return self.call(net, x, folder, **{**self.usual, **changes})


OCCLUSION = Kind(zfcuda.occlusion_over, SETTINGS)
FAMILIES = {"scale": [1.0, 1.4], "rotation": [0.0, 40.0]}
INVARIANCE = Kind(zfcuda.invariance_over, {"layers": ["2", "5"], "transformations": FAMILIES})
MAXIMA = Kind(
    lambda net, x, folder, **settings: zfcuda.record_activations(folder, net, x, **settings),
    {"layers": ["1", "4"], "k": 4, "maps": 3, "batch": 4},
    "manifest.json",
)
TABLES = {"images.csv", "classes.csv", "curves.csv"}  # of a summary
KINDS = {"occlusion": OCCLUSION, "invariance": INVARIANCE, "maxima": MAXIMA}


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def run(request) -> Kind:
    return request.param


@pytest.fixture
def net():
    return network()


@pytest.fixture
def x():
    return images()


@pytest.fixture
def results(contents):
    """What must not differ between two finished runs: names and contents."""

    def of(folder: Path) -> dict[str, str]:
        found = contents(folder)
        found.pop(MAXIMA.file, None)  # it holds times
        return found

    return of


def rewrite(path, change):
    """Change a run's settings by hand."""
    content = json.loads(path.read_text())
    content.pop("checksum", None)
    change(content["settings"])
    path.write_text(json.dumps(content))


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "change", "message"),
    [
        (OCCLUSION, {"size": 5}, "size 6×6 there, 5×5 here"),
        (OCCLUSION, {"stride": 3}, "stride"),
        (OCCLUSION, {"fill": 0.5}, r"fill 0\.0 there, 0\.5 here"),
        (OCCLUSION, {"layers": "3"}, "layers none there, 3 here"),
        (OCCLUSION, {"target": 2}, "target predicted there, 2 here"),
        (OCCLUSION, {"method": "dense"}, "method auto there, dense here"),
        (OCCLUSION, {"classes": [1]}, r"classes none there, \[1\] here"),
        (OCCLUSION, {"max_memory": 10**7}, r"max_memory 134217728 there, 10000000 here"),
        (INVARIANCE, {"layers": ["2"]}, "layers"),
        (
            INVARIANCE,
            {"transformations": {"scale": [1.0]}},
            "transformations .* none here",
        ),
        (INVARIANCE, {"fill": 1.0}, r"fill 0\.0 there, 1\.0 here"),
        (INVARIANCE, {"target": [1, 1, 2]}, "target"),
        (MAXIMA, {"k": 5}, "k 4 there, 5 here"),
        (MAXIMA, {"maps": [1]}, r"maps 3 there, \[1\] here"),
        (MAXIMA, {"batch": 16}, "batch 4 there, 16 here"),
        (MAXIMA, {"layers": "4"}, "layers 1, 4 there, 4 here"),
    ],
)
def test_another_setting_is_refused_with_its_name(net, x, tmp_path, run, change, message):
    run(net, x[:3], tmp_path)
    with pytest.raises(ValueError, match=rf"holds a run with other settings: .*{message}"):
        run(net, x[:3], tmp_path, **change)
    run(net, x[:3], tmp_path)


def test_other_images_or_weights_are_refused(net, x, tmp_path, run):
    run(net, x[:3], tmp_path)
    refused = {"number of images 3 there, 4 here": x[:4], "the images' contents ": -x[:3]}
    if run is not MAXIMA:  # which looks at some images only
        other = x[:3].clone()
        other[1, 0, 0, 0] += 1
        refused |= {"the images' contents 0 ": -x[:3], "the images' contents 1 ": other}
    for message, others in refused.items():
        with pytest.raises(ValueError, match=message):
            run(net, others, tmp_path)
    with torch.no_grad():
        net[0].bias[0] += 1
    with pytest.raises(ValueError, match="the model's weights "):
        run(net, x[:3], tmp_path)


def test_the_build_of_torch_counts_unless_0_1_0_left_it_out(net, x, tmp_path, monkeypatch, run):
    def torch_is(version):
        monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion(version))

    def changed(there, here):
        message = rf"other settings: versions torch {there} there, {here} here"
        return pytest.raises(ValueError, match=message.replace(".", r"\.").replace("+", r"\+"))

    torch_is("2.13.0+cu130")
    run(net, x[:2], tmp_path)
    torch_is("2.13.0+cpu")
    with changed("2.13.0+cu130", "2.13.0+cpu"):
        run(net, x[:2], tmp_path)
    rewrite(tmp_path / run.file, lambda settings: settings["versions"].update(torch="2.13.0"))
    for path in (tmp_path / "images").glob("*/*"):
        path.unlink()
    for version in ("2.13.0+cpu", "2.13.0+cu130", "2.13.0"):
        torch_is(version)
        run(net, x[:2], tmp_path)
    torch_is("2.14.0+cpu")
    with changed("2.13.0", "2.14.0+cpu"):
        run(net, x[:2], tmp_path)


def test_another_precision_is_refused_and_results_tell_theirs(
    net, x, tmp_path, monkeypatch, contents, run
):
    run(net, x[:3], tmp_path)
    before = contents(tmp_path)
    told = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("images/*/*.json"))]
    exact = {"convolutions": "float32", "products": "float32"}
    assert all(one["settings"]["precision"] == exact for one in told)
    monkeypatch.setattr(identity, "_known", lambda device: frozenset({"tf32"}))
    monkeypatch.setattr(identity, "_told", lambda kind: ("tf32", "ieee"))
    with pytest.raises(ValueError, match="other settings: convolutions float32 there, tf32 here"):
        run(net, x[:3], tmp_path)
    assert contents(tmp_path) == before
    assert len(told) == (0 if run is MAXIMA else 3)


@pytest.mark.parametrize("word", ["highest", "medium"])
def test_runs_of_before_there_was_a_precision_go_on(net, x, tmp_path, monkeypatch, word, run):
    """They noted torch's word for float32 products, and nothing of convolutions."""

    def as_then(settings):
        del settings["convolutions"], settings["products"]
        settings["float32 products"] = word

    run(net, x[:3], tmp_path)
    rewrite(tmp_path / run.file, as_then)
    for path in (tmp_path / "images").glob("*/*"):
        path.unlink()
    known = frozenset({"bfloat16", "tf32"})
    monkeypatch.setattr(identity, "_known", lambda device: known)
    monkeypatch.setattr(identity, "_told", lambda kind: ("ieee", "bf16"))
    if word == "highest":
        with pytest.raises(ValueError, match="products float32 there, bfloat16 here"):
            run(net, x[:3], tmp_path)
        monkeypatch.setattr(identity, "_told", lambda kind: ("tf32", "ieee"))
    run(net, x[:3], tmp_path)


def test_settings_of_other_code_or_that_nobody_can_read(net, x, tmp_path, run):
    """Those that were not known then, and ones that are not known any more."""
    path = tmp_path / run.file
    run(net, x[:2], tmp_path)
    rewrite(path, lambda settings: settings.pop("together", settings.pop("images together", None)))
    with pytest.raises(ValueError, match=r"other settings: images together none there, \d+ here"):
        run(net, x[:2], tmp_path)
    rewrite(path, lambda settings: settings.update(slope=2))
    with pytest.raises(ValueError, match=r"other settings: slope 2 there, none here\. Go on"):
        run(net, x[:2], tmp_path)
    for damaged in ("{}", '{"settings": [1], "threads": 1}', '{"settings": "none"}'):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=f"{run.file}' cannot be read as the settings of a"):
            run(net, x[:2], tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=rf"holds .* of a run, but not its {run.file}"):
        run(net, x[:2] + 1, tmp_path)
    assert not path.exists()


@pytest.mark.parametrize(
    ("run", "of"),
    [(OCCLUSION, OcclusionRun), (INVARIANCE, InvarianceRun)],
    ids=["occlusion", "invariance"],
)
def test_a_run_goes_on_with_as_many_images_together_as_it_was_begun_with(
    net, x, tmp_path, monkeypatch, run, of
):
    """How many make a good batch is a rule of the code, which may be another by then."""
    asked = []
    answer = of.answer
    monkeypatch.setattr(
        of, "answer", lambda self, x, *rest: asked.append(len(x)) or answer(self, x, *rest)
    )
    path = tmp_path / run.file
    run(net, x[:5], tmp_path)
    rewrite(path, lambda settings: settings.update({"images together": 2}))
    shutil.rmtree(tmp_path / "images")
    asked.clear()
    run(net, x[:5], tmp_path)
    assert asked == [2, 2, 1]
    assert json.loads(path.read_text())["settings"]["images together"] == 2
    for wrong in (0, -3, "many", 1.5):
        rewrite(path, lambda settings, wrong=wrong: settings.update({"images together": wrong}))
        with pytest.raises(ValueError, match="other settings: images together"):
            run(net, x[:5], tmp_path)


def test_a_run_keeps_the_profile_it_was_begun_with(net, x, tmp_path, monkeypatch, results):
    """Another machine goes on with it, or another version that knows better."""
    used = []
    answer = OcclusionRun.answer
    monkeypatch.setattr(
        OcclusionRun,
        "answer",
        lambda self, *rest: used.append(self.engine.plan.profile) or answer(self, *rest),
    )
    path = tmp_path / OCCLUSION.file
    own = replace(AVX512, name="of another machine", positions=7)
    OCCLUSION(net, x[:5], tmp_path, profile=own)
    wanted = results(tmp_path)
    shutil.rmtree(tmp_path / "images")
    OCCLUSION(net, x[:5], tmp_path)
    assert {*used} == {own}
    assert results(tmp_path) == wanted
    # Runs that recorded none were computed with the constants of then.
    rewrite(path, lambda settings: settings.pop("profile"))
    shutil.rmtree(tmp_path / "images")
    used.clear()
    OCCLUSION(net, x[:5], tmp_path, profile=own)
    assert {*used} == {AVX512}
    for wrong in (
        {"name": "short"}, {**own.settings, "windows": "many"}, {**own.settings, "byte": -1.0}, 5
    ):  # fmt: skip
        rewrite(path, lambda settings, wrong=wrong: settings.update({"profile": wrong}))
        with pytest.raises(ValueError, match="begun with no profile"):
            OCCLUSION(net, x[:5], tmp_path)


@pytest.mark.parametrize(("device", "cached"), [("cpu", AVX512.cached), ("cuda", 0)])
def test_a_run_that_recorded_no_profile(tmp_path, device, cached):
    """Only on CPUs were batches held to what a cache has."""
    run = OcclusionRun(tmp_path, None, {}, {}, Shard(), None, None, None)
    vars(run)["_begun"] = {"settings": {"device": device}}
    assert run.profile == replace(AVX512, cached=cached)


def test_a_layer_named_twice_is_one(net, x, tmp_path, results, run):
    run(net, x[:2], tmp_path / "once", layers="3")
    run(net, x[:2], tmp_path / "twice", layers=["3", "3"])
    assert results(tmp_path / "once") == results(tmp_path / "twice")
    run(net, x[:2], tmp_path / "once", layers=["3", "3"])


@pytest.mark.parametrize(
    ("run", "change", "error", "message"),
    [
        (OCCLUSION, {"x": torch.zeros(3, 4, 4)}, ValueError, r"must be \[N,C,H,W\]"),
        (OCCLUSION, {"x": torch.zeros(0, 3, 4, 4)}, ValueError, "there are no images"),
        (OCCLUSION, {"x": ["a.png"]}, TypeError, "got list"),
        (OCCLUSION, {"x": iter([])}, TypeError, "knows its length"),
        (INVARIANCE, {"layers": "nowhere"}, ValueError, "no layer 'nowhere'"),
        (INVARIANCE, {"transformations": {"shear": [1]}}, ValueError, "transformations must be of"),
        (INVARIANCE, {"transformations": {"scale": [-1.0]}}, ValueError, "must be positive"),
        (INVARIANCE, {"target": 7}, ValueError, "between 0 and 4"),
        (MAXIMA, {"x": [torch.zeros(2, 3, 9, 9)]}, TypeError, "had by number"),
        (MAXIMA, {"x": DataLoader(torch.zeros(4, 3, 9, 9))}, TypeError, "had by number"),
        (MAXIMA, {"x": torch.zeros(0, 3, 9, 9)}, ValueError, "no images"),
        (MAXIMA, {"batch": 0}, ValueError, "batch must be a positive int, got 0"),
        (MAXIMA, {"k": 0}, ValueError, "k must be a positive int, got 0"),
        (MAXIMA, {"layers": []}, ValueError, "at least one layer"),
        (MAXIMA, {"max_memory": -1}, ValueError, "max_memory must be a positive number of bytes"),
    ],
)
def test_what_is_wrong_is_said_before_a_folder_is_made(
    net, x, tmp_path, run, change, error, message
):
    with pytest.raises(error, match=message):
        run(net, folder=tmp_path / "out", **{"x": x, **change})
    assert not (tmp_path / "out").exists()


# --- whatever happens -----------------------------------------------------------------------------


def changed_at(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.*") if path.is_file()}


def test_a_finished_run_computes_nothing(net, x, tmp_path, run):
    run(net, x, tmp_path)
    before = changed_at(tmp_path)
    run(net, x, tmp_path)
    touched = {path.name for path, time in changed_at(tmp_path).items() if time != before[path]}
    assert touched <= {".lock", "summary.npz", "summary.json", *TABLES}


@pytest.mark.parametrize("run", [OCCLUSION, INVARIANCE], ids=["occlusion", "invariance"])
@pytest.mark.parametrize("gone", [["5.json"], ["5.npz", "12.json"], None], ids=str)
def test_what_is_missing_is_computed_again_to_the_bit(
    net, x, tmp_path, contents, monkeypatch, run, gone
):
    for kind in (engines.Cones, engines.Dense):
        monkeypatch.setattr(kind, "together", lambda *_: 4)
    run(net, x, tmp_path)
    whole = contents(tmp_path)
    if gone is None:
        shutil.rmtree(tmp_path / "images")
        (tmp_path / "summary.json").unlink()
    for name in gone or ():
        (tmp_path / "images" / "0000" / f"{int(name.split('.')[0]):07d}-image-{name}").unlink()
    left = {path: time for path, time in changed_at(tmp_path).items() if "-image-" in path.name}
    run(net, x, tmp_path)
    assert contents(tmp_path) == whole
    touched = {path.stem for path, time in left.items() if path.stat().st_mtime_ns != time}
    assert {name.rpartition("-")[2] for name in touched} <= {
        name.partition(".")[0] for name in gone or ()
    }


def test_two_at_once_are_refused(net, x, tmp_path, run):
    at_work = pytest.raises(ValueError, match=r"another run is at work in '.*': wait")
    with claimed(tmp_path, Shard()), at_work:
        run(net, x, tmp_path)
    assert not (tmp_path / run.file).exists()


def test_a_run_whose_images_vanish_goes_on_when_they_are_back(net, x, tmp_path, results, run):
    def read(number):
        if (tmp_path / "run").exists():
            raise OSError("gone")

    with pytest.raises(ValueError, match="none of the 13 images can be read; the last: image 12"):
        run(net, Images(x, read), tmp_path / "run")
    run(net, x, tmp_path / "run")
    run(net, x, tmp_path / "whole")
    assert results(tmp_path / "run") == results(tmp_path / "whole")


def test_a_folder_that_is_renamed_during_a_run(net, x, tmp_path, results, run):
    def read(number):
        if number == 5 and (tmp_path / "run").exists():
            (tmp_path / "run").rename(tmp_path / "other")

    with pytest.raises(FileNotFoundError, match="run' was deleted or renamed during the run"):
        run(net, Images(x, read), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run(net, x, tmp_path / "other")
    run(net, x, tmp_path / "whole")
    assert results(tmp_path / "other") == results(tmp_path / "whole")


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


def test_images_that_vanish_after_their_results(net, x, tmp_path):
    first = zfcuda.occlusion_over(net, x, tmp_path, **SETTINGS)
    left = iter(range(8 + 1))  # those that identify the data, and the example

    def read(number):
        if next(left, None) is None:
            raise OSError("gone")

    again = zfcuda.occlusion_over(net, Images(x, read), tmp_path, **SETTINGS)
    assert torch.equal(first.mean, again.mean) and len(first.shown) and not len(again.shown)
    assert zfcuda.occlusion_over(net, x, tmp_path, **SETTINGS).shown.equal(first.shown)
