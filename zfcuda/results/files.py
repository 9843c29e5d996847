"""The two files of a result: arrays in ``NAME.npz``, everything else in ``NAME.json``, which holds
the arrays' hash so that each is read with its own partner only."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zfcuda.storage.files import atomic_path, checksum

_FORMAT = 1  # of the files; raise it when an older reader would misread what is written


def pair(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The npz and the JSON file; ``path`` may be their common name or either of them."""
    path = Path(path)
    name = path.stem if path.suffix in (".npz", ".json") else path.name
    return path.with_name(f"{name}.npz"), path.with_name(f"{name}.json")


def write(
    path: str | os.PathLike[str],
    kind: str,
    settings: Any,
    arrays: Mapping[str, np.ndarray],
    about: Mapping[str, Any],
) -> None:
    """Write a result of this ``kind``, the arrays first; each file appears whole or not at all.

    Raises:
        OSError: the folder cannot be written.
        ValueError: ``settings`` are no strict JSON.
    """
    npz, header_path = pair(path)
    with atomic_path(npz) as temporary:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)  # projections are mostly zeros
        digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
    header = {
        "kind": kind,
        "format": _FORMAT,
        "zfcuda": _version(),
        "arrays": {"file": npz.name, "sha256": digest},
        "settings": settings,
        "settings_sha256": checksum(settings),
        **about,
    }
    with atomic_path(header_path) as temporary:
        temporary.write_text(json.dumps(header, indent=1, allow_nan=False), encoding="utf-8")


def read(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], bytes]:
    """The settings, and the checked content of the npz file.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: not of this ``kind``, of another format, damaged, or not a pair.
    """
    npz, header_path = pair(path)
    for file in (header_path, npz):
        if file.exists() and not file.is_file():
            raise ValueError(f"{file} is no file: expected those of a zfcuda result")
    text, data = header_path.read_bytes(), npz.read_bytes()
    try:
        header = json.loads(text.decode("utf-8"), parse_constant=_refused)
        found, version = header["kind"], header["format"]
        digest, settings = header["arrays"]["sha256"], header["settings"]
        said = header.get("settings_sha256")  # not in files of 0.1.0
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{header_path} is not the settings file of a zfcuda result") from error
    if found != kind:
        raise ValueError(f"{header_path} holds a {found}, not a {kind}")
    if version != _FORMAT:
        raise ValueError(f"{header_path} has file format {version!r}, this zfcuda reads {_FORMAT}")
    if said is not None and said != checksum(settings):
        raise ValueError(f"{header_path} is damaged: its settings are not what was written")
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(f"{npz} is damaged or was not written together with {header_path}")
    return settings, data


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON's")


def _version() -> str:
    try:
        return importlib.metadata.version("zfcuda")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        return "unknown"
