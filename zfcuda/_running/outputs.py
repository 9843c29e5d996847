"""What a network's outputs are: logits, or probabilities of its own."""

from __future__ import annotations

from torch import Tensor

from zfcuda.interception import Operations
from zfcuda.results.scores import Outputs, check_outputs, looks_like_probabilities

_SOFTMAX = {"softmax", "softmin", "specialsoftmax"}
_SIGMOID = {"sigmoid", "hardsigmoid", "specialexpit", "expit"}
# What no probability comes out of; the softmax of log-probabilities are the probabilities.
_SCORES = {
    "linear", "conv2d", "conv1d", "convolution", "addmm", "addbmm", "bmm", "baddbmm", "matmul",
    "mm", "rmatmul", "bilinear", "einsum", "batchnorm", "layernorm", "logsoftmax", "logsigmoid",
    "speciallogsoftmax",
}  # fmt: skip


def outputs_of(said: Outputs | None, base: Tensor, seen: Operations) -> Outputs:
    """What the network's outputs are, decided once a call.

    Args:
        said: by the user, who has the last word.
        base: [N,K], the answers to the images as they are.
        seen: the calls of (a part of) that pass.

    Raises:
        ValueError: what is said is for one output only, and there are more.
    """
    count = base.shape[1]
    if said is not None:
        check_outputs(said, count)
        return said
    if seen.last in _SOFTMAX | _SIGMOID:
        return "probability" if count == 1 else "probabilities"
    if count == 1:
        return "logit"
    known = seen.last in _SCORES or not looks_like_probabilities(base)
    return "logits" if known else "probabilities"
