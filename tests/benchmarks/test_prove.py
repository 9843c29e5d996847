"""benchmarks/gpu/prove.sh without a GPU: what it cannot do it records as not run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import prove as proof
import pytest
import small
import torch

pytestmark = pytest.mark.tooling
ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu" / "prove.sh"


def prove(*options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run([SCRIPT, *options], env=environment, capture_output=True, text=True)


def test_what_did_not_run_is_not_called_passed(tmp_path):
    done = prove("--dry", "--only", "sanitize", "profile", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (record,) = (json.loads(file.read_text()) for file in tmp_path.glob("gpu-cpu-*.json"))
    assert {s["name"]: s["verdict"] for s in record["stages"]} == {
        "sanitize": "not run",
        "profile": "not run",
    }
    (page,) = (file.read_text() for file in tmp_path.glob("gpu-cpu-*.md"))
    assert "proves nothing" in page and "| profile | not run |" in page


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: nothing to refuse")
def test_without_a_gpu_it_says_so(tmp_path):
    done = prove("--out", str(tmp_path))
    assert done.returncode == 2 and "no GPU" in done.stderr and not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_dry_run_of_the_benchmarks(tmp_path):
    """All of both scripts, on tensors of the CPU and small networks."""
    done = prove("--dry", "--only", "bench", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = (json.loads(file.read_text()) for file in tmp_path.glob("gpu-cpu-*.json"))
    assert [stage["name"] for stage in record["stages"]] == ["bench", "experiments"]
    for stage in record["stages"]:
        assert stage["verdict"] == "passed" and stage["found"]["rows"], stage["reason"]
    (page,) = (file.read_text() for file in tmp_path.glob("gpu-cpu-*.md"))
    assert "A dry run decides nothing." in page and "## experiments" in page


@pytest.mark.parametrize("late", ["a: no time was left", "a: not on a CPU"])
def test_what_did_not_fit_the_time_is_not_passed(tmp_path, monkeypatch, late):
    found = {"rows": [], "failed": [], "left_out": [late]}

    def call(command, settings, name, **options):
        Path(command[command.index("--out") + 1]).write_text(json.dumps(found))

    monkeypatch.setattr(proof, "_call", call)
    for stage in (proof.bench, proof.experiments, proof.rivals):
        verdict = stage(proof.Settings("cuda", tmp_path)).verdict
        assert verdict == ("not run" if "time" in late else "passed")


# --- the tests that a GPU would run ---------------------------------------------------------------


def test_cuda_tests_are_there():
    """Without a GPU they are skipped; that they exist can be seen anywhere."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "cuda", *proof.ON_GPU]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    found = [line for line in done.stdout.splitlines() if "::" in line]
    ops = ("max_pool2d", "max_unpool2d", "local_response_norm", "spatial_max", "warp_affine")
    for op in (*ops, "windows"):
        of_op = [test for test in found if f"test_{op}.py" in test]
        for dtype in ("float32", "float64", "float16", "bfloat16"):
            assert any(dtype in test for test in of_op), (op, dtype)
        assert all("cuda" in test.partition("[")[2] for test in of_op)
    for test in (
        "test_occlude.py",
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
    stage = proof.judged("tests", report, stopped, needs_gpu)
    assert stage.verdict == verdict
    assert stage.found["on the GPU"] == cases.count("[cuda-float16]")


@pytest.mark.parametrize(
    ("log", "verdict"),
    [
        (f"{small.DONE}\n========= ERROR SUMMARY: 0 errors", "passed"),
        (f"{small.DONE}\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors)", "passed"),
        ("ImportError\n========= ERROR SUMMARY: 0 errors", "failed"),
        (f"{small.DONE}\n========= ERROR SUMMARY: 12 errors", "failed"),
        (small.DONE, "failed"),
        ("========= Error: Device not supported. Please refer to", "not run"),
    ],
)
def test_verdict_on_a_sanitizer(log, verdict):
    assert proof.sanitized(log).partition(":")[0] == verdict
