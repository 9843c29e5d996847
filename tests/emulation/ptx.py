"""nvcc's PTX, read: functions, their parameters and their statements."""

from __future__ import annotations

import re
from dataclasses import dataclass

TYPES = ("pred", "f32", "f64", "f16", "bf16", *(f"{k}{n}" for k in "bus" for n in (8, 16, 32, 64)))
BITS = {kind: int(re.sub(r"\D", "", kind) or 1) for kind in TYPES}


class Unknown(Exception):
    """PTX that is not understood here."""


@dataclass(frozen=True)
class Parameter:
    name: str
    size: int  # bytes
    alignment: int


@dataclass(frozen=True)
class Function:
    """A kernel (an *entry*), or what one calls.

    Attributes:
        body: its statements, see :func:`statements`.
        max_threads: of a block.
    """

    name: str
    is_entry: bool
    parameters: tuple[Parameter, ...]
    result: Parameter | None
    body: tuple[str, ...]
    max_threads: int = 1024


def functions(text: str) -> list[Function]:
    """All that have a body."""
    text = re.sub(r"//[^\n]*", "", text)
    head = re.compile(
        r"(?:\.visible\s+|\.weak\s+)?\.(entry|func)\s*(?:\(([^)]*)\)\s*)?"
        r"([\w$]+)\s*\(([^)]*)\)([^{;]*)(\{|;)"
    )
    found = []
    for match in head.finditer(text):
        kind, result, name, params, directives, opening = match.groups()
        if opening == ";":
            continue
        depth, at = 1, match.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            at += 1
        threads = re.search(r"\.maxntid\s+(\d+)", directives)
        found.append(
            Function(
                name,
                kind == "entry",
                tuple(parameters(params)),
                parameters(result)[0] if result else None,
                tuple(statements(text[match.end() : at - 1])),
                int(threads[1]) if threads else Function.max_threads,
            )
        )
    return found


def parameters(text: str) -> list[Parameter]:
    """``.param .align 8 .b8 name[16], .param .u32 count``."""
    found = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        match = re.fullmatch(
            r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?", part
        )
        if not match:
            raise Unknown(f"parameter {part!r}")
        align, kind, name, count = match.groups()
        size = BITS[kind] // 8
        found.append(Parameter(name, size * int(count or 1), int(align or size)))
    return found


def statements(text: str) -> list[str]:
    """Labels with their colon, lone braces, and instructions without their semicolon."""
    token = re.compile(r"\s*(?:([$\w]+:)|([{}])|([^;]*?);)", re.S)
    text = text.strip()
    found, at = [], 0
    while at < len(text):
        match = token.match(text, at)
        if not match:
            raise Unknown(f"statement {text[at : at + 80]!r}")
        found.append(" ".join(next(g for g in match.groups() if g is not None).split()))
        at = match.end()
    return found


def operands(text: str) -> list[str]:
    """What commas outside of all brackets part."""
    found, depth, begin = [], 0, 0
    for at, char in enumerate(text):
        depth += {"{": 1, "[": 1, "(": 1, "}": -1, "]": -1, ")": -1}.get(char, 0)
        if char == "," and depth == 0:
            found.append(text[begin:at].strip())
            begin = at + 1
    if text[begin:].strip():
        found.append(text[begin:].strip())
    return found
