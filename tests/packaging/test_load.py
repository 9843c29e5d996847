"""What `import zfcuda` says when its compiled library is missing, foreign or elsewhere."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clone(tmp_path):
    """A source tree without a compiled library, beside a torch that is only a version number."""
    (tmp_path / "clone" / "zfcuda").mkdir(parents=True)
    for name in ("__init__.py", "__init__.pyi"):
        shutil.copy(ROOT / "zfcuda" / name, tmp_path / "clone" / "zfcuda")
    (tmp_path / "clone" / "setup.py").touch()
    (tmp_path / "site" / "torch").mkdir(parents=True)
    (tmp_path / "site" / "torch" / "__init__.py").write_text("__version__ = '2.13.0+cpu'")
    return tmp_path / "clone"


def compiled(folder: Path, torch_version: str, library: str | None = None) -> None:
    (folder / "_build_facts.py").write_text(f"TORCH_VERSION = {torch_version!r}")
    (folder / "_C.py").write_text(library or f"where = {str(folder)!r}")


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
    folder = clone.parent / "site" / "torch"
    (folder / "version.py").write_text("__version__ = '2.13.1+cpu'\n")
    (folder / "__init__.py").write_text("print('torch'); __version__ = '2.13.1+cpu'")


@pytest.mark.usefixtures("torch_later")
def test_what_is_wrong_with_the_library_is_told_at_once(clone):
    compiled(clone / "zfcuda", "2.12.0")
    assert "built against torch 2.12.0" in last_line(imported(clone))
    compiled(clone / "zfcuda", "2.13.0")
    (clone / "zfcuda" / "_C.py").unlink()
    assert "holds no compiled library" in last_line(imported(clone))


@pytest.mark.usefixtures("torch_later")
def test_a_library_is_loaded_when_torch_is(clone):
    compiled(clone / "zfcuda", "2.13.0", "print('library')")
    done = imported(clone, "import zfcuda; print('zfcuda'); import torch")
    assert done.stdout.split() == ["zfcuda", "torch", "library"], done.stderr


def test_missing_library_names_the_folder_and_the_remedy(clone):
    line = last_line(imported(clone))
    assert line.startswith(f"ImportError: zfcuda was imported from {clone / 'zfcuda'}, which holds")
    assert f"`pip install -e {clone}`" in line


def test_a_library_that_fails_inside_is_not_called_missing_and_facts_alone_are_none(clone):
    compiled(clone / "zfcuda", "2.13.0", "import no_such_module")
    assert last_line(imported(clone)) == "ModuleNotFoundError: No module named 'no_such_module'"
    (clone / "zfcuda" / "_C.py").unlink()
    assert "holds no compiled library" in last_line(imported(clone))


@pytest.mark.parametrize("built", ["2.13.0+cpu", "2.13.1+cu130"])
def test_same_minor_version_of_torch_loads(clone, built):
    compiled(clone / "zfcuda", built)
    assert imported(clone).returncode == 0


@pytest.mark.parametrize("built", ["2.12.0", "2.1.3", "3.13.0"])
def test_other_minor_version_of_torch_is_refused_before_loading(clone, built):
    compiled(clone / "zfcuda", built, "raise SystemExit('loaded')")
    line = last_line(imported(clone))
    assert f"built against torch {built}, but torch 2.13.0+cpu is running" in line
    assert f"rebuild it with `pip install -e {clone}`" in line


def test_installed_package_is_rebuilt_from_its_source_folder(clone):
    (clone / "setup.py").unlink()
    compiled(clone / "zfcuda", "2.12.0")
    assert "`pip install --force-reinstall --no-deps .` in" in last_line(imported(clone))


def test_a_clone_steps_aside_for_an_installed_package_unless_it_is_compiled(clone):
    installed = clone.parent / "site" / "zfcuda"
    shutil.copytree(clone / "zfcuda", installed)
    compiled(installed, "2.13.0")
    (installed / "probe.py").write_text("")
    code = "import zfcuda._C; print(zfcuda._C.where)"
    probe = "import zfcuda.probe; print(zfcuda.probe.__file__)"
    done = imported(clone, f"{code}; {probe}")
    assert done.stdout.split() == [str(installed), str(installed / "probe.py")], done.stderr
    compiled(clone / "zfcuda", "2.13.0")
    assert imported(clone, code).stdout.split() == [str(clone / "zfcuda")]
