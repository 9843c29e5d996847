"""Text that can be written anywhere."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: object) -> str:
    """`text` with a question mark for what is no character: a file's name may hold any bytes, and
    Python keeps those that are no UTF-8 as lone surrogates, which nothing can write."""
    return str(text).encode("utf-8", "replace").decode("utf-8")
