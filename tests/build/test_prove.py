"""benchmarks/gpu/prove.sh without a GPU: what it cannot do it records as not run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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
