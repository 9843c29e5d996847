"""Writes the build facts, as header, Python module and CMake variables, into the folder argv[1]."""

import sys
import sysconfig
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "build_backend"))
import extension

gate = extension.decide()
print(gate.verdict)
architectures = []
for arch in gate.archs:
    number = arch.removesuffix("+PTX").replace(".", "")
    architectures += [f"{number}-real"] + [f"{number}-virtual"] * arch.endswith("+PTX")
variables = {
    "ZFCUDA_MODULE_SUFFIX": sysconfig.get_config_var("EXT_SUFFIX"),
    "ZFCUDA_WITH_CUDA": int(gate.with_cuda),
    "ZFCUDA_NVCC": gate.nvcc.path if gate.nvcc else "",
    "ZFCUDA_ARCHITECTURES": ";".join(architectures),
    "ZFCUDA_CUDART": "cudart_static" if gate.static_runtime else "cudart",
}
lines = [f'set({name} "{value}")' for name, value in variables.items()]
lines.append(f'list(APPEND CMAKE_PREFIX_PATH "{torch.utils.cmake_prefix_path}")')

folder = Path(sys.argv[1])
for name, text in {
    "zfcuda_build_facts.h": extension.facts_header(gate),
    "_build_facts.py": extension.facts_module(gate),
    "zfcuda_facts.cmake": "\n".join([*lines, ""]),
}.items():
    extension.write(folder / name, text)
