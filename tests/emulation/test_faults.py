"""The emulation sees what it is to see: faults are planted in a kernel, one for each check."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import emulated
import pytest
from emulated import Edit

pytestmark = pytest.mark.emulation
RANDOM_CASES = Path(__file__).with_name("random_cases.py")
OCCLUDE, LAUNCH = "cuda/occlude.cu", "cuda/launch.h"


@dataclass(frozen=True)
class Fault:
    """Edits of an op's kernels, and what random calls of it (`case`) then say.

    Attributes:
        options: what `random_cases.py` needs to see it.
        unseen: whether it sees nothing without these.
    """

    edits: tuple[Edit, ...]
    said: str
    options: tuple[str, ...] = ()
    unseen: bool = False
    op: str = "occlude"
    case: str = "occlude"


FAULTS = {
    "the alignment of pointers is not asked for": Fault(
        (Edit(OCCLUDE, "aligned(p.x, length", "aligned(nullptr, length"),),
        "FAULT misaligned access",
    ),
    "an element behind the last one is read": Fault(
        (Edit(OCCLUDE, "out = load_pack<V>(x);", "out = load_pack<V>(x + 1);"),),
        "OUT OF BOUNDS",
        ("--guard", "end"),
    ),
    "an element before the first one is read": Fault(
        (Edit(OCCLUDE, "out = load_pack<V>(x);", "out = load_pack<V>(x - 1);"),),
        "OUT OF BOUNDS",
        ("--guard", "start"),
    ),
    "two threads write the same to one place": Fault(
        (
            Edit(OCCLUDE, "groups.split(i);", "groups.split(i / 2);"),
            Edit(OCCLUDE, "static_cast<Index>(lines *", "static_cast<Index>(2 * lines *"),
        ),
        "FAULT race: written by two threads",
        ("--races",),
        unseen=True,
    ),
    "what nobody wrote is read": Fault(
        (Edit("cuda/spatial_max.cu", "(planes * p.pieces)", "(planes * p.pieces - 1)"),),
        "WRONG maxima",
        ("--guard", "end"),
        op="spatial_max",
        case="maxima",
    ),
    "a block of 2048 threads": Fault(
        (Edit(LAUNCH, "threads_per_block, 0, static", "8 * threads_per_block, 0, static"),),
        "launching occlude failed with cudaError_t 9",
    ),
    "a thread strides too far": Fault(
        (Edit(LAUNCH, "(gridDim.x) * threads_per_block;", "(gridDim.x) * threads_per_block + 1;"),),
        "differ",
    ),
    "a row too many is covered": Fault(
        (Edit(OCCLUDE, "row < box[2]", "row <= box[2]"),),
        "differ",
    ),
}


def random_calls(library: Path, *options: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.run(
        [sys.executable, RANDOM_CASES, "--cases", "100", "--library", library, *options],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


def built(name: str) -> Path:
    return emulated.build_edited(name.replace(" ", "-"), FAULTS[name].op, FAULTS[name].edits)


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_seen(nvcc, name):
    fault, library = FAULTS[name], built(name)
    done = random_calls(library, "--only", fault.case, *fault.options)
    assert done.returncode != 0
    assert fault.said in done.stdout + done.stderr
    if fault.unseen:
        done = random_calls(library, "--only", fault.case)
        assert done.returncode == 0, "something else sees it: this proves nothing of the check"
        assert "100 cases, 0 wrong" in done.stdout


def test_the_same_library_is_not_made_twice(nvcc):
    name = "a row too many is covered"
    made = built(name).stat().st_mtime_ns
    (built(name).parent / "stubs" / "occlude.o").touch()  # as ninja sees it, that is new
    assert built(name).stat().st_mtime_ns == made


def test_an_edit_that_no_longer_fits_is_refused():
    with pytest.raises(ValueError, match=r"occlude\.cu does not have this once: no such text"):
        Edit(OCCLUDE, "no such text", "").of("something else")
