"""How the commands of a build are made and run, and what it says where it cannot go on."""

import ast
import os
import re
import subprocess
import sys

import cuda_gate
import extension
import pytest
import steps as building
import toolchain
import torch
from cuda_gate import Gate, Nvcc
from steps import Step


@pytest.fixture
def steps(tmp_path):
    """Two files copied ("compiled"), then joined ("linked"), in a folder with a space."""
    folder = tmp_path / "with space"
    folder.mkdir()
    compiles = []
    for name in ("a", "b"):
        source = folder / f"{name}.cpp"
        source.write_text(name)
        output = folder / "objects" / f"{name}.o"
        # As a compiler does: the output, and a depfile that names what it was made from.
        script = 'cp "$1" "$2" && : > "$2.d" && echo "$1" >> log'
        command = ("sh", "-c", script, "sh", str(source), str(output))
        compiles.append(Step(output, (source,), command))
    objects = [step.output for step in compiles]
    joined = 'cat "$1" "$2" > "$3"'
    link = Step(
        folder / "library",
        tuple(objects),
        ("sh", "-c", joined, "sh", *map(str, objects), str(folder / "library")),
    )
    return compiles, link, folder


@pytest.mark.parametrize("with_ninja", [True, False])
def test_commands_run_with_and_without_ninja(steps, with_ninja, monkeypatch):
    compiles, link, folder = steps
    if with_ninja and building.shutil.which("ninja") is None:
        pytest.skip("ninja is not installed")
    if not with_ninja:
        monkeypatch.setattr(building.shutil, "which", lambda name: None)
    monkeypatch.chdir(folder)
    building.run(compiles, [link], folder)
    assert link.output.read_text() == "ab"


def test_what_is_due_is_known_beforehand(steps):
    if building.shutil.which("ninja") is None:
        pytest.skip("ninja is not installed")
    compiles, link, folder = steps
    assert building.outdated([*compiles, link], folder) == [*compiles, link]
    building.run(compiles, [link], folder)
    assert building.outdated([*compiles, link], folder) == []
    os.utime(folder / "a.cpp", ns=(2**62, 2**62))
    assert building.outdated([*compiles, link], folder) == [compiles[0], link]


def test_compiling_is_announced_and_nothing_else_is(steps, capfd):
    compiles, link, folder = steps
    extension.run_said(compiles, [link], folder, Gate(""))
    assert "zfcuda: compiling 2 files with " in capfd.readouterr().err
    if building.shutil.which("ninja"):
        extension.run_said(compiles, [link], folder, Gate(""))
        assert capfd.readouterr() == ("", "")


def test_failing_command_raises(steps, monkeypatch):
    compiles, link, folder = steps
    monkeypatch.setattr(building.shutil, "which", lambda name: None)
    broken = Step(compiles[0].output, compiles[0].inputs, ("false",))
    with pytest.raises(subprocess.CalledProcessError):
        building.run([broken], [link], folder)


@pytest.mark.parametrize(("value", "jobs"), [("1", 1), (" 7 ", 7)])
def test_max_jobs_is_honoured(value, jobs, monkeypatch):
    monkeypatch.setenv("MAX_JOBS", value)
    assert building.job_count() == jobs


@pytest.mark.parametrize("value", ["0", "-2", "many", "1.5"])
def test_max_jobs_must_be_a_count(value, monkeypatch):
    monkeypatch.setenv("MAX_JOBS", value)
    with pytest.raises(
        ValueError, match=re.escape(f"MAX_JOBS must be a positive whole number, got {value!r}")
    ):
        building.job_count()


def test_default_jobs_stay_within_the_cores(monkeypatch):
    monkeypatch.delenv("MAX_JOBS", raising=False)
    assert 1 <= building.job_count() <= len(os.sched_getaffinity(0))


def test_header_and_module_state_the_same_facts():
    gate = Gate('zfcuda was built for the CPU only, because of a "quoted" reason')
    values = {
        name: ast.literal_eval(value)
        for name, value in re.findall(r"^(\w+) = (.+)$", extension.facts_module(gate), re.M)
    }
    assert values["CUDA_VERDICT"] == gate.verdict
    assert values.pop("SOURCES") == toolchain.digest()
    header = dict(re.findall(r"#define ZFCUDA_(\w+) (.+)", extension.facts_header(gate)))
    assert {name: ast.literal_eval(value) for name, value in header.items()} == values


def test_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"'no-such-compiler' was not found: .*g\+\+ 12"):
        toolchain.compiler()


