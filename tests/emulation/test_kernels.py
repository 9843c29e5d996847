"""The kernels for GPUs, as nvcc makes them, run on the CPU: no GPU is needed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import emulated
import pytest

pytestmark = pytest.mark.emulation
ROOT = Path(__file__).resolve().parents[2]
RANDOM_CASES = Path(__file__).with_name("random_cases.py")


@pytest.fixture(scope="module")
def library(nvcc) -> Path:
    return emulated.build()


def run(*command: str | Path, **settings: str) -> str:
    """What a Python process prints that must end well, and in which no launch had a fault."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | settings
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed[-6000:]
    assert re.search(r"^emulated: [1-9]\d* launches, .* 0 faults$", printed, re.M), printed[-6000:]
    return printed


def test_the_ops_own_tests_run_every_kernel(library):
    chosen = ("tests/ops", "-k", "cuda-on-host", "-m", "not slow")
    printed = run(
        *("-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *chosen),
        ZFCUDA_HOST_COPIES=str(library),
    )
    passed = re.search(r"^(\d+) passed, \d+ deselected in", printed, re.M)
    assert passed and int(passed[1]) > 500, printed[-2000:]  # none skipped
    launched, there = re.search(r"(\d+) of (\d+) kernels", printed).groups()
    assert launched == there
    assert int(there) > 300


def random_cases(cases: int, guard: str, first: int) -> None:
    printed = run(
        *(RANDOM_CASES, "--cases", str(cases), "--first", str(first), "--guard", guard, "--races")
    )
    assert f"{cases} cases, 0 wrong" in printed


# Of those flush against what lies behind them few are aligned, of the others most.
@pytest.mark.parametrize("guard", ["end", "start"])
def test_random_calls_do_what_the_cpu_kernels_do(library, guard):
    random_cases(1_000, guard, first=0)


@pytest.mark.slow
@pytest.mark.parametrize("guard", ["end", "start"])
def test_many_random_calls(library, guard):
    random_cases(5_000, guard, first=10_000)
