"""Rotation, translation and scaling: exact where exactness can be had, and the right way round."""

from __future__ import annotations

import json
import math

import pytest
import torch
from zoo import output_of

import zfcuda
from zfcuda import ops
from zfcuda.experiments.invariance.experiment import (
    early_and_late,
    rotation_matrices,
    scaling_matrices,
    translation_matrices,
)


def inputs_seen(net, experiment, *args, **kwargs):
    """The images [N,M,C,H,W] that the network was shown, and the result."""
    seen = []
    hook = net.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    result = experiment(net, *args, max_memory=1, **kwargs)  # one by one, image by image
    hook.remove()
    n, m = result.logits.shape[:2]
    return torch.stack(seen[n:]).view(n, m, *seen[0].shape[1:]), result


def test_quarter_turns_are_exact_and_counter_clockwise(make):
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    seen, _ = inputs_seen(make("VGGLike"), zfcuda.rotation, x, [0, 90, 180, 270, 360, -90, 450])
    for m, quarters in enumerate((0, 1, 2, 3, 0, 3, 1)):
        assert torch.equal(seen[:, m], x.rot90(quarters, (-2, -1)))


def test_rotation_does_not_shear_images_that_are_not_square():
    """A disc around the centre stays a disc: every pixel of a quarter turn is an input pixel."""
    x = torch.randn(1, 1, 8, 14, dtype=torch.float64)
    turned = ops.warp_affine(x, rotation_matrices([90], (8, 14)), fill=-7.0)[0, 0, 0]
    centre = x[0, 0, :, 3:11]
    assert torch.equal(turned[:, 3:11], centre.rot90(1))
    assert (turned[:, :3] == -7).all() and (turned[:, 11:] == -7).all()


