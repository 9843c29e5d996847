"""The CUDA verdict, a function of torch, nvcc, the driver and GPUs that can be seen and two
variables; and the compiler that is asked for where there is none."""

from pathlib import Path

import cuda_gate
import pytest
from cuda_gate import CudaUnavailable, Nvcc, compiler_requirements, decide, find_nvcc

NVCC = Nvcc(Path("/cuda"), "13.0", frozenset({"7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0"}))
OLD_NVCC = Nvcc(Path("/cuda"), "12.1", frozenset({"8.0", "8.6", "8.9", "9.0"}))
CUDA_TORCH = ("2.13.0+cu130", "13.0")
OLD_TORCH = ("2.11.0+cu126", "12.6")
CPU_TORCH = ("2.13.0+cpu", None)


@pytest.mark.parametrize(
    ("torch", "nvcc", "setting", "reason"),
    [
        (CUDA_TORCH, NVCC, "0", "ZFCUDA_CUDA=0 was set"),
        (CPU_TORCH, NVCC, "auto", "torch 2.13.0+cpu has no CUDA"),
        (CPU_TORCH, None, "auto", "torch 2.13.0+cpu has no CUDA"),
        (CUDA_TORCH, None, "auto", "no working nvcc was found"),
        (CUDA_TORCH, None, "auto", "pip install 'cuda-toolkit[nvcc,cccl]==13.0.*'"),
        (OLD_TORCH, None, "auto", "torch 2.11.0+cu126 needs the toolkit of CUDA 12.6 installed"),
        (CUDA_TORCH, OLD_NVCC, "auto", "nvcc is CUDA 12.1 and torch 2.13.0+cu130 uses CUDA 13.0"),
    ],
)
def test_cpu_only_says_why(torch, nvcc, setting, reason):
    gate = decide(*torch, nvcc, environ={"ZFCUDA_CUDA": setting})
    assert not gate.with_cuda
    assert gate.verdict.startswith("zfcuda was built for the CPU only, because ")
    assert reason in gate.verdict
    assert "\n" not in gate.verdict


def test_a_machine_without_nvidia_is_told_how_to_build_for_one():
    verdict = decide(*CUDA_TORCH, None, environ={}, driver=False).verdict
    assert verdict == (
        "zfcuda was built for the CPU only, because there is no NVIDIA driver and no nvcc here "
        "(for a machine with a GPU build with ZFCUDA_CUDA=1)"
    )
    # A container build: nvcc decides, not the driver.
    assert decide(*CUDA_TORCH, NVCC, environ={}, driver=False).with_cuda


@pytest.mark.parametrize(
    ("torch", "nvcc", "reason"),
    [
        (CUDA_TORCH, None, "no working nvcc"),
        (CPU_TORCH, None, "no working nvcc"),
        (CUDA_TORCH, OLD_NVCC, "the major versions must be the same"),
    ],
)
def test_demanded_cuda_fails_loudly(torch, nvcc, reason):
    with pytest.raises(
        CudaUnavailable, match=f"ZFCUDA_CUDA=1 demands CUDA kernels, but .*{reason}"
    ):
        decide(*torch, nvcc, environ={"ZFCUDA_CUDA": "1"})


OLD = (*OLD_TORCH, OLD_NVCC)


@pytest.mark.parametrize(
    ("torch", "gpus", "archs"),
    [
        ((*CUDA_TORCH, NVCC), (), ("8.0", "9.0", "10.0", "12.0+PTX")),  # common chips
        (OLD, (), ("8.0", "9.0+PTX")),  # what nvcc knows of them
        ((*CUDA_TORCH, NVCC), ["9.0", "9.0"], ("9.0",)),  # those that are seen
        (OLD, ["12.0"], ("8.0", "9.0+PTX")),  # unless nvcc is too old for one
    ],
)
def test_kernels_for_which_chips(torch, gpus, archs):
    gate = decide(*torch, gpus, environ={})
    assert gate.with_cuda and not gate.static_runtime and gate.archs == archs
    assert f"CUDA {torch[2].version} kernels" in gate.verdict


@pytest.mark.parametrize("wished", ["8.0;9.0+PTX", "8.0 9.0+PTX", "8.0, 9.0+PTX"])
def test_torch_cuda_arch_list_wins(wished):
    gate = decide(*CUDA_TORCH, NVCC, ["8.6"], {"TORCH_CUDA_ARCH_LIST": wished})
    assert gate.archs == ("8.0", "9.0+PTX")
    assert gate.nvcc_arch_flags == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_80,code=sm_90",
        "-gencode=arch=compute_80,code=compute_80",
    ]


