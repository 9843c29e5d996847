"""Compile, link and load the library with its kernels for a chip that need not be here.

    python benchmarks/gpu/compile_for.py 9.0 FOLDER

In a folder of its own: the library that is in use stays. What is there is not compiled again.
Without an nvcc it is the library without kernels.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "build_backend"))
import cuda_gate
import extension
import torch
from steps import job_count


def main(arch: str, folder: Path) -> None:
    os.environ["ZFCUDA_CUDA"] = "1" if cuda_gate.find_nvcc() else "0"
    os.environ["TORCH_CUDA_ARCH_LIST"] = arch
    begin = time.perf_counter()
    gate = extension.decide()
    libraries = extension.build(folder.resolve(), gate)
    seconds = time.perf_counter() - begin
    torch.ops.load_library(libraries[extension.OPS])
    spec = importlib.util.spec_from_file_location("_C", libraries[extension.MODULE])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.build_facts()["cuda"] == gate.with_cuda
    print(gate.verdict)
    size = libraries[extension.OPS].stat().st_size / 1e6
    print(f"{seconds:.0f} s with {job_count()} jobs; {size:.1f} MB")
    print("it loads")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
