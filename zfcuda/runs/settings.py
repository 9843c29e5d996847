"""What all results of a run depend on, in a file of its folder; other settings are refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zfcuda._files import atomic_path
from zfcuda._identity import tensor_digest

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
    with atomic_path(folder / FILE) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")


def require_same(folder: Path, settings: Mapping[str, Any]) -> None:
    """Compare with the settings that the run was begun with.

    Raises:
        ValueError: they differ, with what differs; or they cannot be read.
    """
    differences = [*_differences(_read(folder)["settings"], _plain(settings))]
    if differences:
        shown = "; ".join(differences[:_SHOWN]) + ("; …" if len(differences) > _SHOWN else "")
        raise ValueError(
            f"'{folder}' holds a run with other settings: {shown}. Go on with the settings it was "
            "begun with, or name another folder"
        )


def threads_of(folder: Path) -> int:
    """How many threads the process had that began the run."""
    return _read(folder)["threads"]


def _read(folder: Path) -> dict[str, Any]:
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {"settings": content["settings"], "threads": int(content["threads"])}
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise ValueError(f"'{path}' cannot be read as the settings of a run") from error


def _plain(value: Any) -> Any:
    """As it comes back from a JSON file; tensors as lists, pictures as their hashes."""

    def of_tensor(tensor: Tensor) -> Any:
        return tensor.tolist() if tensor.dim() < 2 else tensor_digest(tensor)

    return json.loads(json.dumps(value, default=of_tensor))


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
