"""What the model says about images as they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zfcuda.inference.checks import check_input
from zfcuda.inference.passes import answers
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
        max_memory: bytes that the activations of one batch may take; None takes the default of
            :func:`zfcuda.inference.passes.memory_limit`.
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
    logits, kind = answers(model, x, max_memory, outputs)
    return Predictions(logits, kind, tuple(class_names or ()))
