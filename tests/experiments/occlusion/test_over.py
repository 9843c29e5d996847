"""Occlusion of a data set: the results, the summary, and what is gone on with."""

from __future__ import annotations

import csv
import dataclasses
import math
import resource
import shutil

import pytest
import torch
from small_runs import SETTINGS, Faulty, Images, images, network
from torch.utils.data import TensorDataset

import zfcuda
from zfcuda.experiments.occlusion import engines
from zfcuda.experiments.occlusion.over import localisation, sensitivity_of
from zfcuda.results import OcclusionResult


@pytest.fixture
def net():
    return network()


@pytest.fixture
def x():
    return images()


def result(folder, number, name):
    return OcclusionResult.load(folder / "images" / "0000" / f"{number:07d}-{name}")


def test_every_image_has_the_result_that_it_has_alone(net, x, tmp_path):
    net, x = net.double(), x.double()
    zfcuda.occlusion_over(net, x, tmp_path, layers="3", **SETTINGS)
    for number, image in enumerate(x):
        found = result(tmp_path, number, f"image-{number}")
        alone = zfcuda.occlusion(net, image[None], layers="3", classes=(), **SETTINGS)
        torch.testing.assert_close(found.logits, alone.logits)
        torch.testing.assert_close(found.base_logits, alone.base_logits)
        torch.testing.assert_close(found.log_total, alone.log_total)
        torch.testing.assert_close(found.layers["3"].sums, alone.layers["3"].sums)
        torch.testing.assert_close(found.layers["3"].base, alone.layers["3"].base)
        for name in ("best", "target", "boxes", "classes"):
            assert torch.equal(getattr(found, name), getattr(alone, name)), name
        assert torch.equal(found.layers["3"].channels, alone.layers["3"].channels)
        assert (found.grid, found.size, found.fill) == (alone.grid, alone.size, alone.fill)
        assert math.isnan(found.seconds)


@pytest.mark.parametrize("method", ["cone", "dense"])
def test_images_in_one_batch_do_not_touch_each_other(net, x, method):
    net, x = net.double(), x.double()
    x[2, :, 3, 3] = math.nan
    ready = engines.engine_for(
        net, x, engines.Request(**SETTINGS, layers=("0", "3"), method=method)
    )
    assert ready.together(x) >= 5
    found = ready(x[:5])
    for number in range(5):
        alone = zfcuda.occlusion(
            net, x[number : number + 1], **SETTINGS, layers=("0", "3"), method=method
        )
        torch.testing.assert_close(found.logits[number], alone.logits[0], equal_nan=True)
        for layer in ("0", "3"):
            torch.testing.assert_close(
                found.layers[layer].sums[number], alone.layers[layer].sums[0], equal_nan=True
            )


def test_the_model_is_traced_once(net, x, tmp_path, monkeypatch):
    traced = []
    trace = engines.trace
    monkeypatch.setattr(engines, "trace", lambda *a, **k: traced.append(0) or trace(*a, **k))
    for kind in (engines.Cones, engines.Dense):
        monkeypatch.setattr(kind, "together", lambda *_: 4)
    zfcuda.occlusion_over(net, x, tmp_path, **SETTINGS)
    assert len(traced) == 1


