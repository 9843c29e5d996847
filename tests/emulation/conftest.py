"""What the tests of the emulation need."""

import os

import cuda_gate
import pytest


@pytest.fixture(scope="session")
def nvcc() -> cuda_gate.Nvcc:
    """Skips where there is none, unless ZFCUDA_CUDA=1 demands CUDA."""
    found = cuda_gate.find_nvcc()
    if found is None:
        reason = "no nvcc: CUDA_HOME, PATH, /usr/local/cuda and Python packages were searched"
        (pytest.fail if os.environ.get("ZFCUDA_CUDA") == "1" else pytest.skip)(reason)
    return found
