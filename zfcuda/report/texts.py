"""Text and links as they can stand in a page; the template escapes them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from zfcuda.storage.files import printable

__all__ = ["Link", "link_to", "value_shown"]


@dataclass(frozen=True)
class Link:
    """A file beside the page."""

    href: str
    name: str
    label: str  # shorter: what tells an entry's files apart


def link_to(path: Path, folder: Path, label: str = "") -> Link:
    """A link to a file from a page in a folder."""
    relative = os.path.relpath(path, folder).replace(os.sep, "/")
    return Link(quote(os.fsencode(relative)), printable(path.name), printable(label or path.name))


def value_shown(value: object) -> str:
    """A setting as one reads it; lists in lists as JSON has them."""
    if isinstance(value, list | tuple):
        nested = any(isinstance(item, list | tuple) for item in value)
        return printable(str(value)) if nested else ", ".join(map(value_shown, value))
    plain = value is None or isinstance(value, dict | bool)
    return printable(json.dumps(value, ensure_ascii=False) if plain else value)
