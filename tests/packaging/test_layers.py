"""Imports point downwards, lazy ones too (docs/architecture.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

import zfcuda

PACKAGE = Path(zfcuda.__file__).parent
FILES = {
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): file
    for file in PACKAGE.rglob("*.py")
}


def imported(node: ast.AST, package: str) -> Iterator[str]:
    """The modules of zfcuda that ``node``, in a module of this package, imports when it is run."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in FILES)
    if isinstance(node, ast.ImportFrom):
        source = resolve_name("." * node.level + (node.module or ""), package)
        for alias in node.names:
            name = f"{source}.{alias.name}"
            if name in FILES or source in FILES:
                yield name if name in FILES else source
    for child in ast.iter_child_nodes(node):
        yield from imported(child, package)


def part(module: str) -> str:
    """What architecture.md takes as one: a module of the package, or a folder in it. The two tools
    of ``compat`` have nothing in common."""
    names = module.split(".")[1:]
    return ".".join(names[:2] if names[:1] == ["compat"] else names[:1])


@pytest.fixture(scope="module")
def below() -> dict[str, set[str]]:
    """By module, those that it imports."""
    found = {}
    for name, file in FILES.items():
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        code = ast.parse(file.read_text(encoding="utf-8"))
        found[name] = {*imported(code, package)} - {name}
    return found


@pytest.fixture(scope="module")
def parts_below(below) -> dict[str, set[str]]:
    parts: dict[str, set[str]] = {}
    for name, others in below.items():
        parts.setdefault(part(name), set()).update(map(part, others))
    return {name: others - {name, ""} for name, others in parts.items()}


def test_no_circles(below, parts_below):
    for graph in (below, parts_below):
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            pytest.fail(f"these import each other: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("reference", set()),
        ("rules", set()),
        ("data", set()),
        ("compat.onnx", set()),
        ("ops", {"_load", "reference"}),
        ("results", {"_files", "figures"}),  # the latter when one is drawn
        ("figures", {"_text", "data"}),
    ],
)
def test_foundations_know_little(parts_below, name, known):
    assert parts_below[name] <= known


def test_nothing_imports_what_is_on_top(parts_below):
    for top in ("demo", "commands", "compat.captum"):
        above = {name for name, others in parts_below.items() if top in others}
        assert above <= {"commands", "cli"}, top
