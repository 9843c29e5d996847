"""What all results of a run depend on, in a file of its folder; other settings are refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zfcuda._files import read_json, write_json
from zfcuda._identity import same_versions, tensor_digest

FILE = "settings.json"
_SHOWN = 6  # differences that an error names


def begun(folder: Path) -> bool:
    """Whether the folder holds a run."""
    return (folder / FILE).exists()


def digest(settings: Mapping[str, Any]) -> str:
    """sha256 of the settings."""
    return hashlib.sha256(json.dumps(_plain(settings), sort_keys=True).encode()).hexdigest()


def write(folder: Path, settings: Mapping[str, Any]) -> None:
    """Begin a run, for this process's number of threads."""
    content = {
        "sha256": digest(settings),
        "settings": _plain(settings),
        "threads": torch.get_num_threads(),
    }
    write_json(folder / FILE, content)


def require_same(
    folder: Path,
    settings: Mapping[str, Any],
    earlier: Callable[[], Mapping[str, Any]] = dict,
) -> None:
    """Compare with the settings that the run was begun with. Of images those count that could be
    read both then and now.

    Args:
        earlier: what zfcuda 0.1.0 would have written of the images.

    Raises:
        ValueError: they differ, with what differs; or they cannot be read.
    """
    there, here = _read(folder)["settings"], _plain(settings)
    if same_versions(there.get("versions"), here.get("versions")):
        here["versions"] = there["versions"]
    if isinstance(here.get("inputs"), dict):
        if isinstance(there.get("inputs"), dict):
            read = there["inputs"].keys() & here["inputs"].keys()
            for one in (there, here):
                one["inputs"] = {number: one["inputs"][number] for number in read}
        else:
            here |= earlier()
    differences = [*_differences(there, here)]
    if differences:
        shown = "; ".join(differences[:_SHOWN]) + ("; …" if len(differences) > _SHOWN else "")
        raise ValueError(
            f"'{folder}' holds a run with other settings: {shown}. Go on with the settings it was "
            "begun with, or name another folder"
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
        return {"settings": {**content["settings"]}, "threads": int(content["threads"])}
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


def _differences(there: Any, here: Any, name: str = "") -> Iterator[str]:
    """What is not the same in two settings, in words."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted({*there, *here}):
            yield from _differences(there.get(key), here.get(key), f"{name} {key}".strip())
    elif there != here:
        yield f"{name} {_short(there)} there, {_short(here)} here"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else f"{text[:12]}…"
