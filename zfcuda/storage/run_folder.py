"""What all results of a run depend on, in a file of its folder; other settings are refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zfcuda.storage.files import read_json, write_json
from zfcuda.storage.identity import same_versions, tensor_digest

FILE = "settings.json"
_SHOWN = 6  # differences that an error names
_MODEL = {"weights": "the model's weights", "architecture": "the model's layers"}
_IMAGES = {"images": "the images' names and labels", "inputs": "the images' contents"}
_HASHED = _MODEL | _IMAGES
_NAMES = _HASHED | {"count": "number of images"}
_SAID = ("model", "data")
_FOLLOWING = {"image", "images together", "outputs"}  # from other settings, which are told instead
# What may be a default that another network has, or be made by its preprocessing.
_OF_NETWORK = {*_MODEL, *_FOLLOWING, "inputs", "size", "stride", "fill", "transformations"}


def begun(folder: Path) -> bool:
    """Whether the folder holds a run."""
    return (folder / FILE).exists()


def digest(settings: Mapping[str, Any]) -> str:
    """sha256 of the settings."""
    return hashlib.sha256(json.dumps(_plain(settings), sort_keys=True).encode()).hexdigest()


def write(
    folder: Path, settings: Mapping[str, Any], about: Mapping[str, Any] | None = None
) -> None:
    """Begin a run, for this process's number of threads; `about` says what the model and the data
    are called."""
    content = {
        "sha256": digest(settings),
        "settings": _plain(settings),
        "threads": torch.get_num_threads(),
        "about": {key: str(value) for key, value in (about or {}).items() if key in _SAID},
    }
    write_json(folder / FILE, content)


def require_same(
    folder: Path,
    settings: Mapping[str, Any],
    earlier: Callable[[], Mapping[str, Any]] = dict,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Compare with the settings that the run was begun with. Of images those count that could be
    read both then and now.

    Args:
        earlier: what zfcuda 0.1.0 would have written of the images.
        about: what the model and the data are called.

    Raises:
        ValueError: they differ, with what differs; or they cannot be read.
    """
    begun = _read(folder)
    there, here = begun["settings"], _plain(settings)
    if same_versions(there.get("versions"), here.get("versions")):
        here["versions"] = there["versions"]
    if isinstance(here.get("inputs"), dict):
        if isinstance(there.get("inputs"), dict):
            read = there["inputs"].keys() & here["inputs"].keys()
            for one in (there, here):
                one["inputs"] = {number: one["inputs"][number] for number in read}
        else:
            here |= earlier()
    differences = _in_words(there, here, begun["about"], about or {})
    if differences:
        shown = "; ".join(differences[:_SHOWN]) + ("; …" if len(differences) > _SHOWN else "")
        raise ValueError(
            f"'{folder}' holds a run with other settings: {shown}. Go on with the settings it was "
            "begun with, or name another folder (--out), or delete this one"
        )


def threads_of(folder: Path) -> int:
    """How many threads the process had that began the run."""
    return _read(folder)["threads"]


def begun_with(folder: Path) -> dict[str, Any]:
    """The settings that a run was begun with."""
    return _read(folder)["settings"]


def _read(folder: Path) -> dict[str, Any]:
    path = folder / FILE
    try:
        content = read_json(path)
        return {
            "settings": {**content["settings"]},
            "threads": int(content["threads"]),
            "about": {**content.get("about", {})},  # 0.1.0 wrote none
        }
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ValueError(
            f"'{path}' cannot be read as the settings of a run ({error}): name another folder"
        ) from error


def _plain(value: Any) -> Any:
    """As it comes back from a JSON file; tensors as lists, pictures as their hashes, and NumPy's
    numbers as Python's."""

    def of_other(other: Tensor | np.generic) -> Any:
        large = isinstance(other, Tensor) and other.dim() >= 2
        return tensor_digest(other) if large else other.tolist()

    return json.loads(json.dumps(value, default=of_other))


def _in_words(
    there: dict[str, Any], here: dict[str, Any], said: Mapping[str, Any], says: Mapping[str, Any]
) -> list[str]:
    """What is not the same in two settings, as far as somebody chose it: by the model's and the
    data's names where these differ, and with hashes only where there is nothing else to tell."""
    names = []
    there, here = {"outputs": "logits", **there}, {"outputs": "logits", **here}
    different = {key for key in there.keys() | here.keys() if there.get(key) != here.get(key)}
    for name, of_it, explained in (
        ("model", {*_MODEL, "image"}, _OF_NETWORK),
        ("data", {*_IMAGES, "count"}, {*_IMAGES, "count"}),
    ):
        old, new = said.get(name), says.get(name)
        if different & of_it and None not in (old, new) and old != new:
            names.append(f"{name} {old} there, {new} here")
            different -= explained
    if "count" in different:
        different -= {*_IMAGES}
    chosen = different - {*_HASHED} - _FOLLOWING
    if names or chosen:
        plain = [*_differences(there, here, sorted(chosen))]
        return [*names, *plain, *(_HASHED[key] for key in sorted(different & {*_HASHED}))]
    return [*_differences(there, here, sorted(different - _FOLLOWING or different))]


def _differences(
    there: dict[str, Any], here: dict[str, Any], keys: Sequence[str], within: str = ""
) -> Iterator[str]:
    for key in keys:
        old, new = there.get(key), here.get(key)
        name = f"{within} {_NAMES.get(key, key)}".strip()
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, sorted({*old, *new}), name)
        elif old != new:
            yield f"{name} {_short(old)} there, {_short(new)} here"


def _short(value: Any) -> str:
    if value is None or value == []:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value)
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        text = ", ".join(value)
    elif isinstance(value, list) and len(value) == 2 and all(isinstance(v, int) for v in value):
        text = "×".join(map(str, value))
    return text if len(text) <= 24 else f"{text[:12]}…"
