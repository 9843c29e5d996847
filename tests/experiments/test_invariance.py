"""Rotation, translation and scaling: exact where exactness can be had, and the right way round."""

from __future__ import annotations

import math

import pytest
import torch

import zfcuda
from zfcuda import ops
from zfcuda.invariance import rotation_matrices, scaling_matrices, translation_matrices


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
    features = {layer: [] for layer in layers}
    hooks = [
        dict(net.named_modules())[layer].register_forward_hook(
            lambda module, args, out, layer=layer: features[layer].append(out.clone())
        )
        for layer in layers
    ]
    with torch.no_grad():
        base = net(x)
        logits = torch.stack([net(seen[:, m]) for m in range(3)], 1)
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(result.base_logits, base)
    torch.testing.assert_close(result.logits, logits)
    assert result.kind == "rotation"
    assert torch.equal(result.target, base.argmax(1))
    for layer in layers:
        still, *moved = features[layer]
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
