"""benchmarks/gpu/prove.sh without a GPU: what it cannot do it records as not run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import venv
from dataclasses import replace
from pathlib import Path

import commands
import prove as proof
import pytest
import small
import stages
import toolchain
import torch

pytestmark = pytest.mark.tooling
ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu" / "prove.sh"
# It finds this clone's zfcuda by itself.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def begun(*options: str, script=SCRIPT, python=sys.executable) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([script, *options], env={**ENVIRONMENT, "PYTHON": python}, **pipes)


def prove(*options: str, **where: str) -> tuple[int, str]:
    """The exit status and what was printed."""
    process = begun(*options, **where)
    out, err = process.communicate()
    return process.returncode, out + err


def recorded(folder: Path) -> dict:
    (file,) = folder.glob("gpu-cpu-*.json")
    return json.loads(file.read_text())


def verdicts(folder: Path) -> dict[str, str]:
    return {stage["name"]: stage["verdict"] for stage in recorded(folder)["stages"]}


@pytest.fixture
def settings(tmp_path) -> stages.Settings:
    return stages.Settings("cuda", tmp_path, time.monotonic() + 30)


def test_what_did_not_run_is_not_called_passed(tmp_path):
    status, said = prove("--dry", "--only", "memcheck", "profile", "--out", str(tmp_path))
    assert status == 0, said
    assert {"memcheck": "not run", "profile": "not run"}.items() <= verdicts(tmp_path).items()
    (page,) = (file.read_text() for file in tmp_path.glob("gpu-cpu-*.md"))
    assert "proves nothing" in page and "| profile | not run |" in page


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: nothing to refuse")
def test_without_a_gpu_it_says_so(tmp_path):
    status, said = prove("--out", str(tmp_path))
    assert status == 2 and "no GPU" in said and not any(tmp_path.iterdir())


@pytest.fixture
def bare(tmp_path) -> dict[str, str]:
    """A clone in which nothing is compiled, and a Python with what this one has but zfcuda."""
    clone, python = tmp_path / "clone", tmp_path / "python"
    left = (".git", "build", "*.so", "_build_facts.py", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(*left))
    venv.create(python, symlinks=True)
    (site,) = python.glob("lib/python*/site-packages")
    for installed in Path(torch.__file__).parents[1].iterdir():
        if "zfcuda" not in installed.name and not (site / installed.name).exists():
            (site / installed.name).symlink_to(installed)
    return {"script": str(clone / SCRIPT.relative_to(ROOT)), "python": str(python / "bin/python")}


@pytest.mark.slow
def test_a_dry_run_where_zfcuda_is_not_installed(bare, tmp_path):
    """Everything, on tensors of the CPU and small networks."""
    code = "import torch, importlib.util as u; assert not u.find_spec('zfcuda')"
    subprocess.run([bare["python"], "-P", "-c", code], cwd=tmp_path, env=ENVIRONMENT, check=True)
    names = [name for name in stages.STAGES if name not in ("memcheck", "profile", "rivals")]
    out = tmp_path / "out"
    options = ("--dry", "--seconds", "3600", "--only", *names, "--out", str(out))
    status, said = prove(*options, **bare)
    assert status == 0, said
    assert verdicts(out) == dict.fromkeys(names, "passed"), said
    for stage in recorded(out)["stages"]:
        if stage["name"] in stages.BENCHMARKS:
            assert stage["found"]["rows"] or stage["found"]["projections"]
    (page,) = (file.read_text() for file in out.glob("gpu-cpu-*.md"))
    assert "A dry run decides nothing." in page and "## occlusion" in page


def test_a_signal_ends_the_stage_under_way_and_leaves_the_record(tmp_path):
    process = begun("--dry", "--only", "small", "networks", "--out", str(tmp_path))
    log = ROOT / "build" / f"gpu-cpu-{time.strftime('%Y-%m-%d')}" / "small.py.log"
    began = time.time()
    while not (log.exists() and log.stat().st_mtime >= began) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, out + err
    found = {stage["name"]: stage for stage in recorded(tmp_path)["stages"]}
    assert found["small"]["reason"] == "stopped by SIGTERM"
    assert found["networks"]["reason"] == "SIGTERM came before"
    assert {found[name]["verdict"] for name in ("small", "networks")} == {"not run"}
    (archive,) = tmp_path.glob("*-logs.tar.gz")
    with tarfile.open(archive) as logs:
        assert any(name.endswith("small.py.log") for name in logs.getnames())


ORPHAN = """
import subprocess, sys
child = subprocess.Popen(["sleep", "60"], process_group=0)  # as ninja starts compilers
print(child.pid, flush=True)
child.wait()
"""


def test_nothing_that_a_command_started_is_left(tmp_path):
    """Also where what it started has a process group of its own, and its parent is gone."""
    log = tmp_path / "log"
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(commands.__file__).parent)!r})
import commands
commands.heed_signals()
try:
    commands.call([sys.executable, "-c", {ORPHAN!r}], Path({str(log)!r}), 3.0)
except commands.TooLong as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "stopped after 3 s\n", done.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text().split()[0]), 0)


# --- time -----------------------------------------------------------------------------------------


def test_what_a_stage_leaves_is_the_next_ones():
    ends = proof.ends(stages.DEFAULT, stages.SHARES, 400)
    assert ends == {"build": 90, "small": 130, "kernels": 210, "occlusion": 340, "ops": 400}
    again = proof.ends(["kernels", "memcheck", "profile"], stages.SHARES, 240)
    assert again == {"kernels": 96, "memcheck": 168, "profile": 240}
    assert stages.SHARES.keys() == stages.STAGES.keys() == stages.DRY_SHARES.keys()


def test_a_stage_without_time_is_not_run(settings):
    assert (
        proof.run("small", replace(settings, end=time.monotonic() + 1)).reason == "no time was left"
    )


@pytest.mark.parametrize(
    ("late", "status", "verdict"),
    [
        ("a: no time was left", 0, "not run"),
        ("a: there is no torchvision here", 0, "not run"),
        ("a: not on a CPU", 0, "passed"),
        ("a: not on a CPU", -11, "failed"),
    ],
)
def test_what_did_not_fit_is_not_passed(settings, monkeypatch, late, status, verdict):
    found = {"rows": [], "failed": [], "left_out": [late]}

    def run(self, name, *command, **environment):
        Path(command[command.index("--out") + 1]).write_text(json.dumps(found))
        return status, ""

    monkeypatch.setattr(stages.Settings, "run", run)
    for stage in (stages.kernels, stages.occlusion, stages.rivals):
        assert stage(settings).verdict == verdict


# --- a library that was compiled elsewhere --------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        (None, "nothing is compiled"),
        ({}, "of other sources"),
        ({"SOURCES": "of another day", "CUDA_ARCHS": "9.0"}, "of other sources"),
        ({"SOURCES": "now", "CUDA_ARCHS": ""}, "no kernels for 9.0"),
        ({"SOURCES": "now", "CUDA_ARCHS": "8.0 12.0"}, "no kernels for 9.0"),
        ({"SOURCES": "now", "CUDA_ARCHS": "8.0 9.0"}, ""),
    ],
)
def test_when_it_serves(settings, tmp_path, monkeypatch, facts, why):
    monkeypatch.setattr(stages, "ROOT", tmp_path)
    monkeypatch.setattr(toolchain, "digest", lambda: "now")
    if facts is not None:
        (tmp_path / "zfcuda").mkdir()
        (tmp_path / "zfcuda" / "_ops.so").touch()
        said = "\n".join(f"{name} = {value!r}" for name, value in facts.items())
        (tmp_path / "zfcuda" / "_build_facts.py").write_text(said)
    found = stages.lacking(settings)
    assert found.endswith(why) and bool(found) == bool(why)
    if why:
        with pytest.raises(commands.NotRun, match=why):
            stages.STAGES["kernels"](settings)


# --- the tests that a GPU would run ---------------------------------------------------------------


def test_the_stages_have_all_of_them():
    """Without a GPU they are skipped; that they exist can be seen anywhere."""
    marked = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
        if "mark.cuda" in path.read_text() and path.name != Path(__file__).name
    }
    assert {*stages.WITH_GPU[1:]} < marked
    elsewhere = [path for path in marked if not path.startswith(("tests/ops/", *stages.WITH_GPU))]
    assert elsewhere == []
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "cuda"]
    command += ["tests/ops", *stages.WITH_GPU]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    found = [line for line in done.stdout.splitlines() if "::" in line]
    for test in (
        "test_every_kernel.py",
        "test_large.py",
        "current_stream",
        "test_ops_can_be_captured",
        "backward_can_be_captured",
        "training_step_can_be_captured",
        "another_device",
    ):
        assert any(test in each for each in found), test


# --- verdicts -------------------------------------------------------------------------------------

GOOD = '<testcase classname="tests.ops.test_x" name="test_a[cuda-float16]"/>'
BAD = (
    '<testcase classname="tests.ops.test_x" name="test_b[cuda]"><failure message="no"/></testcase>'
)
SKIPPED = (
    '<testcase classname="tests.gpu.test_gpu" name="test_c"><skipped message="one GPU"/></testcase>'
)


@pytest.mark.parametrize(
    ("cases", "stopped", "verdict"),
    [
        (GOOD + SKIPPED, "", "passed"),
        (SKIPPED, "", "not run"),
        (GOOD + BAD, "", "failed"),
        (GOOD, "stopped after 60 s", "not run"),
        (GOOD + BAD, "stopped after 60 s", "failed"),
        ("", "", "failed"),
    ],
)
def test_verdict_on_tests(tmp_path, cases, stopped, verdict):
    report = tmp_path / "tests.xml"
    report.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    stage = stages.judged("tests", report, stopped)
    assert stage.verdict == verdict
    assert stage.found["tests"] == cases.count("<testcase") - cases.count("<skipped")
    assert stage.found["skipped"] == (["1: one GPU"] if SKIPPED in cases else [])


@pytest.mark.parametrize(
    ("log", "verdict"),
    [
        (f"{small.DONE}\n========= ERROR SUMMARY: 0 errors", "passed"),
        ("ImportError\n========= ERROR SUMMARY: 0 errors", "failed"),
        (f"{small.DONE}\n========= ERROR SUMMARY: 12 errors", "failed"),
        (small.DONE, "failed"),
        ("========= Error: Device not supported. Please refer to", "not run"),
    ],
)
def test_verdict_on_a_sanitizer(log, verdict):
    assert stages.sanitized(log).partition(":")[0] == verdict
