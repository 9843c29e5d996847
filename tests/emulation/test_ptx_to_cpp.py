"""PTX to C++, and the launches and checks of the runtime, without nvcc: on PTX that is stored or
written here."""

from __future__ import annotations

import ctypes
import math
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import ptx_to_cpp
import pytest
import toolchain
from ptx import Unknown

HERE = Path(__file__).parent
# What nvcc 13.0 makes of: for (i = blockIdx.x * 256 + threadIdx.x; i < n; i += gridDim.x * 256)
#   y[i] = x[i] / 2, of float4s, in blocks of at most 256 threads.
HALVED = (HERE / "halved.ptx").read_text()
NAN, INF = math.nan, math.inf
FORMATS = {
    **{f"{kind}{bits}": code for bits, code in ((32, "I"), (64, "Q")) for kind in "bu"},
    "s32": "i",
    "s64": "q",
    "f32": "f",
    "f64": "d",
    "b16": "H",
}
REGISTERS = {"b16": "%rs", "b32": "%r", "b64": "%rd"}
# The instruction of registers %0 (the result), %1, %2 ...; their types; the operands; the result.
INSTRUCTIONS = [
    ("cvt.rzi.s32.f32 %0, %1", "s32 f32", [-1.7], -1),
    ("cvt.rzi.s32.f32 %0, %1", "s32 f32", [3e9], 2**31 - 1),  # C++ leaves these three open
    ("cvt.rzi.s32.f32 %0, %1", "s32 f32", [-INF], -(2**31)),
    ("cvt.rzi.s32.f32 %0, %1", "s32 f32", [NAN], 0),
    ("cvt.rni.f32.f32 %0, %1", "f32 f32", [2.5], 2.0),
    ("cvt.s64.s32 %0, %1", "s64 s32", [-5], -5),
    ("cvt.u64.u32 %0, %1", "u64 u32", [2**32 - 5], 2**32 - 5),
    ("cvt.rn.bf16.f32 %0, %1", "b16 f32", [1.00390625], 0x3F80),  # a tie goes to the even one
    ("cvt.rn.f16.f32 %0, %1", "b16 f32", [65520.0], 0x7C00),
    ("cvt.f32.f16 %0, %1", "f32 b16", [0x3555], 0.333251953125),
    ("fma.rn.f32 %0, %1, %2, %3", "f32 f32 f32 f32", [1 + 2**-12, 1 + 2**-12, -1 - 2**-11], 2**-24),
    ("min.f32 %0, %1, %2", "f32 f32 f32", [NAN, 1.0], 1.0),
    ("min.NaN.f32 %0, %1, %2", "f32 f32 f32", [NAN, 1.0], NAN),
    ("neg.f32 %0, %1", "f32 f32", [0.0], -0.0),
    ("div.s32 %0, %1, %2", "s32 s32 s32", [-7, 2], -3),
    ("rem.s32 %0, %1, %2", "s32 s32 s32", [-7, 2], -1),
    ("mul.hi.u32 %0, %1, %2", "u32 u32 u32", [2**32 - 1, 2**32 - 1], 2**32 - 2),
    ("mul.wide.s32 %0, %1, %2", "s64 s32 s32", [-(2**31), 2], -(2**32)),
    ("mad.lo.s32 %0, %1, %2, %3", "s32 s32 s32 s32", [2**31 - 1, 2, 3], 1),  # wraps
    ("sub.s32 %0, %1, %2", "s32 s32 s32", [-(2**31), 1], 2**31 - 1),
    ("shl.b32 %0, %1, %2", "b32 b32 u32", [1, 32], 0),
    ("shr.s32 %0, %1, %2", "s32 s32 u32", [-8, 40], -1),
    ("shr.u32 %0, %1, %2", "u32 u32 u32", [2**31, 31], 1),
    ("shf.l.wrap.b32 %0, %1, %2, %3", "b32 b32 b32 u32", [2**31, 1, 33], 3),
    ("prmt.b32 %0, %1, %2, 30292", "b32 b32 b32", [0x33221100, 0x77665544], 0x77665544),
    ("prmt.b32 %0, %1, %2, 0x0f07", "b32 b32 b32", [0x80, 0x81000000], 0x80FF8081),
    ("lop3.b32 %0, %1, %2, %3, 0x96", "b32 b32 b32 b32", [0b1100, 0b1010, 0b0110], 0),
    ("lop3.b32 %0, %1, %2, %3, 0xCA", "b32 b32 b32 b32", [0b1100, 0b1010, 0b0110], 0b1010),
    ("{ setp.lt.f32 %p1, %1, %2; selp.u32 %0, 1, 0, %p1; }", "u32 f32 f32", [NAN, 1.0], 0),
    ("{ setp.ltu.f32 %p1, %1, %2; selp.u32 %0, 1, 0, %p1; }", "u32 f32 f32", [NAN, 1.0], 1),
    ("{ setp.lt.u32 %p1, %1, %2; selp.u32 %0, 1, 0, %p1; }", "u32 u32 u32", [2**31, 1], 0),
    ("{ setp.lt.s32 %p1, %1, %2; @!%p1 mov.u32 %1, 7; mov.u32 %0, %1; }", "u32 s32 s32", [9, 1], 7),
]


