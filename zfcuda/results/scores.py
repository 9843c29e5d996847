"""Scores of classes, their probabilities, the class that is asked about, and how certain a share
of right answers is.

A network answers with ``"logits"`` [N,K], whose softmax are the probabilities; with
``"probabilities"`` [N,K] of its own, after a softmax or sigmoids; or with one number [N,1]: a
``"logit"``, of which the sigmoid is the probability, a ``"probability"``, or the ``"value"`` of a
regression. (:func:`zfcuda.inference.outputs_of` finds out which.)
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Outputs = Literal["logits", "probabilities", "logit", "probability", "value"]
_Z = 1.959963984540054  # of the normal distribution 95 % lie within so many deviations
OUTPUTS: tuple[Outputs, ...] = get_args(Outputs)
_OF_ONE = ("logit", "probability")  # of networks with one output only
_SENTENCES = {
    "logits": "",
    "probabilities": " Probabilities are the network's own: its last step makes them.",
    "logit": " The probability is the sigmoid of the network's one output.",
    "probability": " The probability is the network's own: its one output is one.",
    "value": " Shown is what the network answers, a value and no probability.",
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


def answer_of(answers: Tensor, outputs: Outputs) -> Tensor:
    """int64 [...] of ``answers`` [...,K]: the most probable class; of a single probability 1 where
    it is above one half, else 0."""
    if outputs in _OF_ONE:
        return (probabilities_of(answers, outputs)[..., 0] > 0.5).long()
    return answers.argmax(-1)


def same_answers(logits: Tensor, labels: Tensor, base_logits: Tensor, outputs: Outputs) -> Tensor:
    """bool [N,P], whether ``labels``, the most probable classes of ``logits`` [N,P,K], are those of
    ``base_logits`` [N,K]; of one output, whether its probability stays on its side of one half."""
    single = base_logits.shape[1] == 1
    answers = answer_of(logits, outputs) if single else labels
    return answers == answer_of(base_logits, outputs)[:, None]


def called(outputs: Outputs, name: str) -> str:
    """What the score of the class ``name`` is called in a sentence; without a name, that of the
    network's one output."""
    if not name:
        return "the value" if outputs == "value" else "P"
    return f"the value of {name}" if outputs == "value" else f"P({name})"


def in_words(outputs: Outputs) -> str:
    """A sentence, after a space, about where the probabilities come from; empty for logits."""
    return _SENTENCES[outputs]


def of_target(scores: Tensor, target: Tensor) -> Tensor:
    """Each image's entry of ``scores`` [N,...,K] for its ``target`` int64 [N], as [N,...]."""
    index = target.view(-1, *(1,) * (scores.dim() - 1)).expand(*scores.shape[:-1], 1)
    return scores.gather(-1, index)[..., 0]


def wilson(share: Tensor | float, count: Tensor | int) -> Tensor:
    """Wilson's 95 % interval of a share, float64 [...,2], (low, high) within 0..1.

    Unlike share ± error, it is never empty: of ten right answers out of ten it says 72 to 100 %.
    Of no answers at all nothing is known: 0 to 1.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22, 209.

    Args:
        share: [...], found among ``count`` independent answers.
        count: [...] or one for all.
    """
    share, count = (torch.as_tensor(given, dtype=torch.float64) for given in (share, count))
    # Times n, so that n = 0 divides nothing by zero.
    middle = share.nan_to_num() * count + _Z**2 / 2
    half = _Z * (share.nan_to_num() * (1 - share.nan_to_num()) * count + _Z**2 / 4).sqrt()
    ends = torch.stack([middle - half, middle + half], -1) / (count + _Z**2)[..., None]
    return ends.clamp(0, 1)


def differ(first: Tensor | float, second: Tensor | float, count: Tensor | int) -> bool:
    """Whether two shares, each of ``count`` answers, differ by more than chance explains: 0 lies
    outside Newcombe's 95 % interval of their difference, which is made of Wilson's two.

    Source: Newcombe 1998, Statistics in Medicine 17, 873 (method 10). Of answers to the same
    questions, which go together, it says so later rather than sooner.
    """
    low, high = sorted((float(first), float(second)))
    below, above = wilson(low, count)[1] - low, high - wilson(high, count)[0]
    return high - low > float((below**2 + above**2).sqrt())


def with_interval(share: Tensor | float, ends: Tensor) -> str:
    """A share with its interval (low, high), as "91.2% (90.6 to 91.8)"."""
    return f"{float(share):.1%} ({100 * float(ends[0]):.1f} to {100 * float(ends[1]):.1f})"