def test_rotation_matrices_turn_about_the_centre():
    matrices = rotation_matrices(torch.tensor([30.0, 200.0]), (8, 14))
    assert matrices.dtype == torch.float64
    centre = torch.tensor([7.0, 4.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(matrices @ centre, centre[:2].expand(2, 2))
    linear = matrices[:, :, :2]
    torch.testing.assert_close(
        linear @ linear.transpose(1, 2), torch.eye(2).double().expand(2, 2, 2)
    )
    # Output pixel right of the centre, picture turned by 30 degrees: it shows what was below right.
    right = torch.tensor([8.0, 4.0, 1.0], dtype=torch.float64)
    source = (matrices[0] @ right).tolist()
    angle = math.radians(30)
    assert source == pytest.approx([7 + math.cos(angle), 4 + math.sin(angle)])


def test_translation_moves_down_and_right(make, x):
    shifts = [(0, 0), (3, 0), (0, -2), (-1, 4), (0.5, 0)]
    seen, result = inputs_seen(make("VGGLike"), zfcuda.translation, x, shifts, fill=9.0)
    assert result.values.tolist() == [list(map(float, shift)) for shift in shifts]
    assert torch.equal(seen[:, 0], x)
    assert torch.equal(seen[:, 1, :, 3:], x[:, :, :-3])
    assert (seen[:, 1, :, :3] == 9).all()
    assert torch.equal(seen[:, 2, :, :, :-2], x[..., 2:])
    assert torch.equal(seen[:, 3, :, :-1, 4:], x[:, :, 1:, :-4])
    torch.testing.assert_close(seen[:, 4, :, 1:], (x[:, :, 1:] + x[:, :, :-1]) / 2)


def test_a_plain_number_moves_downwards(make, x):
    net = make("VGGLike")
    plain = zfcuda.translation(net, x, [1, 2])
    pairs = zfcuda.translation(net, x, [(1, 0), (2, 0)])
    assert torch.equal(plain.logits, pairs.logits)
    assert torch.equal(plain.values, pairs.values)
    assert torch.equal(translation_matrices(plain.values, (16, 18))[:, :, 2], -plain.values.flip(1))


def test_scaling_enlarges_about_the_centre(make, x):
    seen, _ = inputs_seen(make("VGGLike"), zfcuda.scaling, x, [1, 2, 0.5])
    assert torch.equal(seen[:, 0], x)
    # At factor 2 every inner pixel is a blend (1/4, 3/4) of two in each direction.
    rows = 0.75 * x[:, :, 4:11] + 0.25 * x[:, :, 5:12]
    torch.testing.assert_close(seen[:, 1, :, 1:14:2, 1], 0.25 * rows[..., 4] + 0.75 * rows[..., 5])
    # At 1/2 the centre of four pixels is read, and the border is outside.
    mean = torch.nn.functional.avg_pool2d(x[..., 1:], 2)
    torch.testing.assert_close(seen[:, 2, :, 4:12, 5:13], mean)
    assert (seen[:, 2, :, :3] == 0).all()
    assert scaling_matrices([2.0], (16, 18))[0].tolist() == [[0.5, 0, 4.5], [0, 0.5, 4.0]]


def test_logits_and_distances_are_those_of_the_transformed_images(net, x):
    layers = ["tail", "classes"]
    seen, result = inputs_seen(net, zfcuda.rotation, x, [0, 40, 90], layers=layers)
    with torch.no_grad():
        base = net(x)
        logits = torch.stack([net(seen[:, m]) for m in range(3)], 1)
    torch.testing.assert_close(result.base_logits, base)
    torch.testing.assert_close(result.logits, logits)
    assert result.kind == "rotation"
    assert torch.equal(result.target, base.argmax(1))
    for layer in layers:
        still, *moved = (output_of(net, images, layer) for images in (x, *seen.unbind(1)))
        expected = torch.stack([(m - still).flatten(1).norm(dim=1) for m in moved], 1)
        torch.testing.assert_close(result.distances[layer], expected)
        assert result.distances[layer][:, 0].max() < 1e-12


def test_distances_are_taken_before_later_calls_in_place(make, x):
    net = make("VGGLike")  # features.0 is followed by an in-place ReLU
    result = zfcuda.rotation(net, x, [180], layers="features.0")
    with torch.no_grad():
        moved = net.features[0](x.rot90(2, (-2, -1))) - net.features[0](x)
    expected = moved.flatten(1).norm(dim=1)
    torch.testing.assert_close(result.distances["features.0"][:, 0], expected)


@pytest.mark.parametrize("max_memory", [1, 150_000, None])
def test_batches_do_not_change_the_result(net, max_memory):
    x = torch.randn(3, 3, 16, 18, dtype=torch.float64)
    arguments = {"values": range(0, 360, 30), "layers": "tail"}
    whole = zfcuda.rotation(net, x, max_memory=10**9, **arguments)
    result = zfcuda.rotation(net, x, max_memory=max_memory, **arguments)
    torch.testing.assert_close(result.logits, whole.logits)
    torch.testing.assert_close(result.distances["tail"], whole.distances["tail"])


def test_defaults_are_the_papers_axes(make, x):
    net = make("VGGLike")
    assert zfcuda.rotation(net, x[:1]).values.tolist() == list(range(0, 360, 5))
    shifts = zfcuda.translation(net, x[:1]).values
    assert shifts[:, 0].tolist() == list(range(-60, 61, 5))
    assert shifts[:, 1].abs().max() == 0
    factors = zfcuda.scaling(net, x[:1]).values
    assert factors[0] == 1 and factors[-1] == 1.8 and len(factors) == 17


def test_probabilities_and_labels(make, x):
    result = zfcuda.rotation(make("VGGLike"), x, [0, 10], target=[1, 2])
    assert torch.equal(result.labels, result.logits.argmax(-1))
    expected = torch.stack([result.probabilities[0, :, 1], result.probabilities[1, :, 2]])
    assert torch.equal(result.target_probability, expected)


# --- several images, several families -------------------------------------------------------------


def test_a_study_is_its_experiments(make):
    net, x = make("VGGLike"), torch.randn(3, 3, 16, 18, dtype=torch.float64)
    values = {
        "rotation": [0, 90, 200],
        "horizontal translation": [-2, 0, 3.5],
        "vertical translation": [1, 2],
        "scale": [1, 1.5],
    }
    layers = ["features.0", "tail"]
    study = zfcuda.invariance_study(
        net, x, layers, [0, 1, 2], ["a", "b", "c"], transformations=values, fill=0.5
    )
    assert list(study.experiments) == list(values) and study.names == ("a", "b", "c")
    singles = {
        "rotation": zfcuda.rotation(net, x, values["rotation"], [0, 1, 2], layers, 0.5),
        "horizontal translation": zfcuda.translation(
            net, x, [(0, -2), (0, 0), (0, 3.5)], [0, 1, 2], layers, 0.5
        ),
        "vertical translation": zfcuda.translation(net, x, [1, 2], [0, 1, 2], layers, 0.5),
        "scale": zfcuda.scaling(net, x, values["scale"], [0, 1, 2], layers, 0.5),
    }
    for family, single in singles.items():
        experiment = study.experiments[family]
        assert experiment.kind == single.kind and torch.equal(experiment.values, single.values)
        torch.testing.assert_close(experiment.logits, single.logits)
        torch.testing.assert_close(experiment.target_probability, single.target_probability)
        for layer in layers:
            torch.testing.assert_close(experiment.distances[layer], single.distances[layer])
    assert study.example_values["rotation"].tolist() == [0, 90, 200]
    assert torch.equal(study.examples["rotation"][0], x[0])
    moved = study.examples["vertical translation"]
    assert study.example_values["vertical translation"].tolist() == [1, 2]
    assert torch.equal(moved[0][:, 1:], x[0][:, :-1]) and (moved[0][:, 0] == 0.5).all()


def test_distances_relative_to_the_features_norm(make, x):
    net = make("VGGLike")
    result = zfcuda.rotation(net, x, [0, 50], layers=["features.0"])
    with torch.no_grad():
        norms = net.features[0](x).flatten(1).norm(dim=1)
    torch.testing.assert_close(result.norms["features.0"], norms)
    relative = result.relative_distances("features.0")
    torch.testing.assert_close(relative, result.distances["features.0"] / norms[:, None])
    with pytest.raises(
        ValueError, match=r"layer 'tail' was not recorded; recorded: \['features\.0'"
    ):
        result.relative_distances("tail")


def test_a_studys_defaults_are_the_papers(make):
    x = torch.randn(1, 3, 16, 56, dtype=torch.float64)
    study = zfcuda.invariance_study(make("VGGLike"), x)
    families = ("vertical translation", "horizontal translation", "scale", "rotation")
    assert tuple(study.experiments) == families and study.names == ("image 0",)
    down = study.experiments["vertical translation"].values
    right = study.experiments["horizontal translation"].values
    # 60 of 224 pixels; whole ones, so that nothing is blurred.
    assert down[:, 0].tolist() == list(range(-4, 5)) and not down[:, 1].any()
    assert torch.equal(right, right.round()) and (right[1:, 1] > right[:-1, 1]).all()
    assert right[0, 1] == -15 and right[-1, 1] == 15 and len(right) == 25 and not right[:, 0].any()
    assert study.experiments["rotation"].values.tolist() == list(range(0, 361, 5))
    assert study.layers == ("features.2", "tail")
    some = study.example_values["rotation"].tolist()
    assert some == pytest.approx([45, 135, 225, 315], abs=5)


def test_early_and_late_layers(make, x):
    expected = {
        "VGGLike": ["features.2", "tail"],
        "Reused": ["pool", "tail"],
        "Residual": ["stem", "tail"],  # without a pool the first convolution
    }
    for name, layers in expected.items():
        assert early_and_late(make(name), x) == layers, name
    zf = zfcuda.models.zfnet_small(10).eval()
    assert early_and_late(zf, torch.randn(1, 3, 64, 64)) == ["pool1", "relu7"]
    alone = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten())
    with pytest.raises(ValueError, match=r"no early and late layer .* among \['0'\]; name two"):
        early_and_late(alone.double(), x)


def test_a_result_from_before_norms_can_be_read(make, x, tmp_path):
    result = zfcuda.rotation(make("VGGLike"), x, [0, 30], layers="tail")
    result.save(tmp_path / "r")
    header = json.loads((tmp_path / "r.json").read_text())
    del header["settings"]["norms"], header["settings_sha256"]
    (tmp_path / "r.json").write_text(json.dumps(header))
    loaded = zfcuda.InvarianceResult.load(tmp_path / "r")
    assert loaded.norms == {} and torch.equal(loaded.logits, result.logits)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"names": ["a"]}, "names must be 2, one for each image, got 1"),
        ({"transformations": {}}, r"transformations must be of \['vertical translation'"),
        ({"transformations": {"shear": [1]}}, r"got \['shear'\]"),
        ({"transformations": {"scale": [0]}}, "scale factors must be positive"),
        ({"layers": "tial"}, "no layer 'tial'"),
    ],
)
def test_a_study_says_what_is_wrong(make, x, settings, message):
    with pytest.raises(ValueError, match=message):
        zfcuda.invariance_study(make("VGGLike"), x, **settings)
