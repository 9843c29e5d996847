"""benchmarks/gpu/prove.sh without a GPU: what it cannot do it records as not run."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
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


def begun(*options: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHON": sys.executable}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([SCRIPT, *options], env=environment, **pipes)


def prove(*options: str) -> tuple[int, str]:
    """The exit status and what was printed."""
    process = begun(*options)
    out, err = process.communicate()
    return process.returncode, out + err


def recorded(folder: Path) -> dict:
    (file,) = folder.glob("gpu-cpu-*.json")
    return json.loads(file.read_text())


def verdicts(folder: Path) -> dict[str, str]:
    return {stage["name"]: stage["verdict"] for stage in recorded(folder)["stages"]}


@pytest.fixture
def settings(tmp_path) -> stages.Settings:
    return stages.Settings("cuda", tmp_path, 30.0)


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


@pytest.mark.slow
def test_a_dry_run(tmp_path):
    """Everything, on tensors of the CPU and small networks."""
    names = [name for name in stages.STAGES if name not in ("memcheck", "profile", "rivals")]
    status, said = prove("--dry", "--seconds", "900", "--only", *names, "--out", str(tmp_path))
    assert status == 0, said
    assert verdicts(tmp_path) == dict.fromkeys(names, "passed"), said
    for stage in recorded(tmp_path)["stages"]:
        if stage["name"] in stages.BENCHMARKS:
            assert stage["found"]["rows"] or stage["found"]["projections"]
    (page,) = (file.read_text() for file in tmp_path.glob("gpu-cpu-*.md"))
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
    assert proof.run("small", replace(settings, seconds=1.0)).reason == "no time was left"


@pytest.mark.parametrize(
    "late", ["a: no time was left", "a: there is no torchvision here", "a: not on a CPU"]
)
def test_what_did_not_fit_is_not_passed(settings, monkeypatch, late):
    found = {"rows": [], "failed": [], "left_out": [late]}

    def run(self, name, *command, **environment):
        Path(command[command.index("--out") + 1]).write_text(json.dumps(found))

    monkeypatch.setattr(stages.Settings, "run", run)
    for stage in (stages.kernels, stages.occlusion, stages.rivals):
        assert stage(settings).verdict == ("passed" if late.endswith("CPU") else "not run")


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


def test_cuda_tests_are_there():
    """Without a GPU they are skipped; that they exist can be seen anywhere."""
    where = ["tests/ops", "tests/gpu"]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "cuda", *where]
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
ON_HOST = '<testcase classname="tests.ops.test_x" name="test_a[cuda-on-host-float16]"/>'
BAD = '<testcase classname="tests.ops.test_x" name="test_b[cpu]"><failure message="no"/></testcase>'
SKIPPED = (
    '<testcase classname="tests.gpu.test_gpu" name="test_c"><skipped message="one GPU"/></testcase>'
)


@pytest.mark.parametrize(
    ("cases", "stopped", "needs_gpu", "verdict"),
    [
        (GOOD + ON_HOST + SKIPPED, "", True, "passed"),
        (ON_HOST + SKIPPED, "", True, "not run"),
        (ON_HOST, "", False, "passed"),
        (GOOD + BAD, "", True, "failed"),
        (GOOD, "stopped after 460 s", True, "not run"),
        (GOOD + BAD, "stopped after 460 s", True, "failed"),
        ("", "", False, "failed"),
    ],
)
def test_verdict_on_tests(tmp_path, cases, stopped, needs_gpu, verdict):
    report = tmp_path / "tests.xml"
    report.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    stage = stages.judged("tests", report, stopped, needs_gpu)
    assert stage.verdict == verdict
    assert stage.found["on the GPU"] == cases.count("[cuda-float16]")


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
