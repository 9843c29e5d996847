"""Table 1: the measure against its definition, element by element and pair by pair."""

from __future__ import annotations

import itertools
import math
import statistics

import pytest
import torch
from torch import nn
from zoo import output_of

import zfcuda
from zfcuda.experiments.correspondences import _compared, random_places
from zfcuda.results.correspondence import CorrespondenceResult

LAYERS = ["features.2", "tail"]


@pytest.fixture
def images():
    return torch.randn(4, 3, 16, 18, dtype=torch.float64)


@pytest.fixture
def parts():
    return {
        "nose": torch.tensor([4, 5, 9, 11]),
        "ear": torch.tensor([[0, 0, 5, 6], [1, 2, 6, 8], [11, 12, 16, 18], [3, 3, 8, 9]]),
        "random": random_places(3, 4, (16, 18), (5, 6)),
    }


def by_definition(net, images, boxes, layer, fill):
    """The Hamming distances of all pairs, one element after the other."""
    hidden = images.clone()
    for image, (y0, x0, y1, x1) in zip(hidden, boxes.tolist(), strict=True):
        image[:, y0:y1, x0:x1] = fill
    change = (output_of(net, images, layer) - output_of(net, hidden, layer)).flatten(1)
    signs = [[(e > 1e-10) - (e < -1e-10) for e in row] for row in change.tolist()]
    return [
        sum(a != b for a, b in zip(one, other, strict=True)) / len(one)
        for one, other in itertools.combinations(signs, 2)
    ], [sum(s != 0 for s in row) / len(row) for row in signs]


@pytest.mark.parametrize("max_memory", [None, 1])
def test_distances_are_those_of_the_definition(make, images, parts, max_memory):
    net = make("VGGLike")
    result = zfcuda.correspondence(
        net, images, parts, LAYERS, ["random"], fill=0.3, max_memory=max_memory
    )
    assert result.parts == ("nose", "ear", "random") and result.controls == ("random",)
    for layer, (name, part) in itertools.product(LAYERS, parts.items()):
        places = part.expand(4, 4)[None] if part.dim() < 3 else part
        assert torch.equal(result.boxes[name], places)
        for draw, boxes in enumerate(places):
            pairs, changed = by_definition(net, images, boxes, layer, 0.3)
            assert result.pairs(layer, name)[draw].tolist() == pytest.approx(pairs, abs=1e-12)
            assert result.changed[layer][name][draw].tolist() == pytest.approx(changed)
        everything = result.pairs(layer, name).flatten().tolist()
        assert result.mean(layer, name) == pytest.approx(statistics.mean(everything))
        assert result.std(layer, name) == pytest.approx(statistics.stdev(everything))
    assert result.elements == {"features.2": 4 * 8 * 9, "tail": 5 * 3 * 3}


def test_a_zero_differs_from_both_signs():
    """Features are the pixels' own, rectified: what each of the four kinds of change counts."""
    net = nn.Sequential(nn.Identity(), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2)).eval()
    #                 falls  rises  stays  unseen (0 before and after)
    x = torch.tensor([[2.0, 0.5, 1.0, -3.0], [0.5, 0.5, 2.0, -2.0]]).view(2, 1, 1, 4)
    result = zfcuda.correspondence(net, x, {"all": torch.tensor([0, 0, 1, 4])}, "1", fill=1.0)
    # eps: (1, -.5, 0, -1) and (-.5, -.5, 1, -1)
    assert result.differing["1"]["all"].tolist() == [[[0, 2], [2, 0]]]
    assert result.changed["1"]["all"].tolist() == [[0.75, 1.0]]
    assert math.isnan(result.std("1", "all"))
    assert math.isnan(result.advantage("1", "all", "all")[1])


def test_signs_are_counted_whatever_the_precision():
    signs = torch.randint(-1, 2, (3, 10_003), dtype=torch.int8)
    with torch.autocast("cpu", torch.bfloat16):
        differing, changed = _compared(signs)
    assert torch.equal(differing, (signs[:, None] != signs).sum(-1))
    assert torch.equal(changed, (signs != 0).double().mean(-1))


