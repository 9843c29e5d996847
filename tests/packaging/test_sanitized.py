"""The ops' tests once more with a library that looks at every access: ``ZFCUDA_SANITIZE=1``."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import toolchain

ROOT = Path(__file__).resolve().parents[2]
LEFT = (".git", "build", "dist", "docs", "*.so", "_build_facts.py", "__pycache__", ".*_cache")


def preloaded() -> str:
    """gcc's own libasan, which must come first, and the libstdc++ whose throw it looks for."""
    found = []
    for name in ("libasan.so", "libstdc++.so.6"):
        command = [*toolchain.compiler(), f"-print-file-name={name}"]
        path = subprocess.run(command, capture_output=True, text=True).stdout.strip()
        if not os.path.isabs(path):
            pytest.skip(f"the compiler has no {name}")
        found.append(path)
    return " ".join(found)


@pytest.mark.slow
def test_ops_touch_nothing_that_is_not_theirs(tmp_path):
    libraries = preloaded()
    clone = tmp_path / "clone"
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(*LEFT))
    settings = os.environ | {"ZFCUDA_SANITIZE": "1", "ZFCUDA_CUDA": "0", "PYTHONPATH": str(clone)}
    build = [sys.executable, "setup.py", "build_ext", "--inplace"]
    subprocess.run(build, cwd=clone, env=settings, check=True)
    settings |= {
        "LD_PRELOAD": libraries,
        # Leaks would be Python's own. Null is what malloc gives where there is no memory.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-x", "tests/ops"]
    done = subprocess.run(tests, cwd=clone, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
