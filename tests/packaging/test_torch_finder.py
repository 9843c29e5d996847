"""Which torch the build finds, asks for, refuses and stamps."""

import subprocess
import sys
from pathlib import Path

import cuda_gate
import pytest
import torch_finder
import zfcuda_backend


def put_torch(site: Path, version: str, cuda: str | None = None) -> None:
    """A folder that looks like an installed torch, to whoever does not import it."""
    (site / "torch").mkdir(parents=True)
    (site / "torch" / "__init__.py").write_text("raise SystemExit('imported')")
    (site / "torch" / "version.py").write_text(f"cuda = {cuda!r}")
    info = site / f"torch-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")


@pytest.fixture
def environment(tmp_path):
    """An empty virtual environment: (its interpreter, its site-packages)."""
    # -I: as a fresh process, whatever PYTHONPATH the tests run under.
    subprocess.run(
        [sys.executable, "-I", "-m", "venv", "--without-pip", tmp_path / "env"], check=True
    )
    python = tmp_path / "env" / "bin" / "python"
    return python, next((tmp_path / "env" / "lib").glob("python*")) / "site-packages"


@pytest.fixture
def isolated(monkeypatch, environment):
    """As in an isolated build: no torch of its own, the user's environment beside it."""
    python, site = environment
    monkeypatch.setattr(torch_finder.probe, "torch_here", lambda: None)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    monkeypatch.delenv("ZFCUDA_TORCH_REQUIREMENT", raising=False)
    return site


def test_users_torch_is_built_against(isolated):
    put_torch(isolated, "2.12.1+cu130")
    assert zfcuda_backend.get_requires_for_build_wheel() == []
    assert zfcuda_backend.get_requires_for_build_editable() == []
    assert torch_finder.runtime_requirements()[0] == "torch>=2.11"
    before = list(sys.path)
    torch_finder.make_importable()
    assert sys.path[: len(before)] == before, "the overlay must stay in front"
    assert str(isolated) in sys.path[len(before) :]


def test_torch_behind_a_pth_file_is_found(isolated, tmp_path):
    put_torch(tmp_path / "elsewhere", "2.13.0")
    (isolated / "elsewhere.pth").write_text(str(tmp_path / "elsewhere"))
    assert torch_finder.build_requirements() == []
    torch_finder.make_importable()
    assert str(tmp_path / "elsewhere") in sys.path


def test_pythonpath_does_not_hide_the_users_torch(isolated, tmp_path, monkeypatch):
    put_torch(isolated, "2.13.0")
    put_torch(tmp_path / "overlay", "2.11.0")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "overlay"))
    assert torch_finder.find().version == "2.13.0"


def test_active_environment_is_the_second_probe(isolated, environment, tmp_path, monkeypatch):
    put_torch(isolated, "2.13.0")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    assert torch_finder.find() is None
    monkeypatch.setenv("VIRTUAL_ENV", str(environment[0].parent.parent))
    assert torch_finder.find().version == "2.13.0"


def test_torch_of_another_python_is_no_use(tmp_path):
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\n"
        'echo \'{"version": "2.13.0", "cuda": null, "path": ["/x"], "tag": "cpython-300"}\'\n'
    )
    python.chmod(0o755)
    assert torch_finder.ask(python) is None


def test_without_torch_the_tested_range_is_asked_for(isolated, capfd, monkeypatch):
    assert zfcuda_backend.get_requires_for_build_wheel() == ["torch>=2.11,<2.16"]
    assert capfd.readouterr().err.count("no torch is installed, so torch>=2.11,<2.16") == 1
    assert torch_finder.runtime_requirements()[0] == "torch>=2.11,<2.16"
    monkeypatch.setenv("ZFCUDA_TORCH_REQUIREMENT", "torch==2.12.*")
    assert zfcuda_backend.get_requires_for_build_wheel() == ["torch==2.12.*"]
    assert torch_finder.runtime_requirements()[0] == "torch==2.12.*"