def test_rounding_has_no_sign(images):
    """Outside the forward cone nothing changes: in float32 as in float64, batched or not."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 5, padding=2), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ).eval()  # fmt: skip
    part = {"corner": torch.tensor([0, 0, 2, 2])}
    wide = zfcuda.correspondence(net.double(), images, part, "2", tolerance=1e-5)
    assert wide.changed["2"]["corner"].max() <= (2 + 3) ** 2 / (16 * 18)
    for memory in (1, None):
        narrow = zfcuda.correspondence(
            net.float(), images.float(), part, "2", tolerance=1e-5, max_memory=memory
        )
        assert torch.equal(narrow.changed["2"]["corner"], wide.changed["2"]["corner"])


def test_the_same_image_twice_changes_alike(make, images, parts):
    twins = images[:1].expand(3, -1, -1, -1)
    result = zfcuda.correspondence(make("Residual"), twins, {"nose": parts["nose"]}, "tail")
    assert result.mean("tail", "nose") == 0


def test_the_advantage_is_the_jackknifes(make, images, parts):
    net = make("VGGLike")
    result = zfcuda.correspondence(net, images, parts, "tail")

    def gap(kept):
        pairs = [*itertools.combinations(kept, 2)]
        shares = {
            name: statistics.mean(
                float(draw[i, j]) for draw in result.differing["tail"][name] for i, j in pairs
            )
            / result.elements["tail"]
            for name in ("random", "nose")
        }
        return shares["random"] - shares["nose"]

    without = [gap([i for i in range(4) if i != left]) for left in range(4)]
    middle = statistics.mean(without)
    error = math.sqrt(3 / 4 * sum((value - middle) ** 2 for value in without))
    assert result.advantage("tail", "nose", "random") == pytest.approx((gap(range(4)), error))


def test_random_places():
    own = random_places(50, 6, (16, 18), (5, 6), seed=1)
    assert own.shape == (50, 6, 4) and own.dtype == torch.int64
    assert ((own[..., 2:] - own[..., :2]) == torch.tensor([5, 6])).all()
    assert own.min() == 0 and own[..., 2].max() == 16 and own[..., 3].max() == 18
    assert torch.equal(own, random_places(50, 6, (16, 18), (5, 6), seed=1))
    assert not torch.equal(own, random_places(50, 6, (16, 18), (5, 6), seed=2))
    together = random_places(50, 6, (16, 18), (5, 6), together=True)
    assert (together == together[:, :1]).all() and len(together[:, 0].unique(dim=0)) > 20
    with pytest.raises(ValueError, match=r"size must be within the image's \(4, 4\), got \(5, 4\)"):
        random_places(1, 1, (4, 4), (5, 4))


def test_round_trip_and_table(make, images, parts, tmp_path):
    result = zfcuda.correspondence(make("VGGLike"), images, parts, LAYERS, ["random"])
    result.save(tmp_path / "c")
    again = CorrespondenceResult.load(tmp_path / "c")
    assert again.table() == result.table()
    assert again.advantage("tail", "ear", "random") == result.advantage("tail", "ear", "random")
    lines = result.table().splitlines()
    assert "features.2" in lines[0] and len(lines) == 5
    assert f"{result.mean('tail', 'ear'):.4f} ± {result.std('tail', 'ear'):.4f}" in lines[3]


def test_bad_arguments(make, images, parts):
    net = make("VGGLike")

    def refused(error, message, images=images, parts=parts, layers="tail", **more):
        with pytest.raises(error, match=message):
            zfcuda.correspondence(net, images, parts, layers, **more)

    refused(ValueError, "at least two", images=images[:1], parts={"nose": parts["nose"]})
    refused(TypeError, r"parts\['a'\] must be an int64 tensor", parts={"a": [1, 2, 3, 4]})
    refused(ValueError, r"\[4\], \[4, 4\] or \[R, 4, 4\], got \[3, 4\]",
            parts={"a": parts["ear"][:3]})  # fmt: skip
    refused(ValueError, "hides nothing of image 0, which has 16x18 pixels",
            parts={"a": torch.tensor([20, 0, 30, 9])})  # fmt: skip
    refused(ValueError, r"got no part", parts={})
    refused(ValueError, r"\['eye'\]", controls=["eye"])
    refused(ValueError, "tolerance must be a share", tolerance=1.0)
    refused(ValueError, "at least one layer", layers=[])
    refused(ValueError, "no layer 'tial'", layers="tial")
    refused(ValueError, "not finite", images=images / 0)
