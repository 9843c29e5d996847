"""What the compiled library asks of others: of torch its stable C functions only, so that one build
runs under every torch."""

import re
import subprocess
from pathlib import Path

import zfcuda

# Undefined names as nm has them, with a version where one is asked for.
ALLOWED = re.compile(
    r"""
    \S+@+(GLIBC|GLIBCXX|CXXABI|GCC)_\S+   # libc, libm, libstdc++, libgcc
    | (aoti_torch|torch)_\w+              # torch's C functions
    | \S+@+libcudart\.so\.\S+             # with CUDA kernels
    | (__gmon_start__|_ITM_\w+|__tls_get_addr)(@\S+)?
    """,
    re.VERBOSE,
)


def undefined(library: Path) -> list[str]:
    command = ["nm", "--dynamic", "--undefined-only", "--with-symbol-versions", library]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [line.split()[-1] for line in done.stdout.splitlines()]


def test_of_torch_only_the_stable_c_functions_are_undefined():
    asked = undefined(Path(zfcuda.__path__[0]) / "_ops.so")
    assert any(name.startswith("aoti_torch_") for name in asked)
    assert [name for name in asked if not ALLOWED.fullmatch(name)] == []


def test_the_library_needs_no_python():
    asked = undefined(Path(zfcuda.__path__[0]) / "_ops.so")
    assert [name for name in asked if re.match(r"_?Py[A-Z_]", name)] == []


def test_what_torch_has_for_gpus_is_found_through_libtorch():
    """libtorch_cuda is not named, for a torch without it: libtorch brings it where it is."""
    library = Path(zfcuda.__path__[0]) / "_ops.so"
    command = ["readelf", "--dynamic", "--wide", library]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", done.stdout)
    assert "libtorch.so" in needed and "libtorch_cuda.so" not in needed
