"""What `import zfcuda` does where its compiled library or torch is missing, old or elsewhere."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


# Of a library, a text: Python, which is run.
TORCH = """
from types import SimpleNamespace
def load_library(path):
    exec(path.read_text(), {{"path": path}})
    ops.loaded_libraries.add(str(path))
ops = SimpleNamespace(loaded_libraries=set(), load_library=load_library)
__version__ = {version!r}
"""


@pytest.fixture
def clone(tmp_path):
    """A source tree without a compiled library, beside a torch that is little but a version."""
    (tmp_path / "clone" / "zfcuda").mkdir(parents=True)
    for name in ("__init__.py", "__init__.pyi"):
        shutil.copy(ROOT / "zfcuda" / name, tmp_path / "clone" / "zfcuda")
    (tmp_path / "clone" / "setup.py").touch()
    (tmp_path / "site" / "torch").mkdir(parents=True)
    torch_of(tmp_path / "clone", "2.13.0+cpu")
    return tmp_path / "clone"


def torch_of(clone: Path, version: str) -> Path:
    folder = clone.parent / "site" / "torch"
    (folder / "__init__.py").write_text(TORCH.format(version=version))
    return folder


def compiled(folder: Path, library: str = "print(path.parent)") -> None:
    (folder / "_build_facts.py").write_text('TORCH_TESTED = ">=2.11,<2.16"')
    (folder / "_ops.so").write_text(library)


def imported(clone: Path, code: str = "import zfcuda") -> subprocess.CompletedProcess[str]:
    # -S: this environment's own zfcuda, if it is an installed one, must not be seen.
    return subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=clone,
        env={"PYTHONPATH": str(clone.parent / "site"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture
def torch_later(clone):
    """A torch whose version can be read before it is imported, which it prints."""
    folder = torch_of(clone, "2.13.1+cpu")
    (folder / "version.py").write_text("__version__ = '2.13.1+cpu'\n")
    with (folder / "__init__.py").open("a") as file:
        file.write("print('torch')")


@pytest.mark.usefixtures("torch_later")
def test_a_library_is_loaded_once_and_when_torch_is(clone):
    compiled(clone / "zfcuda", "print('library')")
    code = "import zfcuda; print('zfcuda'); import torch; zfcuda.load_library()"
    done = imported(clone, code)
    assert done.stdout.split() == ["zfcuda", "torch", "library"], done.stderr


@pytest.mark.usefixtures("torch_later")
def test_what_is_wrong_is_told_though_torch_is_not_imported(clone):
    assert "holds no compiled library" in last_line(imported(clone))
    compiled(clone / "zfcuda")
    (torch_of(clone, "2.10.0") / "version.py").write_text("__version__ = '2.10.0'\n")
    assert "torch 2.10.0 is running" in last_line(imported(clone))


def test_missing_library_names_the_folder_and_the_remedy(clone):
    line = last_line(imported(clone))
    assert line.startswith(f"ImportError: zfcuda was imported from {clone / 'zfcuda'}, which holds")
    assert f"`pip install -e {clone}`" in line


@pytest.mark.parametrize("name", ["_ops.so", "_build_facts.py"])
def test_half_a_build_is_none(clone, name):
    compiled(clone / "zfcuda")
    (clone / "zfcuda" / name).unlink()
    assert "holds no compiled library" in last_line(imported(clone))


@pytest.mark.parametrize("running", ["2.11.0", "2.13.1+cu130", "2.14.0a0+git1234567", "3.0.0"])
def test_one_library_serves_every_torch(clone, running):
    torch_of(clone, running)
    compiled(clone / "zfcuda")
    assert imported(clone).stdout.split() == [str(clone / "zfcuda")]


@pytest.mark.parametrize("running", ["2.10.1+cpu", "1.13.1"])
def test_a_torch_that_is_too_old_is_refused_before_loading(clone, running):
    torch_of(clone, running)
    compiled(clone / "zfcuda", "raise SystemExit('loaded')")
    assert last_line(imported(clone)) == (
        f"ImportError: zfcuda needs torch 2.11 or later, but torch {running} is running: "
        "upgrade it with `pip install 'torch>=2.11'`"
    )


@pytest.mark.parametrize("torch_is_there", [True, False])
def test_a_library_of_another_platform_is_refused(clone, torch_is_there):
    compiled(clone / "zfcuda", "\x7fELF of another machine")
    site = Path(torch.__file__).parents[1]
    code = f"import sys; sys.path.append({str(site)!r}); "
    code += "import torch, zfcuda" if torch_is_there else "import zfcuda, torch"
    shutil.rmtree(clone.parent / "site")
    line = last_line(imported(clone, code))
    assert line.startswith("ImportError: zfcuda's compiled library does not load here (")
    assert "_ops.so: " in line and f"build it with `pip install -e {clone}`" in line


def test_installed_package_is_rebuilt_from_its_source_folder(clone):
    (clone / "setup.py").unlink()
    assert "`pip install --force-reinstall --no-deps .` in" in last_line(imported(clone))


def test_a_clone_steps_aside_for_an_installed_package_unless_it_is_compiled(clone):
    installed = clone.parent / "site" / "zfcuda"
    shutil.copytree(clone / "zfcuda", installed)
    compiled(installed)
    (installed / "probe.py").write_text("")
    probe = "import zfcuda.probe; print(zfcuda.probe.__file__)"
    done = imported(clone, probe)
    assert done.stdout.split() == [str(installed), str(installed / "probe.py")], done.stderr
    compiled(clone / "zfcuda")
    assert imported(clone).stdout.split() == [str(clone / "zfcuda")]
