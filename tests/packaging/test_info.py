"""`zfcuda info`, and what is installed, against what was built."""

from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
import torch

import zfcuda
from zfcuda import _build_facts
from zfcuda.cli import info


def test_info_states_what_runs_here():
    found = info.collect()
    assert found.zfcuda == zfcuda.__version__
    assert found.torch == torch.__version__
    assert found.threads == torch.get_num_threads()
    assert found.devices[0] == "cpu"
    assert found.cuda_verdict == _build_facts.CUDA_VERDICT
    assert found.packages["numpy"]


def test_info_text_has_every_fact_on_a_line_of_its_own():
    found = info.collect()
    lines = dict(line.split(maxsplit=1) for line in str(found).splitlines())
    assert lines["CUDA"] == found.cuda_verdict
    assert lines["SIMD"] == found.simd_level
    assert found.folder in lines["zfcuda"] and found.folder == str(Path(zfcuda.__file__).parent)
    assert found.torch in lines["torch"]
    assert lines["threads"].startswith(f"{found.threads} on {found.cores} cores")


def test_binary_and_facts_file_come_from_one_build():
    facts = zfcuda._C.build_facts()
    assert facts["cuda"] == bool(_build_facts.WITH_CUDA)
    assert facts["cuda_verdict"] == _build_facts.CUDA_VERDICT


def test_installed_package_requires_the_torch_it_was_built_against():
    try:
        installed = requires("zfcuda")
    except PackageNotFoundError:
        pytest.skip("zfcuda is compiled in place, not installed")
    major, minor, *_ = _build_facts.TORCH_VERSION.split(".")
    assert f"torch=={major}.{minor}.*" in installed


def test_completion_offers_what_is_public():
    assert {name for name in dir(zfcuda) if not name.startswith("__")} == {*zfcuda.__all__}


@pytest.mark.parametrize("name", zfcuda.__all__)
def test_every_public_name_can_be_had(name):
    assert getattr(zfcuda, name) is not None
    assert name in dir(zfcuda)


def test_unknown_attribute_is_named():
    with pytest.raises(AttributeError, match="'zfcuda' has no attribute 'deconvolution'"):
        zfcuda.deconvolution  # noqa: B018


def test_how_threads_wait(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    assert "OMP_WAIT_POLICY=passive" in info._waiting(2) and info._waiting(1) == ""
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    assert info._waiting(2) == ""
