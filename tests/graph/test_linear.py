"""Linear layers by oneDNN against torch's."""

import pytest
import torch
import torch.nn.functional as F

from zfcuda.graph.pixelwise import linear

INPUTS = {
    "vectors": torch.randn(5, 4),
    "one": torch.randn(1, 4),
    "none": torch.randn(0, 4),
    "rows and columns": torch.randn(2, 3, 5, 4),
    "a view of maps": torch.randn(2, 4, 3, 5).permute(0, 2, 3, 1),
    "expanded": torch.randn(1, 4).expand(6, 4),
    "NaN": torch.tensor([[torch.nan, 1, 2, 3], [0, 1, -torch.inf, 3]]),
}
BIASES = {
    "no bias": None,
    "bias": torch.randn(8),
    "every other number": torch.randn(16)[::2],
    "one for all": torch.randn(1).expand(8),
}


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("x", INPUTS)
def test_linear(x, bias, gelu):
    x, bias, weight = INPUTS[x], BIASES[bias], torch.randn(8, 4)
    true = F.linear(x, weight, bias)
    true = F.gelu(true) if gelu else true
    torch.testing.assert_close(linear(x, weight, bias, gelu), true, equal_nan=True)
