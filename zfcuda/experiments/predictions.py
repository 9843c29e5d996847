"""What the model says about images as they are, how certain it is, and how far that can be trusted
(the talk's supplement)."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zfcuda.data.examples import Examples
from zfcuda.inference.checks import as_weights, check_input, evaluating, to_result
from zfcuda.inference.passes import Passes, answers, memory_limit, progress_bar
from zfcuda.results.base import Outputs, check_outputs, entropy_of
from zfcuda.results.predictions import Predictions, UncertaintyResult, class_probabilities
from zfcuda.storage.identity import precision


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
    rounded = precision(x.device, x.dtype)
    return Predictions(logits, kind, tuple(class_names or ()), precision=rounded)


_READ = 250  # pictures at a time


@torch.inference_mode(False)  # nothing made here is an inference tensor
def uncertainty_of(
    model: nn.Module,
    examples: Examples,
    most: int = 8,
    bins: int = 15,
    max_memory: int | None = None,
    progress: bool = False,
    outputs: Outputs | None = None,
) -> UncertaintyResult:
    """The network's answers to a labelled data set: how uncertain, how often wrong, how far its
    probabilities can be taken at their word.

    The uncertainty of an answer is the entropy of its probabilities. Pictures are read a few
    hundred at a time, unvaried; only their logits are kept, and the ``most`` least certain ones
    read once more.

    Args:
        model, max_memory: as :func:`predict`.
        examples: the pictures, best of a validation or test part;
            :class:`zfcuda.data.FromDataset` makes them of any ``torch.utils.data.Dataset``.
        most: how many of the least certain pictures are kept.
        bins: of the reliability curve.
        progress: show a progress bar.
        outputs: as :func:`predict`, but no values; decided on the first pictures. One output [N,1]
            is that of class 1, of two.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or out of range, an empty data set, or
            a label that the model has no logit for.
    """
    start = time.perf_counter()
    if len(examples) == 0:
        raise ValueError("examples must not be empty")
    if outputs == "value":
        raise ValueError("outputs='value': values of a regression have no uncertainty to look at")
    if outputs is not None:
        check_outputs(outputs)
    if most < 1 or bins < 1:
        raise ValueError(f"most and bins must be at least 1, got {most} and {bins}")
    logits, labels = [], []
    passes = None
    with evaluating(model), progress_bar(len(examples), progress, "uncertainty") as advance:
        for x, truth in examples.batches(_READ):
            x = check_input(model, as_weights(x, model))
            passes = passes or Passes(model, (), memory_limit(max_memory, x.device))
            answer = to_result(passes.images(x)[0])
            outputs = passes.outputs(outputs, answer)
            classes = class_probabilities(answer, outputs).shape[1]
            if int(truth.max()) >= classes or int(truth.min()) < 0:
                raise ValueError(
                    f"labels from {int(truth.min())} to {int(truth.max())}: the model has "
                    f"{classes} classes"
                )
            logits.append(answer)
            labels.append(truth)
            advance(len(x))
    joined = torch.cat(logits)
    entropy = entropy_of(class_probabilities(joined, outputs), outputs)
    # The least certain first, of equal ones the earlier; NaN is the most certain.
    order = entropy.nan_to_num(-1.0).sort(descending=True, stable=True).indices[:most]
    return UncertaintyResult(
        logits=joined,
        labels=torch.cat(labels),
        numbers=order,
        images=to_result(as_weights(examples.batch(order)[0], model)),
        bins=bins,
        seconds=time.perf_counter() - start,
        outputs=outputs,
        precision=precision(x.device, x.dtype),
    )
