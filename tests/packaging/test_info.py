"""`zfcuda info`, and what is installed, against what was built."""

import subprocess
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from platform import python_version

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
    from zfcuda import _C

    facts = _C.build_facts()
    assert facts["cuda"] == bool(_build_facts.WITH_CUDA)
    assert facts["cuda_verdict"] == _build_facts.CUDA_VERDICT


def test_installed_package_requires_every_torch_that_its_library_runs_with():
    try:
        installed = requires("zfcuda")
    except PackageNotFoundError:
        pytest.skip("zfcuda is compiled in place, not installed")
    oldest = _build_facts.TORCH_TESTED.split(",")[0]
    # Of a build that fetched its torch, the whole range: pip shall not fetch a second one.
    assert {f"torch{oldest}", f"torch{_build_facts.TORCH_TESTED}"} & {*installed}


@pytest.mark.parametrize(
    ("running", "built", "tested"),
    [
        ("2.11.0", "2.15.1+cu130", True),
        ("2.15.1", "2.11.0", True),
        ("2.16.0", "2.13.0+cpu", False),
        ("2.13.0+cpu", "2.16.0a0+git1234567", False),
        ("3.0.0", "2.13.0", False),
    ],
)
def test_an_untested_pair_is_called_so(running, built, tested):
    found = replace(info.collect(), torch=running, built_against=built, torch_tested=">=2.11,<2.16")
    line = next(line for line in str(found).splitlines() if line.startswith("torch"))
    assert line.split(maxsplit=1)[1] == f"{running} (kernels built against {built}" + (
        ")" if tested else "; an untested pair, tested is torch >=2.11,<2.16)"
    )


def test_without_the_python_module_of_the_build_ops_run_and_info_says_so():
    code = """
import sys
sys.modules["zfcuda._C"] = None  # as where it was built for another Python
import torch, zfcuda
from zfcuda.cli import info
print(zfcuda.ops.occlude(torch.ones(1, 1, 2, 2), torch.tensor([[0, 0, 1, 2]]), 0.5).tolist())
print(info.collect())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    ops, *lines = done.stdout.splitlines()
    assert ops == "[[[[[0.5, 0.5], [1.0, 1.0]]]]]", done.stderr
    assert (
        f"SIMD      not known (the build's zfcuda._C is not for Python {python_version()})" in lines
    )


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