def kernel(name: str, instruction: str, types: Sequence[str]) -> str:
    """PTX of a kernel (uint64* in, uint64* out): out[0] is what the instruction makes of in[0],
    in[1] ..."""
    registers = [REGISTERS[f"b{each[1:]}"] + str(10 + i) for i, each in enumerate(types)]
    for i, register in reversed([*enumerate(registers)]):
        instruction = instruction.replace(f"%{i}", register)
    lines = [
        f"ld.global.b{kind[1:]} {register}, [%rd1+{8 * i}];"
        for i, (kind, register) in enumerate(zip(types[1:], registers[1:], strict=True))
    ]
    end = "" if instruction.endswith("}") else ";"
    return f"""
.visible .entry {name}(.param .u64 {name}_in, .param .u64 {name}_out)
{{
    .reg .pred %p<2>; .reg .b16 %rs<20>; .reg .b32 %r<20>; .reg .b64 %rd<20>;
    ld.param.u64 %rd1, [{name}_in];
    ld.param.u64 %rd2, [{name}_out];
    {" ".join(lines)}
    {instruction}{end}
    st.global.b{types[0][1:]} [%rd2], {registers[0]};
    ret;
}}"""


class Dim3(ctypes.Structure):
    _fields_ = [(axis, ctypes.c_uint) for axis in "xyz"]


Launch = Callable[..., int]


@pytest.fixture(scope="module")
def runtime(tmp_path_factory) -> ctypes.CDLL:
    """The runtime with all kernels of this file."""
    folder = tmp_path_factory.mktemp("ptx")
    written = [kernel(f"i{n}", op, types.split()) for n, (op, types, *_) in enumerate(INSTRUCTIONS)]
    source, library = folder / "kernels.cpp", folder / "kernels.so"
    source.write_text(ptx_to_cpp.translate(HALVED + "".join(written)))
    flags = ["-std=c++20", "-O0", "-w", "-fPIC", "-shared", f"-I{HERE}"]
    command = [*toolchain.compiler(), *flags, source, HERE / "runtime.cpp", "-o", library]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


@pytest.fixture
def launch(runtime) -> Launch:
    """Launches as nvcc's stubs do; returns the cudaError_t."""
    hosts = {}

    def launched(name: str, *arguments, grid=(1, 1, 1), block=(1, 1, 1)) -> int:
        host = hosts.setdefault(name, ctypes.create_string_buffer(1))
        nothing = ctypes.c_void_p()
        runtime.__cudaRegisterFunction(*(nothing, host, nothing, name.encode(), 0), *[nothing] * 5)
        by_value = (ctypes.c_void_p * len(arguments))(
            *(ctypes.cast(ctypes.pointer(each), ctypes.c_void_p) for each in arguments)
        )
        runtime.__cudaLaunchKernel(
            host, Dim3(*grid), Dim3(*block), by_value, ctypes.c_size_t(0), nothing
        )
        return runtime.cudaGetLastError()

    return launched


@pytest.mark.parametrize("number", range(len(INSTRUCTIONS)), ids=lambda n: INSTRUCTIONS[n][0])
def test_an_instruction_does_what_ptx_defines(launch, number):
    _, types, operands, expected = INSTRUCTIONS[number]
    made, *given = types.split()
    packed = [struct.pack("<" + FORMATS[kind], v) for kind, v in zip(given, operands, strict=True)]
    source = ctypes.create_string_buffer(b"".join(each.ljust(8, b"\0") for each in packed))
    out = ctypes.create_string_buffer(8)
    pointers = (ctypes.c_uint64(ctypes.addressof(each)) for each in (source, out))
    assert launch(f"i{number}", *pointers) == 0
    (result,) = struct.unpack_from("<" + FORMATS[made], out)
    if isinstance(expected, float) and math.isnan(expected):
        assert math.isnan(result)
    else:
        assert (result, math.copysign(1, result)) == (expected, math.copysign(1, expected))


