"""How certain a network is, and how far that can be trusted (the talk's supplement)."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn

from zfcuda.data.examples import Examples
from zfcuda.inference.checks import as_weights, check_input, evaluating, to_result
from zfcuda.inference.passes import Passes, memory_limit, progress_bar
from zfcuda.results.base import Outputs, check_outputs, entropy_of
from zfcuda.results.uncertainty import UncertaintyResult, class_probabilities


class LeastCertain:
    """The least certain pictures so far, least certain first, of equal ones the earlier.

    Attributes:
        numbers: int64 [M], their places among all pictures.
        images: [M,C,H,W], as results hold them.
    """

    def __init__(self, most: int) -> None:
        self._most, self._seen = most, 0
        self._entropy = torch.empty(0, dtype=torch.float64)
        self.numbers = torch.empty(0, dtype=torch.int64)
        self.images = torch.empty(0)

    def add(self, x: Tensor, entropy: Tensor) -> None:
        """The next pictures [N,C,H,W], and the entropy float64 [N] of the answers to them; NaN is
        the most certain."""
        entropy = entropy.nan_to_num(-1.0)
        own = torch.arange(self._seen, self._seen + len(x))
        self._seen += len(x)
        # Of a batch at most as many as are kept: so no more pictures are copied.
        here = entropy.sort(descending=True, stable=True).indices[: self._most]
        pictures = to_result(x[here.to(x.device)]).clone()
        if len(self.numbers):
            pictures = torch.cat([self.images, pictures])
        joined = torch.cat([self._entropy, entropy[here]])
        numbers = torch.cat([self.numbers, own[here]])
        order = joined.sort(descending=True, stable=True).indices[: self._most]
        self._entropy, self.numbers = joined[order], numbers[order]
        self.images = pictures[order]


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
    hundred at a time, unvaried; only their logits and the ``most`` least certain ones are kept.

    Args:
        model: returns logits [N,K]; runs in eval mode and is left as it was.
        examples: the pictures, best of a validation or test part;
            :class:`zfcuda.data.FromDataset` makes them of any ``torch.utils.data.Dataset``.
        most: how many of the least certain pictures are kept.
        bins: of the reliability curve.
        max_memory: bytes that the activations of one batch may take.
        progress: show a progress bar.
        outputs: what the model returns, logits or probabilities, as :func:`zfcuda.predict`, but no
            values; decided on the first pictures. One output [N,1] is that of class 1, of two.

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
    kept, passes = LeastCertain(most), None
    with evaluating(model), progress_bar(len(examples), progress, "uncertainty") as advance:
        for x, truth in examples.batches(_READ):
            x = check_input(model, as_weights(x, model))
            passes = passes or Passes(model, (), memory_limit(max_memory, x.device))
            answer = to_result(passes.images(x)[0])
            outputs = passes.outputs(outputs, answer)
            probabilities = class_probabilities(answer, outputs)
            classes = probabilities.shape[1]
            if int(truth.max()) >= classes or int(truth.min()) < 0:
                raise ValueError(
                    f"labels from {int(truth.min())} to {int(truth.max())}: the model has "
                    f"{classes} classes"
                )
            kept.add(x, entropy_of(probabilities, outputs))
            logits.append(answer)
            labels.append(truth)
            advance(len(x))
    return UncertaintyResult(
        logits=torch.cat(logits),
        labels=torch.cat(labels),
        numbers=kept.numbers,
        images=kept.images,
        bins=bins,
        seconds=time.perf_counter() - start,
        outputs=outputs,
    )
