"""Scores of classes, their probabilities, and the class that is asked about.

A network answers with ``"logits"`` [N,K], whose softmax are the probabilities; with
``"probabilities"`` [N,K] of its own, after a softmax or sigmoids; or with one number [N,1]: a
``"logit"``, of which the sigmoid is the probability, a ``"probability"``, or the ``"value"`` of a
regression. (:func:`zfcuda._running.outputs_of` finds out which.)
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Outputs = Literal["logits", "probabilities", "logit", "probability", "value"]
OUTPUTS: tuple[Outputs, ...] = get_args(Outputs)
_OF_ONE = ("logit", "probability")  # of networks with one output only
_WORDS = {
    "logits": "softmax",
    "probabilities": "the network's own",
    "logit": "sigmoid",
    "probability": "the network's own",
    "value": "value",
}


def check_outputs(outputs: object, count: int | None = None) -> None:
    """Raise unless ``outputs`` is one of the kinds there are, and one of ``count`` outputs.

    Raises:
        ValueError: it is not.
    """
    if outputs not in OUTPUTS:
        shown = ", ".join(map(repr, OUTPUTS))
        raise ValueError(f"outputs must be one of {shown}, got {outputs!r}")
    if outputs in _OF_ONE and count not in (None, 1):
        raise ValueError(
            f"outputs={outputs!r} is for networks with one output, this one has {count}: expected "
            "'logits' or 'probabilities'"
        )


def probabilities_of(answers: Tensor, outputs: Outputs) -> Tensor:
    """What a network's ``answers`` [...,K] say: the probabilities of the classes, or the values of
    a regression as they are."""
    if outputs == "logits":
        return answers.softmax(-1)
    return answers.sigmoid() if outputs == "logit" else answers


def entropy_of(probabilities: Tensor, outputs: Outputs) -> Tensor:
    """[...], nats, of ``probabilities`` [...,K]; of classes that do not exclude one another, each
    with a sigmoid of its own or a single one, the sum over all; of values NaN."""
    if outputs == "value":
        return torch.full_like(probabilities[..., 0], torch.nan)
    entropy = torch.special.entr(probabilities).sum(-1)
    if outputs != "logits" and not _are_distributions(probabilities, 1e-2):
        entropy = entropy + torch.special.entr(1 - probabilities).sum(-1)
    return entropy


def looks_like_probabilities(answers: Tensor) -> bool:
    """Whether ``answers`` [N,K], as far as they are finite, are 0 or more and sum to 1."""
    return _are_distributions(answers, 1e-4)


def _are_distributions(answers: Tensor, tolerance: float) -> bool:
    known = answers[answers.isfinite().all(-1)].double()
    sums = (known.sum(-1) - 1).abs()
    return len(known) > 0 and bool((known >= 0).all()) and bool((sums <= tolerance).all())


def in_words(outputs: Outputs) -> str:
    """Where the probabilities come from, in a word or two: "softmax", "sigmoid", "the network's
    own"; "value" where they are none."""
    return _WORDS[outputs]


def of_target(scores: Tensor, target: Tensor) -> Tensor:
    """Each image's entry of ``scores`` [N,...,K] for its ``target`` int64 [N], as [N,...]."""
    index = target.view(-1, *(1,) * (scores.dim() - 1)).expand(*scores.shape[:-1], 1)
    return scores.gather(-1, index)[..., 0]