def test_chips_that_are_optimised_alike_share_a_ptx():
    wished = {"TORCH_CUDA_ARCH_LIST": "7.5 8.6 9.0 10.0 12.0+PTX"}
    assert decide(*CUDA_TORCH, NVCC, environ=wished).nvcc_arch_flags == [
        "-gencode=arch=compute_75,code=sm_75",
        "-gencode=arch=compute_86,code=sm_86",
        "-gencode=arch=compute_86,code=sm_90",
        "-gencode=arch=compute_100,code=sm_100",
        "-gencode=arch=compute_100,code=sm_120",
        "-gencode=arch=compute_100,code=compute_100",
    ]


def test_cpu_torch_can_compile_link_and_load_kernels():
    gate = decide(*CPU_TORCH, OLD_NVCC, environ={"ZFCUDA_CUDA": "1"})
    assert gate.with_cuda
    assert gate.static_runtime
    assert "they load but cannot run" in gate.verdict


@pytest.mark.parametrize(
    ("setting", "value"), [("ZFCUDA_CUDA", "yes"), ("TORCH_CUDA_ARCH_LIST", "Hopper")]
)
def test_settings_that_mean_nothing_are_named(setting, value):
    with pytest.raises(ValueError, match=f"{setting}.*{value.lower()}|{setting}.*{value}"):
        decide(*CUDA_TORCH, NVCC, environ={setting: value})


def nvcc_script(path: Path, home: Path, release: str = "13.0") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "#!/bin/sh\ncase $1 in\n"
        f"--version) echo 'Cuda compilation tools, release {release}, V{release}.88';;\n"
        "--list-gpu-arch) printf 'compute_80\\ncompute_90\\ncompute_120\\n';;\n"
        f"--dryrun) echo '#$ _HERE_={home}/bin' >&2;;\nesac\n"
    )
    path.chmod(0o755)


def test_nvcc_behind_a_wrapper_names_its_own_folder_and_cuda_home_comes_before_it(tmp_path):
    nvcc_script(tmp_path / "wrapper" / "nvcc", tmp_path / "cuda")
    environ = {"PATH": str(tmp_path / "wrapper")}
    nvcc = Nvcc(tmp_path / "cuda", "13.0", frozenset({"8.0", "9.0", "12.0"}))
    assert find_nvcc(environ=environ) == nvcc
    nvcc_script(tmp_path / "mine" / "bin" / "nvcc", tmp_path / "mine", "12.8")
    assert find_nvcc("13.0", environ | {"CUDA_HOME": str(tmp_path / "mine")}).version == "12.8"


def test_the_nvcc_that_fits_torch_is_found_among_several(tmp_path, monkeypatch):
    monkeypatch.setattr(cuda_gate, "TOOLKIT", tmp_path / "toolkit")
    environ = {"PATH": str(tmp_path / "bin")}
    assert find_nvcc("13.0", environ, path=[]) is None
    packaged = tmp_path / "site" / "nvidia" / "cu13"
    nvcc_script(tmp_path / "toolkit" / "bin" / "nvcc", tmp_path / "toolkit", "12.8")
    nvcc_script(packaged / "bin" / "nvcc", packaged)
    site = [str(tmp_path / "site")]
    assert find_nvcc("13.2", environ, site).home == packaged
    assert find_nvcc("12.6", environ, site).home == tmp_path / "toolkit"
    assert find_nvcc("12.6", environ | {"PATH": ""}, []).home == tmp_path / "toolkit"
    assert find_nvcc("11.8", environ, site).version == "12.8"  # none fits: the first, to be named


@pytest.mark.parametrize(
    ("cuda", "nvcc", "driver", "environ", "asked"),
    [
        ("13.0", None, True, {}, True),
        ("13.0", OLD_NVCC, True, {}, True),
        ("13.0", None, False, {"ZFCUDA_CUDA": "1"}, True),
        ("13.0", None, False, {"TORCH_CUDA_ARCH_LIST": "9.0"}, True),
        ("13.0", None, False, {}, False),
        ("13.0", None, True, {"ZFCUDA_CUDA": "0"}, False),
        ("13.0", NVCC, True, {}, False),
        ("12.6", None, True, {}, False),  # its packages have no nvcc
        (None, None, True, {"ZFCUDA_CUDA": "1"}, False),
    ],
)
def test_when_pip_is_asked_for_a_compiler(cuda, nvcc, driver, environ, asked):
    assert compiler_requirements(cuda, nvcc, driver, environ) == (
        ["cuda-toolkit[nvcc,cccl]==13.0.*"] if asked else []
    )
