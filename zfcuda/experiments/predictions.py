"""What the model says about images as they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zfcuda.inference.checks import check_input, to_result
from zfcuda.inference.guards import evaluating
from zfcuda.inference.interception import Operations
from zfcuda.inference.passes import base_pass, memory_limit, outputs_of
from zfcuda.results.base import Outputs, check_outputs
from zfcuda.results.predictions import Predictions


@torch.inference_mode(False)  # nothing made here is an inference tensor
def predict(
    model: nn.Module,
    x: Tensor,
    max_memory: int | None = None,
    outputs: Outputs | None = None,
    class_names: Sequence[str] | None = None,
) -> Predictions:
    """The model's logits for ``x``, with probabilities, entropy and the most probable classes.

    Args:
        model: returns logits [N,K]; runs in eval mode and is left as it was.
        x: [N,C,H,W], on the model's device and of its dtype.
        max_memory: bytes that the activations of one batch may take; by default half of what is
            free on a GPU, a quarter (at most 128 MiB) on a CPU.
        outputs: what the model returns: "logits" (P is their softmax), "probabilities" (after a
            softmax or sigmoids, taken as they are); of one output [N,1] "logit" (P is its sigmoid),
            "probability", or "value", of a regression. None finds out: by the model's last
            operation where that can be followed, else "probabilities" where all answers are 0 or
            more and sum to 1 (to 1e-4), "logit" for one output, "logits" otherwise.
        class_names: of the model's classes, in label order, for ``top().names`` and the figure.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, a model that returns no logits, or not
            as many names as it has.
    """
    x = check_input(model, x)
    if outputs is not None:
        check_outputs(outputs)
    limit = memory_limit(max_memory, x.device)
    seen = Operations()
    with evaluating(model):
        answers, _, _ = base_pass(model, x, (), lambda layer, maps: None, limit, seen)
    logits = to_result(answers)
    return Predictions(logits, outputs_of(outputs, logits, seen), tuple(class_names or ()))
