"""The house: how many rooms there are, on how many floors, and how they may know of each other.

A *room* is a folder of the package that holds modules. Imports point downwards, those for type
checkers and lazy ones too; the *floor* of a room or a module at the top is the longest chain of
others below it. The bounds are what the house was built for: work that adds an ability may raise
them by what it names.
"""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

import zfcuda

PACKAGE = Path(zfcuda.__file__).parent
MADE = "_build_facts"  # by the build
FILES = {
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): file
    for file in PACKAGE.rglob("*.py")
    if file.stem != MADE
}


def imported(file: Path, package: str) -> set[str]:
    """The modules of zfcuda that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package)
            names = {f"{source}.{alias.name}" for alias in node.names}
            found |= {name if name in FILES else source for name in names}
    return {name for name in found if name in FILES}


@cache
def modules() -> dict[str, set[str]]:
    """By module, those that it imports; the package itself, which is lazy, is nobody's."""
    found = {}
    for name, file in FILES.items():
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        found[name] = imported(file, package) - {name, "zfcuda"}
    return found


@cache
def rooms() -> dict[str, set[str]]:
    """The same between the folders, and the other modules, at the package's top."""
    found: dict[str, set[str]] = {}
    for name, others in modules().items():
        if name != "zfcuda":
            found.setdefault(name.split(".")[1], set()).update(o.split(".")[1] for o in others)
    return {name: others - {name} for name, others in found.items()}


def floors(graph: Mapping[str, set[str]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in TopologicalSorter(graph).static_order():
        found[name] = 1 + max((found[other] for other in graph[name]), default=0)
    return found


@pytest.mark.parametrize("graph", [modules, rooms], ids=["modules", "rooms"])
def test_no_circles(graph):
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(f"these import each other: {' <- '.join(error.args[1])}")


def test_rooms_and_their_floors():
    folders = {file.parent for file in FILES.values()} - {PACKAGE}
    assert len(folders) <= 23
    assert max(floors(rooms()).values()) <= 9


def test_files_are_few_and_neither_long_nor_short():
    top = {name.split(".")[1] for name in FILES if name != "zfcuda"} | {"__init__"}
    assert len(top) <= 17
    assert len(FILES) <= 201
    lengths = [
        len(file.read_text(encoding="utf-8").splitlines())
        for file in FILES.values()
        if file.name != "__init__.py"
    ]
    assert statistics.median(lengths) >= 120


@pytest.mark.parametrize(
    ("room", "known"),
    [
        ("ops", set()),
        ("storage", set()),
        ("results", {"storage"}),
        ("inference", {"ops", "results", "storage"}),
        ("figures", {"data", "results", "storage"}),
    ],
)
def test_foundations_know_little(room, known):
    assert rooms()[room] <= known


@pytest.mark.parametrize("top", ["cli", "compat", "report"])
def test_nothing_imports_what_is_on_top(top):
    above = {name for name, others in rooms().items() if top in others}
    assert above <= {"cli", "__main__"}


def test_the_modules_that_docstrings_name_exist():
    dead = set()
    for name, file in FILES.items():
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        text = file.read_text(encoding="utf-8")
        named = re.findall(r":mod:`~?(\.+\w[\w.]*|zfcuda[\w.]*)`", text)
        dead |= {(name, one) for one in named if resolve_name(one, package) not in FILES}
    assert not dead
