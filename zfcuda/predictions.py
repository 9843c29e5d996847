"""What the model says about images as they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zfcuda._running import base_pass, check_input, evaluating, memory_limit, to_result
from zfcuda.results import Predictions


@torch.inference_mode(False)  # nothing made here is an inference tensor
def predict(model: nn.Module, x: Tensor, max_memory: int | None = None) -> Predictions:
    """The model's logits for ``x``, with probabilities, entropy and the most probable classes.

    Args:
        model: returns logits [N,K]; runs in eval mode and is left as it was.
        x: [N,C,H,W], on the model's device and of its dtype.
        max_memory: bytes that the activations of one batch may take; by default half of what is
            free on a GPU, a quarter (at most 128 MiB) on a CPU.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, or a model that returns no logits.
    """
    check_input(model, x)
    limit = memory_limit(max_memory, x.device)
    with evaluating(model):
        logits, _, _ = base_pass(model, x, (), lambda layer, maps: None, limit)
    return Predictions(to_result(logits))
