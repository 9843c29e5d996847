"""What is on disk is what is used: csrc's files, found by pattern, and the files of tests."""

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest
from toolchain import CSRC, sources


def test_every_file_belongs_to_one_library():
    files = [file for kind in ("ops", "kernels", "module") for file in sources(kind)]
    assert len(files) == len(set(files))
    assert set(files) == {p for p in CSRC.rglob("*") if p.suffix in (".cpp", ".cu", ".cc", ".c")}
    assert set(sources("host_copies")) <= set(files)


def test_an_op_has_one_name_in_every_layer():
    ops = {file.stem for file in CSRC.glob("ops/*.cpp")}
    for layer in ("cpu/*.cpp", "cuda/*.cu"):
        named = {file.stem for file in CSRC.glob(layer)}
        assert named - ops <= {"rows", "windows"}, "only what several ops share has another name"


def torch_headers(path: Path) -> set[str]:
    included = re.findall(r'^#include ([<"].+[>"])', path.read_text(), re.M)
    return {name for name in included if re.match(r"[<\"](ATen|c10|torch)/", name)}


@pytest.mark.parametrize(
    ("files", "allowed"),
    [
        # What nvcc sees builds under any torch.
        ("core/*", r"<torch/headeronly/util/(Half|BFloat16)\.h>"),
        ("cuda/*", r"<torch/headeronly/util/(Half|BFloat16)\.h>"),
        ("cpu/*", r"<torch/(headeronly|csrc/stable)/.+>"),
        ("ops/*", r"<torch/(headeronly|csrc/stable)/.+>"),
        ("*.h", r"<torch/(headeronly|csrc/stable)/.+>"),
    ],
)
def test_only_torchs_stable_headers(files, allowed):
    for path in CSRC.glob(files):
        if path.is_file():
            assert all(re.fullmatch(allowed, name) for name in torch_headers(path)), path


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
