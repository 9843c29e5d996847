"""benchmarks/gpu/compiled.py: what it reads in the tools' output, and what it objects to."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import compiled
import cuda_gate
import host_copies
import kernels_of
import pytest
from compiled import Kernel

pytestmark = pytest.mark.tooling
RECORD = Path(compiled.ROOT, "benchmarks", "results", "compiled.json")

REPORT = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z1aiE' for 'sm_90'
ptxas info    : Function properties for _Z1aiE
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers, 8 bytes cumulative stack size
ptxas info    : Compile time = 876.256 ms
ptxas info    : Compiling entry function '_Z1biE' for 'sm_90'
ptxas info    : Function properties for _Z1biE
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 2048 bytes smem, 400 bytes cmem[0]
"""

SASS = """\
\t.section\t.text._Z1aiE,"ax",@progbits
.text._Z1aiE:
        /*0020*/                   LDC.64 R16, c[0x0][0x260] ;
        /*0030*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0040*/              @!P0 LDG.E.U8.CONSTANT R4, desc[UR4][R2.64] ;
        /*0050*/              @P3 STG.E.64 desc[UR4][R2.64], R4 ;
        /*0060*/                   STL.64 [R1], R4 ;
        /*0070*/             @!UP0 LDG.E R4, [R2.64] ;
.text._Z1biE:
        /*0020*/                   STG.E.EF.128 desc[UR4][R2.64], R4 ;
        /*0030*/                   LDG.E.ENL2.256 R8, R4, desc[UR4][R2.64] ;
        /*0040*/                   LD.E.S16 R8, [R2.64] ;
        /*0050*/                   LDS.128 R8, [R2] ;
"""

POOL = Kernel("MaxPoolRow<float32, 3, 2, 2, 4>", "9.0", 32, 0, 0, 0, {"LDG.128": 3, "STG.64": 1})


def test_reads_ptxas_report():
    with pytest.raises(ValueError, match="no registers of _Z1aiE"):
        compiled.resources(REPORT.replace("Used 32 registers", "Uses 32 registers"), "9.0")
    assert compiled.resources(REPORT, "8.0") == {}
    assert compiled.resources(REPORT, "9.0") == {
        "_Z1aiE": {"registers": 32, "stack": 8, "spills": 16, "shared": 0},
        "_Z1biE": {"registers": 40, "stack": 0, "spills": 0, "shared": 2048},
    }


def test_reads_the_disassembly():
    assert compiled.accesses(SASS) == {
        "_Z1aiE": {"LDG.128": 1, "LDG.32": 1, "LDG.8": 1, "STG.64": 1, "STL.64": 1, "all": 6},
        "_Z1biE": {"LD.16": 1, "LDG.256": 1, "STG.128": 1, "all": 4},
    }


def test_names():
    body = "zfcuda::cuda::MaxPoolPixel<c10::BFloat16, 3, 8, int>"
    name = f"void zfcuda::cuda::run_body<{body}, int>({body}, int)"
    assert compiled.body_name(name) == "MaxPoolPixel<bfloat16, 3, 8, int32>"
    assert compiled.body_name("void at::native::something<int>(int)") is None


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, []),
        ({"accesses": None}, []),  # not disassembled: the page has it as not checked
        ({"name": "LrnElement<float32, int32>", "spills": 8, "stack": 8}, []),  # a fallback
        ({"spills": 8, "stack": 8}, ["spills 8 bytes", "has 8 bytes of local memory"]),
        ({"accesses": {"LDG.64": 6, "STG.64": 1}}, ["has no 128-bit load"]),
        ({"accesses": {"LDG.128": 6, "STG.32": 1}}, ["has no 64-bit store"]),
        ({"accesses": {"LDS.128": 6}}, ["has no 128-bit load", "has no 64-bit store"]),
    ],
)
def test_faults(change, fault):
    found = replace(POOL, **change).faults()
    assert found == [f"{POOL.name} on sm_90 {what}" for what in fault]
    page = compiled.markdown([replace(POOL, **change)], "13.0")
    assert all(each in page for each in found)


@pytest.mark.parametrize(
    ("name", "load", "store"),
    [
        ("MaxPoolRow<bfloat16, 3, 2, 4, 2>", 32, 64),
        ("MaxUnpoolRow<float32, 3, 2, 0, true, 2, 2, 4>", 0, 64),
        ("WarpPixels<float32, 3, 4>", 0, 128),
        ("OccludeRow<uint64, 2, int32>", 128, 128),
        ("LrnElement<float32, int32>", 0, 0),
    ],
)
def test_promises(name, load, store):
    kernel = replace(POOL, name=name)
    assert kernel.promised(kernel.body.load) == load
    assert kernel.promised(kernel.body.store) == store


def test_bodies_are_those_of_the_sources():
    """A new kernel body cannot be forgotten, nor a template argument."""
    found = {}
    for file in Path(compiled.CSRC, "cuda").glob("*.cu"):
        for part in file.read_text().split("template <")[1:]:
            parameters, _, rest = part.partition(">\nstruct ")
            if re.search(r"operator\(\)\(Index \w+\) const \{", rest.split("\n};")[0]):
                names = [each.split()[-1] for each in parameters.split(",")]
                found[rest.split()[0]] = " ".join(names)
    assert found == {name: body.arguments for name, body in compiled.BODIES.items()}


def test_the_committed_record_is_of_the_kernels_that_there_are():
    gccs = {"short unsigned int": "unsigned short", "unsigned int": "unsigned int"}
    gccs |= {"long unsigned int": "unsigned long", "long int": "long"}

    def renamed(name: str) -> str:
        body, _, arguments = name.removesuffix(">").partition("<")
        types = [gccs.get(each, each) for each in arguments.split(", ")]
        return f"{body}<{', '.join(compiled.TYPES.get(each, each) for each in types)}>"

    own = {renamed(name) for name in kernels_of.runs(host_copies.load())}
    assert {kernel.name for kernel in compiled.read(RECORD)} == own


def test_the_committed_record_breaks_no_promise():
    kernels = compiled.read(RECORD)
    chips = {}
    for kernel in kernels:
        chips.setdefault(kernel.name, []).append(kernel.arch)
    assert all(archs == list(compiled.ARCHITECTURES) for archs in chips.values())
    assert {kernel.name.partition("<")[0] for kernel in kernels} == set(compiled.BODIES)
    assert all(kernel.accesses is not None for kernel in kernels)
    assert compiled.faults(kernels) == []
    version = json.loads(RECORD.read_text())["head"]["nvcc"]
    assert compiled.markdown(kernels, version) == RECORD.with_suffix(".md").read_text()


@pytest.mark.slow
@pytest.mark.skipif(
    cuda_gate.find_nvcc() is None or shutil.which("c++filt") is None, reason="no nvcc or c++filt"
)
def test_compiles_a_file():
    kernels = compiled.compile_all(["8.0"], "occlude")
    assert len(kernels) == 9 and sum(kernel.hot for kernel in kernels) == 6
    assert {kernel.name.partition("<")[0] for kernel in kernels} == {"OccludeRow"}
    assert compiled.faults(kernels) == []
    disassembled = compiled.find_nvdisasm(cuda_gate.find_nvcc()) is not None
    assert all((kernel.accesses is not None) == disassembled for kernel in kernels)
