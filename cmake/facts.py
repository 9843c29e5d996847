"""Writes the build facts, as header, Python module and CMake variables, into the folder argv[1]."""

import sys
import sysconfig
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "build_backend"))
import extension
from steps import write
from toolchain import FLAGS, Toolchain, sources

folder = Path(sys.argv[1])
gate = extension.decide()
print(gate.verdict)
tools = Toolchain(gate, folder)
kernels = sources("kernels") if gate.with_cuda else []
variables = {
    "OPS": [*kernels, *sources("ops")],
    "MODULE": sources("module"),
    "MODULE_FLAGS": FLAGS["module"],
    "CXX_FLAGS": tools.cxx_flags,
    "NVCC_FLAGS": tools.nvcc_flags,
    "SYSTEM_INCLUDES": tools.system_includes,
    "LINK_FLAGS": tools.link_flags,
    "CUDART": tools.cudart,
    "MODULE_SUFFIX": [sysconfig.get_config_var("EXT_SUFFIX")],
    "WITH_CUDA": [int(gate.with_cuda)],
    "NVCC": [gate.nvcc.path] if gate.nvcc else [],
}
for name, text in {
    "zfcuda_build_facts.h": extension.facts_header(gate),
    "_build_facts.py": extension.facts_module(gate),
    "zfcuda_facts.cmake": "".join(
        f'set(ZFCUDA_{name} "{";".join(map(str, values))}")\n' for name, values in variables.items()
    ),
}.items():
    write(folder / name, text)