def test_a_torch_of_the_passing_environment_is_asked_for_again(isolated, monkeypatch):
    fetched = {"version": "2.15.0", "cuda": "13.0", "path": [], "tag": ""}
    monkeypatch.setattr(torch_finder.probe, "torch_here", lambda: fetched)
    assert torch_finder.find().fetched
    assert torch_finder.runtime_requirements()[0] == "torch>=2.11,<2.16"
    put_torch(isolated, "2.15.0")  # a user's own, which make_importable has put on the path
    assert not torch_finder.find().fetched
    assert torch_finder.runtime_requirements()[0] == "torch>=2.11"


def test_sdist_needs_no_torch_and_promises_none(isolated, monkeypatch):
    put_torch(isolated, "2.12.0")
    assert zfcuda_backend.get_requires_for_build_sdist() == []
    monkeypatch.setattr(sys, "argv", ["setup.py", "sdist"])
    assert torch_finder.runtime_requirements()[0] == "torch>=2.11"


@pytest.mark.parametrize("version", ["2.10.1", "1.13.1+cu117"])
def test_older_torch_is_refused_by_name(version):
    with pytest.raises(SystemExit, match=rf"needs torch 2.11 or later, but torch {version[:4]}"):
        torch_finder.refuse_old(version)


@pytest.mark.parametrize("newer", [False, True])
def test_newer_torch_gets_one_warning_and_tested_ones_none(newer, capfd):
    tested, untested = ("2.11.0", "2.15.1+cpu", "2.12.0a0+git123"), ("2.16.0", "3.0.0.dev1")
    for version in untested if newer else tested:
        torch_finder.refuse_old(version)
        torch_finder.warn_of_new(version)
        error = capfd.readouterr().err
        assert error.count(f"torch {version} is newer than the tested range") == newer
        assert newer or error == ""


@pytest.fixture
def without_nvcc(isolated, monkeypatch, tmp_path):
    """A machine with an NVIDIA driver and a torch for CUDA, but no toolkit."""
    for name in ("CUDA_HOME", "CUDA_PATH", "ZFCUDA_CUDA", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cuda_gate, "TOOLKIT", tmp_path / "none")
    monkeypatch.setattr(cuda_gate, "has_driver", lambda: True)
    monkeypatch.setattr(cuda_gate.shutil, "which", lambda name, path=None: None)
    monkeypatch.setattr(zfcuda_backend, "compiler", lambda: ["g++"])
    return isolated


def test_a_compiler_is_fetched_for_torchs_cuda(without_nvcc, capfd):
    put_torch(without_nvcc, "2.15.0+cu132", "13.2")
    asked = zfcuda_backend.get_requires_for_build_wheel()
    assert asked == ["cuda-toolkit[nvcc,cccl]==13.2.*"]
    assert "torch 2.15.0+cu132 uses CUDA 13.2 and no nvcc fits it" in capfd.readouterr().err


@pytest.mark.parametrize(("version", "cuda"), [("2.15.0+cpu", None), ("2.12.0+cu126", "12.6")])
def test_no_compiler_is_fetched_where_none_would_do(without_nvcc, version, cuda, capfd):
    put_torch(without_nvcc, version, cuda)
    assert zfcuda_backend.get_requires_for_build_wheel() == []
    assert capfd.readouterr().err == ""


def test_a_missing_host_compiler_is_said_before_anything_is_fetched(isolated, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SystemExit, match=r"^zfcuda: the C\+\+ compiler 'no-such-compiler' was not"):
        zfcuda_backend.get_requires_for_build_wheel()


def test_a_read_only_tree_is_built_in_a_copy(tmp_path, monkeypatch, capfd):
    (tmp_path / "setup.py").touch()
    monkeypatch.chdir(tmp_path)
    with zfcuda_backend._writable_tree():
        assert Path.cwd() == tmp_path
    monkeypatch.setattr(zfcuda_backend, "is_writable", lambda folder: False)
    with zfcuda_backend._writable_tree():
        copy = Path.cwd()
        assert copy != tmp_path and (copy / "setup.py").is_file()
    assert Path.cwd() == tmp_path and not copy.exists()
    assert (
        f"zfcuda: {tmp_path} cannot be written, so a copy of it is built" in capfd.readouterr().err
    )
