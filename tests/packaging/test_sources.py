"""What is on disk is what is used: csrc/sources.txt, the one list that setup.py and CMakeLists.txt
compile from, and the files of tests."""

import re
from fnmatch import fnmatch
from pathlib import Path

import extension
import pytest

CSRC = Path(extension.CSRC)


def test_list_and_disk_agree():
    on_disk = {str(p.relative_to(CSRC.parent)) for p in CSRC.rglob("*.c*") if p.suffix != ".h"}
    listed = extension.sources()
    assert len(listed) == len(set(listed)), "a file is listed twice"
    assert set(listed) == on_disk


def test_only_kernels_need_nvcc():
    for source in extension.sources():
        is_kernel = source.startswith("csrc/cuda/") and source.endswith("_kernel.cu")
        assert is_kernel == source.endswith(".cu"), source


def test_kernels_are_torch_free():
    """nvcc sees no torch header beyond the 16-bit types, so kernels build under any torch."""
    allowed = {"<c10/util/Half.h>", "<c10/util/BFloat16.h>"}
    for path in [*CSRC.glob("cuda/*_kernel.cu"), *CSRC.glob("core/*.h")]:
        included = {
            line.split()[1] for line in path.read_text().splitlines() if line.startswith("#include")
        }
        torch_headers = {name for name in included if name.startswith(("<ATen", "<c10", "<torch"))}
        assert torch_headers <= allowed, path


def test_every_file_of_tests_is_collected(pytestconfig: pytest.Config):
    """Without a word, pytest passes by folders of some names ("build", "dist"), and files of other
    names than test_*.py."""
    tests = Path(__file__).parents[1]
    never, named = pytestconfig.getini("norecursedirs"), pytestconfig.getini("python_files")
    with_tests = [
        p for p in tests.rglob("*.py") if re.search(r"^(async )?def test_", p.read_text(), re.M)
    ]
    assert len(with_tests) > 100
    for path in with_tests:
        folders = path.relative_to(tests).parts[:-1]
        passed_by = [folder for folder in folders for pattern in never if fnmatch(folder, pattern)]
        assert not passed_by, path
        assert any(fnmatch(path.name, pattern) for pattern in named), path
