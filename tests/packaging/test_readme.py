"""The README's commands, the package's metadata and .ci/run say the same."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
INSTALL = (ROOT / "docs" / "install.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

LINES = {
    "demo": 'pip install ".[demo]" && zfcuda demo',
    "test": 'pip install ".[test]" && pytest',
    "bench": 'pip install ".[bench]" && pytest benchmarks',
}


@pytest.mark.parametrize("extra", LINES)
def test_command_stands_alone_on_a_line_and_its_extra_exists(extra):
    assert README.splitlines().count(LINES[extra]) == 1
    assert extra in PROJECT["project"]["optional-dependencies"]


def test_ci_runs_the_readmes_test_line():
    done = subprocess.run(
        ["bash", ROOT / ".ci" / "run", "--print-test-line"], capture_output=True, text=True
    )
    assert done.stdout.strip() == LINES["test"], done.stderr


def test_readme_names_the_tested_range_of_torch():
    low, below = re.findall(r"2\.(\d+)", PROJECT["tool"]["zfcuda"]["torch"])
    assert f"torch (2.{low} to 2.{int(below) - 1})" in README


def test_every_variable_of_the_build_is_documented():
    code = "".join(path.read_text() for path in (ROOT / "build_backend").glob("*.py"))
    read = set(re.findall(r"environ(?:\.get\(|\[)\"(\w+)\"", code)) - {"VIRTUAL_ENV", "PATH"}
    assert {"MAX_JOBS", "ZFCUDA_CUDA", "TORCH_CUDA_ARCH_LIST"} <= read
    assert {name for name in read if f"`{name}`" not in INSTALL} == set()


def test_readme_fits_two_screens():
    assert len(README.splitlines()) <= 150


def test_links_of_the_pages_lead_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_files_that_the_pages_name_are_there():
    for page in (*(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md"):
        for name in re.findall(r"`((?:[\w.]+/)+[\w.]*)`", page.read_text()):
            if name.startswith(("zfcuda/", "tests/", "benchmarks/", "csrc/", "scripts/", "docs/")):
                example = "NAME" in name or "ROOM" in name
                assert example or (ROOT / name).exists(), f"{page.name}: {name}"