def test_the_summary_says_what_the_results_say(net, x, tmp_path):
    labels = torch.arange(len(x)) % 3
    data = TensorDataset(x, labels)
    data.targets, data.classes = labels, ["ant", "bee", "cow"]
    summary = zfcuda.occlusion_over(net, data, tmp_path, target=1, **SETTINGS)
    for number in range(len(x)):
        one = result(tmp_path, number, f"image-{number}")
        base = one.base_logits[0].double().softmax(0)
        drops = base[1] - one.target_probability[0].double()
        assert summary.probability[number] == base[1] and summary.target[number] == 1
        assert summary.mean[number] == drops.mean() and summary.largest[number] == drops.max()
        assert torch.equal(summary.strongest[number], one.boxes[drops.argmax()])
        changed = (one.labels[0] != base.argmax()).double().mean()
        assert summary.changed[number] == changed
    assert summary.labelled and summary.class_names == ("ant", "bee", "cow")
    assert [one.mean for one in summary.classes] == sorted(
        (float(summary.mean[labels == label].mean()) for label in range(3)), reverse=True
    )
    for one in summary.classes:
        assert one.count == (labels == one.label).sum()
        assert one.spread == pytest.approx(float(summary.mean[labels == one.label].std()))
    again = type(summary).load(tmp_path / "summary")
    assert torch.equal(again.localisation, summary.localisation) and again.names == summary.names
    with (tmp_path / "images.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert [float(row["mean"]) for row in rows] == summary.mean.tolist()
    with (tmp_path / "classes.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert [row["name"] for row in rows] == [
        summary.class_names[one.label] for one in summary.classes
    ]


def test_what_is_shown_is_most_and_least_localised(net, x, tmp_path):
    summary = zfcuda.occlusion_over(net, x, tmp_path, **SETTINGS)
    telling = [n for n in range(len(x)) if summary.largest[n] >= summary.telling]
    assert len(telling) >= 4, "the network must care where the occluder is"
    order = sorted(telling, key=lambda n: -summary.localisation[n])
    shown = summary.shown.tolist()
    most, least = shown[: summary.most], shown[summary.most :]
    assert most == order[: len(most)] and least == order[::-1][: len(least)]
    assert len({*shown}) == len(shown) == min(10, len(telling))
    for index, map_, image in zip(shown, summary.maps, summary.images, strict=True):
        assert torch.equal(map_, result(tmp_path, index, f"image-{index}").heatmap())
        assert torch.equal(image, x[index])


def test_localisation_of_known_maps():
    one = torch.zeros(20)
    one[3] = 0.7
    assert localisation(one) == pytest.approx(1 - 1 / 20)
    assert localisation(torch.full((20,), 0.3)) == pytest.approx(0)
    half = torch.tensor([0.2] * 10 + [-0.5] * 10)  # gains do not count
    assert localisation(half) == pytest.approx(0.5)
    assert localisation(half.double() * 1e-200) == pytest.approx(0.5)
    assert localisation(-one).isnan() and localisation(torch.zeros(3)).isnan()
    assert localisation(torch.stack([one, half])).shape == (2,)


def test_numbers_of_a_map_by_hand():
    logits = torch.tensor([[[2.0, 0.0], [0.0, 0.0], [0.0, 3.0]]])
    found = OcclusionResult(
        logits, torch.tensor([[2.0, 0.0]]), torch.tensor([0]),
        torch.tensor([[0, 0, 2, 2], [0, 2, 2, 4], [0, 4, 2, 6]]), (1, 3), (2, 2), (2, 2), (2, 6),
        0.0, {}, 0.0,
    )  # fmt: skip
    one = sensitivity_of(found)
    before, after = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(3))
    drops = [0, before - 0.5, before - after]
    assert one["probability"] == pytest.approx(before, rel=1e-6)
    assert one["mean"] == pytest.approx(sum(drops) / 3, rel=1e-6)
    assert one["largest"] == pytest.approx(drops[2], rel=1e-6) and one["strongest"] == 2
    assert one["changed"] == pytest.approx(1 / 3)
    lost = 1 - sum(drops) ** 2 / (3 * sum(d * d for d in drops))
    assert one["localisation"] == pytest.approx(lost, rel=1e-6)


# --- going on -------------------------------------------------------------------------------------


def test_a_run_goes_on_with_the_threads_it_was_begun_with(net, x, tmp_path, monkeypatch):
    torch.set_num_threads(2)
    zfcuda.occlusion_over(net, x[:2], tmp_path, **SETTINGS)
    (tmp_path / "images" / "0000" / "0000001-image-1.json").unlink()
    torch.set_num_threads(1)
    seen = []
    run = engines.Engine.__call__
    monkeypatch.setattr(
        engines.Engine,
        "__call__",
        lambda *a: seen.append(torch.get_num_threads()) or run(*a),
    )
    zfcuda.occlusion_over(net, x[:2], tmp_path, **SETTINGS)
    assert seen == [2] and torch.get_num_threads() == 1


