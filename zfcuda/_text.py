"""Text that can be written anywhere: names from files may hold anything."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["class_name", "printable", "short_spec", "subject", "visible"]

# What moves a terminal's cursor or colours it, ends a line, or turns the order of what is read
# around: C0 and C1, DEL, Unicode's line ends and its marks of direction.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def class_name(names: Sequence[str] | None, label: int, count: int | None = None) -> str:
    """The name of the class that output `label` of `count` stands for, or "class 7" where no name
    is known. A single output stands for the second of two classes; without names it is ""."""
    if count == 1:
        return str(names[-1]) if names and len(names) <= 2 else ""
    if names is None or not 0 <= label < len(names):
        return f"class {label}"
    return str(names[label])


def visible(text: object) -> str:
    r"""`text` on one line that shows every control character as its escape, "\x1b" or "\n"."""
    return _CONTROL.sub(_escaped, str(text))


def short_spec(spec: str) -> str:
    """A model's spec without the folders of its files."""
    return re.sub(r"[^:?]*/", "", spec)


def subject(spec: str, layers: object = None, channel: object = None) -> str:
    """A model, the layers and the map that were looked at, as titles name them; of more than three
    layers the first and the last."""
    names = [layers] if isinstance(layers, str) else [*layers] if isinstance(layers, list) else []
    names = [str(name) for name in names]
    shown = names if len(names) <= 3 else [f"{names[0]} to {names[-1]}"]
    more = [f"map {channel}"] if isinstance(channel, int) else []
    return ", ".join([short_spec(spec), *shown, *more])


def printable(text: object) -> str:
    """`text` with its lines as they are, other control characters as escapes, and a question mark
    for what is no character: a file's name may hold any bytes, and Python keeps those that are no
    UTF-8 as lone surrogates, which nothing can write."""
    lines = str(text).encode("utf-8", "replace").decode("utf-8").split("\n")
    return "\n".join(map(visible, lines))


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()
