"""What all results have in common: they can be saved, loaded, drawn and told in short, and their
fields fit each other."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import types
from collections import ChainMap, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Self,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np
import torch
from torch import Tensor

from zfcuda.results.files import Arrays, pack, pair, read, unpack, write
from zfcuda.storage.identity import Precision

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def in_short(value: Any) -> str:
    """``repr(value)`` with type and shape in the place of a tensor, and of long lists the length
    only."""
    if isinstance(value, Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        return f"{kind} {list(value.shape)}" if value.dim() else repr(value.item())
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {in_short(item)}" for key, item in value.items()) + "}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        shown = [field for field in dataclasses.fields(value) if field.repr]
        names = [field.name for field in sorted(shown, key=lambda field: field.kw_only is True)]
        fields = (f"{name}={in_short(getattr(value, name))}" for name in names)
        return f"{type(value).__name__}({', '.join(fields)})"
    if isinstance(value, tuple | list) and len(value) > 8:
        return f"{len(value)} items"
    return repr(value)


def expect_shape(name: str, tensor: Tensor, *shape: int | None) -> None:
    """Raise unless ``tensor``, called ``name``, has this shape (None: any length).

    Raises:
        ValueError: it has another; both are named.
    """
    lengths = zip(tensor.shape, shape, strict=False)
    if tensor.dim() != len(shape) or any(own != n for own, n in lengths if n is not None):
        wanted = ", ".join("*" if length is None else str(length) for length in shape)
        raise ValueError(f"{name} must have shape [{wanted}], got {list(tensor.shape)}")


def check_shapes(result: Any) -> None:
    """Raise unless the tensors of a dataclass have the shapes that its annotations state.

    ``Annotated[Tensor, "N K"]`` states one: a number is itself, a letter the same length wherever
    it stands. A tuple with a letter has as many items. In a dict every tensor has the shape; one of
    ``"layers: N M"`` holds those of the names in the field ``layers``, and a letter that no field
    but dicts has stands for a length of its own in each of them.

    Raises:
        ValueError: a tensor has another shape; both are named.
        KeyError: a name is missing in a dict.
    """
    lengths: dict[str, int] = {}
    by_key: defaultdict[str, ChainMap[str, int]] = defaultdict(lambda: ChainMap({}, lengths))
    kind: type = type(result)
    for field, keys, letters in _stated_shapes(kind):
        value = getattr(result, field)
        if isinstance(value, tuple | list):
            if lengths.setdefault(letters[0], len(value)) != len(value):
                raise ValueError(f"{field} must be {lengths[letters[0]]}, got {len(value)}")
            continue
        for name, key, tensor in _tensors(result, field, value, keys):
            known = lengths if key is None else by_key[key]
            wanted = (int(one) if one.isdigit() else known.get(one) for one in letters)
            expect_shape(name, tensor, *wanted)
            known.update(zip(letters, tensor.shape, strict=True))


@functools.cache
def _stated_shapes(kind: type) -> list[tuple[str, list[str], list[str]]]:
    """(field, fields that hold a dict's keys, letters); tuples first and dicts last, since their
    tensors' lengths are those of the others."""
    hints = get_type_hints(kind, include_extras=True)
    ranks = {tuple: 0, dict: 2}
    stated = []
    for name, hint in hints.items():
        if get_origin(hint) is Annotated:
            of, shape = get_args(hint)
            keys, _, letters = shape.rpartition(":")
            stated.append((ranks.get(get_origin(of), 1), (name, keys.split(), letters.split())))
    return [one for _, one in sorted(stated, key=lambda ranked: ranked[0])]


def _tensors(
    result: Any, name: str, value: Any, keys: Sequence[str], own: str | None = None
) -> Iterator[tuple[str, str | None, Tensor]]:
    """(name, innermost key, tensor) of a tensor, or of all in a dict; nothing of None."""
    if isinstance(value, dict):
        for key in getattr(result, keys[0]) if keys else value:
            yield from _tensors(result, f"{name}[{key!r}]", value[key], keys[1:], key)
    elif value is not None:
        yield name, own, value


def _built(value: Any, hint: Any, name: str) -> Any:
    """The unpacked value of the field ``name`` as it is declared: dicts may stand for dataclasses.

    Raises:
        ValueError: it is of another type.
    """
    origin, of = get_origin(hint), get_args(hint)
    wanted = (int, float) if hint is float else (hint,)  # JSON's 1.0 may have been written as 1
    if origin in (Union, types.UnionType):
        for one in of:
            with contextlib.suppress(ValueError):
                return _built(value, one, name)
    elif hint is Any or (origin is Literal and value in of):
        return value
    elif origin is dict and isinstance(value, dict):
        return {_built(k, of[0], name): _built(item, of[1], name) for k, item in value.items()}
    elif origin is tuple and isinstance(value, tuple) and of[1:] == (...,):
        return tuple(_built(item, of[0], name) for item in value)
    elif origin is tuple and isinstance(value, tuple) and len(value) == len(of):
        return tuple(_built(item, one, name) for item, one in zip(value, of, strict=True))
    elif isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, dict):
        hints = get_type_hints(hint)
        return hint(**{key: _built(item, hints.get(key, Any), key) for key, item in value.items()})
    elif type(value) in wanted:
        return value
    shown = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
    raise ValueError(f"its {name} is of another type than {shown}")


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


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """Saving, loading and drawing; for frozen dataclasses of tensors, numbers, strings, and tuples,
    dicts and dataclasses of these, the shapes of which are checked (:func:`check_shapes`).

    Attributes:
        precision: what the network's convolutions and matrix products rounded numbers to; None
            where that is not known, as in files of zfcuda 0.1.0, and of what no network computed.
    """

    precision: Precision | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__repr__ = Result.__repr__  # type: ignore[method-assign] # or @dataclass writes one that prints whole tensors

    def __post_init__(self) -> None:
        check_shapes(self)

    def save(self, path: str | os.PathLike[str], about: Mapping[str, Any] | None = None) -> None:
        """Write ``path.npz`` and ``path.json``; each appears whole or not at all.

        ``about`` adds entries to the JSON file that :meth:`load` leaves alone, such as where the
        result comes from.

        Raises:
            OSError: the folder cannot be written.
        """
        arrays: dict[str, np.ndarray] = {}
        settings = pack(self, "", arrays)
        write(path, type(self).__name__, settings, arrays, about or {})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read back what :meth:`save` wrote; nothing is unpickled.

        Raises:
            FileNotFoundError: one of the two files is missing.
            ValueError: not files of this kind of result, of a newer format, damaged, or not a pair.
        """
        settings, data = read(path, cls.__name__)
        try:
            return _built(unpack(settings, Arrays(data)), cls, cls.__name__)
        except Exception as error:  # what a damaged file says can go wrong in any way it likes
            npz, _ = pair(path)
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise ValueError(f"{npz} does not hold a {cls.__name__}: {reason}") from error

    def __repr__(self) -> str:
        """The fields, of tensors the type and shape only."""
        return in_short(self)

    def plot(self, **kwargs: Any) -> Figure:
        """Draw the result, with the arguments of its figure function in :mod:`zfcuda.figures` (most
        take ``images``, as RGB in 0..1, ``class_names`` and ``title``).

        A notebook shows it, and so does ``pyplot.show()``; the functions themselves show nothing.
        """
        figures = import_module("zfcuda.figures")  # by name: results know nothing of figures
        return figures.show_with_pyplot(figures.draw(self, **kwargs))


class Answers(Result):
    """Results that hold what the model answers, ``logits`` [...,K], which are ``outputs``."""

    if TYPE_CHECKING:  # no fields of their own
        logits: Tensor
        outputs: Outputs

    def __post_init__(self) -> None:
        super().__post_init__()
        check_outputs(self.outputs, self.logits.shape[-1])

    @property
    def probabilities(self) -> Tensor:
        """[...,K]: the softmax of the logits, the sigmoid of one logit, or as the model gives them;
        a regression's values as they are."""
        return probabilities_of(self.logits, self.outputs)


class ChangedAnswers(Answers):
    """Answers to V variants of each of N images, ``logits`` [N,V,K], beside those to the images
    themselves, ``base_logits`` [N,K]; ``target`` int64 [N] is the class that scores are about."""

    if TYPE_CHECKING:
        base_logits: Tensor
        target: Tensor

    @property
    def base_probabilities(self) -> Tensor:
        """[N,K], as :attr:`probabilities`, of the images themselves and all classes."""
        return probabilities_of(self.base_logits, self.outputs)

    @property
    def labels(self) -> Tensor:
        """int64 [N,V], the most probable class of every variant."""
        return self.logits.argmax(-1)

    @property
    def unchanged(self) -> Tensor:
        """bool [N,V], whether the most probable class is that of the image itself; where there is
        only one, whether its probability stays on its side of one half."""
        single = self.base_logits.shape[1] == 1
        answers = answer_of(self.logits, self.outputs) if single else self.labels
        return answers == answer_of(self.base_logits, self.outputs)[:, None]

    @property
    def target_probability(self) -> Tensor:
        """[N,V], probability of the target class."""
        return of_target(self.probabilities, self._target_column)

    @property
    def _target_column(self) -> Tensor:
        """int64 [N], where ``logits`` holds the target class."""
        return self.target