COUNT = 1000  # of float4s: more than three blocks


def halved(launch: Launch, source: int, target: int, **geometry) -> int:
    geometry = {"grid": (3, 1, 1), "block": (256, 1, 1)} | geometry
    arguments = ctypes.c_uint64(source), ctypes.c_uint64(target), ctypes.c_int32(COUNT)
    return launch("halved", *arguments, **geometry)


@pytest.fixture
def memory() -> tuple[int, ctypes.Array]:
    """An address that is a multiple of 16, and the floats from it on: room for two arrays."""
    space = (ctypes.c_float * (8 * COUNT + 8))()
    skipped = -ctypes.addressof(space) % 16
    floats = (ctypes.c_float * (8 * COUNT + 4)).from_buffer(space, skipped)
    floats[:] = [float(i) for i in range(len(floats))]
    return ctypes.addressof(floats), floats


@pytest.mark.parametrize("blocks", [1, 2, 3, 2**31 - 1])
def test_a_kernel_of_nvccs_strides_over_all_elements(runtime, launch, memory, blocks):
    at, floats = memory
    most = ctypes.c_uint32.in_dll(runtime, "zf_emu_most_blocks")
    most.value = blocks
    try:
        assert halved(launch, at, at + 16 * COUNT) == 0
    finally:
        most.value = 2**31 - 1
    assert floats[4 * COUNT : 8 * COUNT] == [i / 2 for i in range(4 * COUNT)]


def test_a_misaligned_access_fails(launch, memory, capfd):
    at, _ = memory
    assert halved(launch, at + 4, at + 16 * COUNT) == 700
    assert "FAULT misaligned access" in capfd.readouterr().err


def test_a_race_fails_where_it_is_looked_for(runtime, launch, memory, capfd):
    at, _ = memory
    assert halved(launch, at, at + 16) == 0  # a thread writes what the next one reads
    looked = ctypes.c_bool.in_dll(runtime, "zf_emu_races")
    looked.value = True
    try:
        assert halved(launch, at, at) == 0  # its own
        assert halved(launch, at, at + 16) == 700
    finally:
        looked.value = False
    assert "FAULT race: " in capfd.readouterr().err


def test_a_division_by_zero_fails(launch, capfd):
    number = next(i for i, each in enumerate(INSTRUCTIONS) if each[0].startswith("div.s32"))
    zeros = ctypes.create_string_buffer(24)
    at = ctypes.c_uint64(ctypes.addressof(zeros))
    assert launch(f"i{number}", at, at) == 700
    assert "FAULT division by zero" in capfd.readouterr().err


@pytest.mark.parametrize(
    "geometry",
    [
        {"grid": (0, 1, 1)},
        {"block": (0, 1, 1)},
        {"block": (257, 1, 1)},  # more than its launch bounds
        {"block": (2048, 1, 1)},
        {"grid": (2**31, 1, 1)},
        {"grid": (1, 65536, 1)},
        {"grid": (1, 2, 1)},  # the kernels here have one dimension
    ],
    ids=str,
)
def test_an_illegal_launch_fails(launch, memory, geometry):
    at, _ = memory
    assert halved(launch, at, at + 16 * COUNT, **geometry) == 9


def test_a_kernel_that_was_not_translated_fails(launch, capfd):
    assert launch("another") == 209
    assert "FAULT no translated kernel" in capfd.readouterr().err


@pytest.mark.parametrize(
    "instruction",
    [
        "bar.sync 0",
        "atom.global.add.u32 %0, [%rd1], 1",
        "shfl.sync.bfly.b32 %0, %1, 1, 31, -1",
        "ld.shared.u32 %0, [%rd1]",
        "mov.u32 %0, %laneid",
    ],
)
def test_what_needs_other_threads_is_not_translated(instruction):
    with pytest.raises(Unknown):
        ptx_to_cpp.translate(kernel("none", instruction, ["u32", "u32"]))
