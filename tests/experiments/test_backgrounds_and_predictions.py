"""What the background contributes, and plain predictions."""

from __future__ import annotations

import math

import pytest
import torch

import zfcuda


def test_variants_of_the_background(make, x):
    net, image = make("VGGLike"), x[:1]
    mask = torch.zeros(16, 18, dtype=torch.bool)
    mask[4:12, 5:13] = True
    picture = torch.randn(3, 16, 18, dtype=torch.float64)
    fills = {"black": -2.0, "red": [1.0, 0.0, 0.5], "street": picture}
    layers = ["features.0", "tail"]
    result = zfcuda.background_effect(net, image, mask, layers, fills=fills)
    assert result.variants == ("original", "black", "red", "street", "cut-out")
    assert torch.equal(result.images[0], image[0])
    for variant in result.images:
        assert torch.equal(variant[:, mask], image[0][:, mask])
    assert (result.images[1][:, ~mask] == -2).all()
    red = torch.tensor(fills["red"], dtype=torch.float64)
    assert torch.equal(result.images[2][:, ~mask], red[:, None].expand(3, int((~mask).sum())))
    assert torch.equal(result.images[3][:, ~mask], picture[:, ~mask])
    assert (result.images[4][:, ~mask] == 0).all()

    with torch.no_grad():
        torch.testing.assert_close(result.logits, net(result.images))
    assert result.target == int(result.logits[0].argmax())
    for layer in layers:
        seen = zfcuda.deconv(net, result.images, layer)
        torch.testing.assert_close(result.projections[layer], seen)
        for v in range(5):
            expected = (seen[v] - seen[0]).norm() / seen[0].norm()
            torch.testing.assert_close(result.projection_change[layer][v], expected)
        assert result.units[layer].shape == (5, 3)
        energy = seen.square().sum(1)
        share = energy[:, mask].sum(1) / energy.sum((1, 2))
        torch.testing.assert_close(result.on_object[layer], share)
    p = result.logits.softmax(1)[:, result.target]
    torch.testing.assert_close(result.probability_change, p - p[0])
    probabilities, labels = result.top(3)
    assert torch.equal(labels, result.logits.topk(3).indices) and probabilities.shape == (5, 3)


def test_a_soft_mask_blends(make, x):
    mask = torch.full((16, 18), 0.25)
    result = zfcuda.background_effect(make("VGGLike"), x[:1], mask, "tail", 3, {"white": 1.0})
    torch.testing.assert_close(result.images[1], 0.25 * x[0] + 0.75)
    torch.testing.assert_close(result.images[2], 0.25 * x[0])
    assert result.target == 3
    assert torch.equal(result.mask, mask.double())


@pytest.mark.parametrize("max_memory", [1, None])
def test_predictions(net, x, max_memory):
    result = zfcuda.predict(net, x, max_memory)
    with torch.no_grad():
        logits = net(x)
    torch.testing.assert_close(result.logits, logits)
    torch.testing.assert_close(result.probabilities, logits.softmax(1))
    probabilities, labels = result.top(2)
    assert torch.equal(labels, logits.topk(2).indices)
    torch.testing.assert_close(probabilities, result.probabilities.topk(2).values)
    with pytest.raises(ValueError, match="k must be between 1 and 6 classes, got 7"):
        result.top(7)


def test_entropy():
    certain, uniform = torch.tensor([[1000.0, 0.0]]), torch.zeros(1, 8)
    assert zfcuda.Predictions(certain).entropy.item() == 0
    assert zfcuda.Predictions(uniform).entropy.item() == pytest.approx(math.log(8))