def test_images_that_cannot_be_read_are_listed_and_change_nothing(
    net, x, tmp_path, contents, monkeypatch
):
    for kind in (engines.Cones, engines.Dense):
        monkeypatch.setattr(kind, "together", lambda *_: 4)
    zfcuda.occlusion_over(net, x, tmp_path / "all", **SETTINGS)
    summary = zfcuda.occlusion_over(net, Faulty(x, {0, 6, 12}), tmp_path / "some", **SETTINGS)
    assert [line.partition(":")[0] for line in summary.skipped] == [
        f"image {number} cannot be read" for number in (0, 6, 12)
    ]
    assert summary.numbers.tolist() == [n for n in range(len(x)) if n not in (0, 6, 12)]
    everything = contents(tmp_path / "all" / "images")
    for name, digest in contents(tmp_path / "some" / "images").items():
        if name.endswith("npz"):
            assert everything[name] == digest
    with pytest.raises(ValueError, match=r"none of the 13 images can be read; the last: image 12"):
        zfcuda.occlusion_over(net, Faulty(x, range(13)), tmp_path / "none", **SETTINGS)


def test_an_image_that_can_be_read_later_is_done_then(net, x, tmp_path, contents):
    zfcuda.occlusion_over(net, x, tmp_path / "all", **SETTINGS)
    data = Faulty(x, {5})  # not among those that identify the data
    zfcuda.occlusion_over(net, data, tmp_path / "some", **SETTINGS)
    data.bad = {}
    summary = zfcuda.occlusion_over(net, data, tmp_path / "some", **SETTINGS)
    assert not summary.skipped
    assert contents(tmp_path / "all") == contents(tmp_path / "some")


def test_a_damaged_result_is_named(net, x, tmp_path):
    zfcuda.occlusion_over(net, x[:3], tmp_path, **SETTINGS)
    file = tmp_path / "images" / "0000" / "0000001-image-1.npz"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"0000001-image-1\.npz .*delete its files and run again"):
        zfcuda.occlusion_over(net, x[:3], tmp_path, **SETTINGS)


def test_a_result_of_another_run_is_named(net, x, tmp_path):
    zfcuda.occlusion_over(net, x[:3], tmp_path / "own", **SETTINGS)
    zfcuda.occlusion_over(net, x[:3], tmp_path / "other", target=2, **SETTINGS)
    for name in ("0000001-image-1.npz", "0000001-image-1.json"):
        shutil.copy(tmp_path / "other" / "images" / "0000" / name, tmp_path / "own/images/0000")
    with pytest.raises(ValueError, match=r"0000001-image-1\.json' is of a run with other.*delete"):
        zfcuda.occlusion_over(net, x[:3], tmp_path / "own", **SETTINGS)
    for path in (tmp_path / "own").glob("images/*/0000001*"):
        path.unlink()
    zfcuda.occlusion_over(net, x[:3], tmp_path / "own", **SETTINGS)


def test_a_full_disk(net, x, tmp_path, contents, monkeypatch):
    for kind in (engines.Cones, engines.Dense):
        monkeypatch.setattr(kind, "together", lambda *_: 4)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def read(number):
        if number == 7:  # files that are longer fail in the middle of a write
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))

    try:
        with pytest.raises(OSError, match=r"cannot write '.*0000004-image-4\.npz'.*too large"):
            zfcuda.occlusion_over(net, Images(x, read), tmp_path / "full", **SETTINGS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    folder = tmp_path / "full"
    assert not [path for path in folder.rglob(".*") if path.name != ".lock"]
    assert len([*folder.glob("images/0000/*")]) == 2 * 4
    zfcuda.occlusion_over(net, x, folder, **SETTINGS)
    zfcuda.occlusion_over(net, x, tmp_path / "whole", **SETTINGS)
    assert contents(folder) == contents(tmp_path / "whole")


def test_images_of_another_size_are_named(net, x, tmp_path):
    class Mixed(Faulty):
        def __getitem__(self, number):
            return self.x[number] if number < 5 else self.x[number][:, :16]

    with pytest.raises(ValueError, match=r"image 5 is \[3, 16, 18\].*the first one \[3, 18, 18\]"):
        zfcuda.occlusion_over(net, Mixed(x, ()), tmp_path, **SETTINGS)


def test_the_summary_can_be_drawn(net, x, tmp_path):
    summary = zfcuda.occlusion_over(net, x, tmp_path, **SETTINGS)
    assert summary.plot(class_names=list("abcde"), title="$5 and more")
    none = dataclasses.replace(
        summary, shown=summary.shown[:0], most=0, maps=summary.maps[:0], images=summary.images[:0]
    )
    assert none.plot()
