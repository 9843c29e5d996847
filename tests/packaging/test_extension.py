"""How the commands of a build are made and run."""

import ast
import os
import re
import subprocess

import extension
import pytest
from cuda_gate import Gate
from extension import Step


@pytest.fixture
def steps(tmp_path):
    """Two files copied ("compiled"), then joined ("linked"), in a folder with a space."""
    folder = tmp_path / "with space"
    folder.mkdir()
    compiles = []
    for name in ("a", "b"):
        (folder / name).write_text(name)
        output = folder / "objects" / f"{name}.o"
        # As a compiler does: the output, and a depfile that names what it was made from.
        script = 'cp "$1" "$2" && : > "$2.d" && echo "$1" >> log'
        command = ("sh", "-c", script, "sh", str(folder / name), str(output))
        compiles.append(Step(output, (folder / name,), command))
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
    if with_ninja and extension.shutil.which("ninja") is None:
        pytest.skip("ninja is not installed")
    if not with_ninja:
        monkeypatch.setattr(extension.shutil, "which", lambda name: None)
    monkeypatch.chdir(folder)
    extension.run(compiles, link, folder)
    assert link.output.read_text() == "ab"


def test_failing_command_raises(steps, monkeypatch):
    compiles, link, folder = steps
    monkeypatch.setattr(extension.shutil, "which", lambda name: None)
    broken = Step(compiles[0].output, compiles[0].inputs, ("false",))
    with pytest.raises(subprocess.CalledProcessError):
        extension.run([broken], link, folder)


@pytest.mark.parametrize(("value", "jobs"), [("1", 1), (" 7 ", 7)])
def test_max_jobs_is_honoured(value, jobs, monkeypatch):
    monkeypatch.setenv("MAX_JOBS", value)
    assert extension.job_count() == jobs


@pytest.mark.parametrize("value", ["0", "-2", "many", "1.5"])
def test_max_jobs_must_be_a_count(value, monkeypatch):
    monkeypatch.setenv("MAX_JOBS", value)
    with pytest.raises(
        ValueError, match=re.escape(f"MAX_JOBS must be a positive whole number, got {value!r}")
    ):
        extension.job_count()


def test_default_jobs_stay_within_the_cores(monkeypatch):
    monkeypatch.delenv("MAX_JOBS", raising=False)
    assert 1 <= extension.job_count() <= len(os.sched_getaffinity(0))


def test_header_and_module_state_the_same_facts():
    gate = Gate('zfcuda was built for the CPU only, because of a "quoted" reason')
    values = {
        name: ast.literal_eval(value)
        for name, value in re.findall(r"^(\w+) = (.+)$", extension.facts_module(gate), re.M)
    }
    assert values["CUDA_VERDICT"] == gate.verdict
    header = dict(re.findall(r"#define ZFCUDA_(\w+) (.+)", extension.facts_header(gate)))
    assert {name: ast.literal_eval(value) for name, value in header.items()} == values


def test_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"'no-such-compiler' was not found: .*g\+\+ 12"):
        extension.compiler()


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
        assert extension.compiler() == [str(script), "-pipe"]
    else:
        with pytest.raises(ValueError, match=r"is g\+\+ 11: zfcuda needs g\+\+ 12"):
            extension.compiler()