@pytest.mark.parametrize(
    ("macros", "accepted"),
    [
        ("#define __GNUC__ 11", False),
        ("#define __GNUC__ 12", True),
        ("#define __clang__ 1\n#define __GNUC__ 4", True),  # as every clang claims
    ],
)
def test_too_old_compiler_is_refused(macros, accepted, monkeypatch, tmp_path):
    script = tmp_path / "c++"
    script.write_text(f"#!/bin/sh\ncat << END\n{macros}\nEND\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", f"{script} -pipe")
    if accepted:
        assert toolchain.compiler() == [str(script), "-pipe"]
    else:
        with pytest.raises(ValueError, match=r"is g\+\+ 11: zfcuda needs g\+\+ 12"):
            toolchain.compiler()


def test_a_folder_that_cannot_be_written_is_said_and_replaced(monkeypatch, tmp_path, capfd):
    (tmp_path / "build").write_text("in the way, to root as well")
    monkeypatch.setattr(extension, "ROOT", tmp_path)
    folder = extension.build_folder("objects")
    assert folder.is_dir() and tmp_path not in folder.parents
    said = capfd.readouterr().err
    assert f"{tmp_path / 'build'}" in said and "cannot be written" in said
    (tmp_path / "build").unlink()
    assert extension.build_folder("objects").name == f"objects-torch-{torch.__version__}"


@pytest.fixture
def tools(tmp_path, monkeypatch):
    for name in ("CXX", "CXXFLAGS", "LDFLAGS", "ZFCUDA_WERROR", "ZFCUDA_SANITIZE"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "cuda"
    nvcc = Nvcc(home, "13.0", frozenset({"9.0"}))
    return lambda **gate: toolchain.Toolchain(Gate("", nvcc, ("9.0",), **gate), tmp_path)


def test_the_ops_are_compiled_for_the_oldest_torch(tools):
    assert toolchain.torch_finder.LOWEST == "2.11"
    command = tools().compile(toolchain.CSRC / "ops" / "occlude.cpp").command
    assert "-DTORCH_TARGET_VERSION=0x020b000000000000ULL" in command


def test_kernels_go_to_nvcc_and_as_host_copies_to_the_host_compiler(tools, tmp_path):
    kernel = toolchain.CSRC / "cuda" / "occlude.cu"
    step = tools().compile(kernel)
    assert step.command[0] == str(tmp_path / "cuda" / "bin" / "nvcc")
    assert "-gencode=arch=compute_90,code=sm_90" in step.command
    copy = tools().compile(kernel, *toolchain.FLAGS["host_copies"])
    assert copy.command[0] == "g++" and "-DZFCUDA_HOST_COPIES" in copy.command


@pytest.mark.parametrize(
    ("lies", "static", "linked"),
    [
        (["lib64/libcudart.so", "lib64/libcudart.so.13"], False, "lib64/libcudart.so"),
        (["lib/libcudart.so.13"], False, "lib/libcudart.so.13"),  # as Python packages have it
        (["lib/libcudart.so.13", "lib/libcudart_static.a"], True, "lib/libcudart_static.a"),
        ([], False, None),
    ],
)
def test_cuda_runtime_is_torchs_own_where_it_has_one(tools, tmp_path, lies, static, linked):
    for name in lies:
        (tmp_path / "cuda" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cuda" / name).touch()
    flags = tools(static_runtime=static).cudart
    assert flags[0] == (str(tmp_path / "cuda" / linked) if linked else "-lcudart")


def test_a_sanitized_build_has_a_folder_and_flags_of_its_own(tools, monkeypatch, tmp_path):
    monkeypatch.setattr(extension, "ROOT", tmp_path)
    plain = extension.build_folder("objects")
    monkeypatch.setenv("ZFCUDA_SANITIZE", "1")
    assert extension.build_folder("objects") != plain
    made = tools()
    assert "-fsanitize=address,undefined" in made.cxx_flags
    assert "-fsanitize=address,undefined" in made.link_flags
    assert "-fsanitize=address,undefined" not in made.nvcc_flags


def test_without_a_torch_one_sentence_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit, match=r"no torch to build against .* install one first"):
        extension.BuildExtension.build_extensions(None)


def test_demanded_cuda_that_cannot_be_had_ends_the_build_in_one_sentence(monkeypatch, tmp_path):
    def refuse():
        raise cuda_gate.CudaUnavailable("ZFCUDA_CUDA=1 demands CUDA kernels, but there is no nvcc")

    monkeypatch.setattr(extension, "ROOT", tmp_path)
    monkeypatch.setattr(extension, "decide", refuse)
    with pytest.raises(SystemExit, match=r"^zfcuda: ZFCUDA_CUDA=1 demands CUDA kernels, but there"):
        extension.BuildExtension.build_extensions(None)
