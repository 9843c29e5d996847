"""What a result says of itself."""

import torch

import zfcuda


def test_a_result_prints_shapes_not_numbers():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(400, 7))
    result = zfcuda.occlusion(net, torch.rand(1, 3, 12, 12), size=4, stride=4, layers="0")
    text = repr(result)
    assert text.startswith("OcclusionResult(logits=float32 [1, 9, 7], ")
    assert "boxes=int64 [9, 4]" in text and "size=(4, 4)" in text and len(text) < 1000
    assert "LayerSums(layer='0'" in text and "sums=float32 [1, 9]" in text
