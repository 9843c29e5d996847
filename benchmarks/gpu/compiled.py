"""What the compiler makes of every kernel, for every chip: no GPU needed.

    python benchmarks/gpu/compiled.py            writes benchmarks/results/compiled.json and .md
    python benchmarks/gpu/compiled.py --check    writes nothing: is a promise broken?

Compiles each .cu for each architecture as the build does, reads registers, stack frames, spills and
shared memory from ptxas' report and the widths of all accesses from the disassembly. A *hot* kernel
(a fast path, see `Kernel.hot`) may neither spill nor keep anything in local memory, and has the
wide accesses that its body promises; the exit status is 1 if one does not.

Needs nvcc, c++filt and, for the widths, nvdisasm: the toolkit's, or that of the Python package
nvidia-cuda-nvdisasm. Without it widths are *not checked*, which the table says.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "build_backend"))
import cuda_gate
import toolchain
from steps import job_count
from toolchain import CSRC, ROOT, Toolchain

ARCHITECTURES = ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
# Threads that a multiprocessor holds; all have 65,536 registers, given out by the 8 a thread.
RESIDENT = {"8.0": 2048, "8.6": 1536, "8.9": 1536, "9.0": 2048, "10.0": 2048, "12.0": 1536}
THREADS = 256  # a block of cuda/launch.h
TYPES = {
    "c10::Half": "float16",
    "c10::BFloat16": "bfloat16",
    "float": "float32",
    "double": "float64",
    "unsigned short": "uint16",
    "unsigned int": "uint32",
    "unsigned long": "uint64",
    "int": "int32",
    "long": "int64",
}


@dataclass(frozen=True)
class Body:
    """A kernel body of csrc/cuda.

    Attributes:
        op: whose kernel it is.
        arguments: its template's, in order.
        store: which of them says how many elements one global store moves; empty for the bodies
            that serve what no fast path does.
        load: likewise, of its widest load; empty where elements are fetched one by one.
    """

    op: str
    arguments: str
    store: str = ""
    load: str = ""


BODIES = {
    "MaxPoolRow": Body("max_pool2d", "T K Stride V A", "V", "A"),
    "MaxPoolPixel": Body("max_pool2d", "T K V Index", "V", "V"),
    "MaxUnpoolRow": Body("max_unpool2d", "T K Stride Phase Overwrite V S Pieces", "S"),
    "MaxUnpoolPixel": Body("max_unpool2d", "T K V Index", "V", "V"),
    "MaxUnpoolBackwardElement": Body("max_unpool2d_backward", "T Index"),
    "LrnColumn": Body("local_response_norm", "T Size V", "V", "V"),
    "LrnPixel": Body("local_response_norm", "T Size V", "V", "V"),
    "LrnElement": Body("local_response_norm", "T Index"),
    "OccludeRow": Body("occlude", "T V Index", "V", "V"),
    "LargestOfPiece": Body("spatial_max", "T Index"),
    "LargestOfPieces": Body("spatial_max", "T Index"),
    "WarpColumns": Body("warp_affine", "T V Index", "V"),
    "WarpPixel": Body("warp_affine", "T V Index", "V"),
    "WarpPixels": Body("warp_affine", "T Channels V", "V"),
    "WarpBackwardElement": Body("warp_affine_backward", "T Index"),
    "GatherWindowPixel": Body("gather_windows", "T Add V Index", "V", "V"),
    "PoolWindowPixel": Body("pool_windows", "T K V Index", "V", "V"),
    "UnpoolWindowPixel": Body("unpool_windows", "T K V Index", "V", "V"),
}


@dataclass(frozen=True)
class Kernel:
    """One kernel for one architecture.

    Attributes:
        name: of its body, with the template's arguments.
        registers: a thread's.
        stack: bytes of local memory a thread has.
        spills: bytes that one thread stores and loads there for want of registers.
        shared: bytes a block has.
        accesses: how many instructions of each global and local kind, ``{"LDG.128": 2}``, and
            under ``"all"`` of any; None where nothing was disassembled.
    """

    name: str
    arch: str
    registers: int
    stack: int
    spills: int
    shared: int
    accesses: dict[str, int] | None = None

    @property
    def body(self) -> Body:
        return BODIES[self.name.partition("<")[0]]

    @property
    def arguments(self) -> dict[str, str]:
        values = self.name.partition("<")[2].removesuffix(">").split(", ")
        return dict(zip(self.body.arguments.split(), values, strict=True))

    @property
    def hot(self) -> bool:
        """A fast path with 32-bit indices and an unrolled window."""
        a = self.arguments
        return (
            bool(self.body.store) and a.get("Index", "int32") == "int32" and a.get("K", "3") != "0"
        )

    def promised(self, which: str) -> int:
        """Bits of the widest access that the template argument ``which`` speaks of."""
        a = self.arguments
        return int(a[which]) * int(a["T"].lstrip("abcdefghijklmnopqrstuvwxyz")) if which else 0

    @property
    def occupancy(self) -> float:
        """Share of a multiprocessor's threads that the registers allow."""
        blocks = 65536 // (THREADS * -(-max(self.registers, 1) // 8) * 8)
        return min(1.0, blocks * THREADS / RESIDENT[self.arch])

    def faults(self) -> list[str]:
        """What a hot kernel must not do, or lacks."""
        if not self.hot:
            return []
        found = []
        if self.spills:
            found.append(f"spills {self.spills} bytes")
        if self.stack:
            found.append(f"has {self.stack} bytes of local memory")
        if self.accesses is not None:
            for kind, which in (("LDG", self.body.load), ("STG", self.body.store)):
                if (bits := self.promised(which)) > _widest(self.accesses, kind):
                    found.append(f"has no {bits}-bit {'load' if kind == 'LDG' else 'store'}")
        return [f"{self.name} on {_chip(self.arch)} {what}" for what in found]


def _widest(accesses: dict[str, int], kind: str) -> int:
    return max((int(a.split(".")[1]) for a in accesses if a.startswith(f"{kind}.")), default=0)


# --- reading the tools' output --------------------------------------------------------------------


def body_name(demangled: str) -> str | None:
    """``MaxPoolPixel<float32, 3, 4, int32>`` of run_body's full signature; None for other
    functions."""
    found = re.search(r"run_body<(.+?), \w+>\(", demangled)
    if not found:
        return None
    text = found[1].replace("zfcuda::cuda::", "")
    name, _, arguments = text.removesuffix(">").partition("<")
    return f"{name}<{', '.join(TYPES.get(each, each) for each in arguments.split(', '))}>"


def resources(report: str, arch: str) -> dict[str, dict[str, int]]:
    """Of every mangled name in ptxas' report for a chip: registers, stack, spills, shared.

    Raises:
        ValueError: a kernel without its numbers (another ptxas, another wording).
    """
    found: dict[str, dict[str, int]] = {}
    for part in report.split("Compiling entry function '")[1:]:
        name, chip = re.match(r"(\w+)' for '(\w+)'", part).groups()
        if chip != _chip(arch):
            continue
        numbers = {
            what: re.search(pattern, part)
            for what, pattern in {
                "registers": r"Used (\d+) registers",
                "stack": r"(\d+) bytes stack frame",
                "stores": r"(\d+) bytes spill stores",
                "loads": r"(\d+) bytes spill loads",
            }.items()
        }
        if not all(numbers.values()):
            missing = [what for what, match in numbers.items() if not match]
            raise ValueError(f"ptxas reports no {', '.join(missing)} of {name}")
        registers, stack, stores, loads = (int(match[1]) for match in numbers.values() if match)
        shared = re.search(r"(\d+) bytes smem", part)
        found[name] = {
            "registers": registers,
            "stack": stack,
            "spills": stores + loads,
            "shared": int(shared[1]) if shared else 0,
        }
    return found


def accesses(disassembly: str) -> dict[str, dict[str, int]]:
    """Of every mangled name in nvdisasm's output: how many accesses of which kind and width, and
    how many instructions in all."""
    found: dict[str, Counter[str]] = {}
    current: Counter[str] = Counter()
    for line in disassembly.splitlines():
        if section := re.match(r"\.text\.(\w+):", line):
            current = found.setdefault(section[1], Counter())
            continue
        if re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+\S", line) and " NOP" not in line:
            current["all"] += 1
        if opcode := re.search(r"\*/\s+(?:@!?U?P\w+\s+)?((?:LD|ST)[GL]?(?:\.\w+)*)\s", line):
            kind, _, rest = opcode[1].partition(".")
            current[f"{kind}.{_bits(rest)}"] += 1
    return {name: dict(sorted(each.items())) for name, each in found.items()}


def _bits(modifiers: str) -> int:
    for part in modifiers.split("."):
        if width := re.fullmatch(r"[US]?(8|16|64|128|256)", part):
            return int(width[1])
    return 32


# --- compiling ------------------------------------------------------------------------------------


def compile_all(architectures: Sequence[str], only: str = "") -> list[Kernel]:
    """Every kernel of the .cu files whose name contains ``only``, for every architecture.

    Raises:
        RuntimeError: there is no nvcc, or a file does not compile.
    """
    nvcc = cuda_gate.find_nvcc()
    if nvcc is None:
        raise RuntimeError("there is no nvcc (CUDA_HOME, PATH and /usr/local/cuda were searched)")
    files = [file for file in toolchain.sources("kernels") if only in file.name]
    gate = cuda_gate.Gate("", nvcc, tuple(architectures))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(job_count()) as pool:
        tools = Toolchain(gate, Path(folder))
        jobs = [pool.submit(_compile, file, tools) for file in files]
        return [kernel for job in jobs for kernel in job.result()]


def _compile(source: Path, tools: Toolchain) -> list[Kernel]:
    command = list(tools.compile(source).command)  # what the build runs, but for its end
    kept = tools.folder / source.stem
    kept.mkdir()
    command[command.index("-MD") :] = ["-Xptxas", "-v", "--keep", "--keep-dir", str(kept)]
    report = _call([*command, "-c", str(source), "-o", str(kept / "object")]).stderr
    seen: dict[str, dict[str, dict[str, int]]] = {}
    if disassembler := find_nvdisasm(tools.gate.nvcc):
        for cubin in kept.glob("*.cubin"):
            text = _call([disassembler, "-c", str(cubin)]).stdout
            seen[re.search(r"\.target\s+(sm_\d+)", text)[1]] = accesses(text)
    found = []
    for arch in tools.gate.archs:
        numbers = resources(report, arch)
        widths = seen.get(_chip(arch), {})
        names = _call(["c++filt", *numbers]).stdout.splitlines()
        for mangled, demangled in zip(numbers, names, strict=True):
            if name := body_name(demangled):
                found.append(Kernel(name, arch, **numbers[mangled], accesses=widths.get(mangled)))
    return found


def _chip(arch: str) -> str:
    return f"sm_{arch.replace('.', '')}"


def find_nvdisasm(nvcc: cuda_gate.Nvcc | None) -> str | None:
    """The toolkit's, PATH's or the Python package's."""
    places = [nvcc.home / "bin" / "nvdisasm"] if nvcc else []
    try:
        files = importlib.metadata.files("nvidia-cuda-nvdisasm") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    packaged = [Path(str(each.locate())) for each in files if each.name == "nvdisasm"]
    on_path = shutil.which("nvdisasm")
    return next((str(p) for p in places if p.is_file()), on_path) or next(map(str, packaged), None)


def _call(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{Path(command[0]).name} failed: {done.stderr.strip()[-600:]}")
    return done


def fingerprint() -> str:
    """Of what the kernels are made of; another one means that the record is of other kernels."""
    digest = hashlib.sha256()
    for file in sorted(CSRC.rglob("*")):
        if file.suffix in (".h", ".cu") and file.parent.name in ("cuda", "core"):
            digest.update(file.relative_to(CSRC).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()[:16]


# --- the record -----------------------------------------------------------------------------------


def faults(kernels: Iterable[Kernel]) -> list[str]:
    return [fault for kernel in kernels for fault in kernel.faults()]


def record(kernels: Sequence[Kernel]) -> str:
    """JSON, a kernel a line."""
    nvcc = cuda_gate.find_nvcc()
    head = {"nvcc": nvcc.version if nvcc else "", "sources": fingerprint()}
    lines = ",\n".join(json.dumps(asdict(kernel)) for kernel in sorted(kernels, key=_order))
    return f'{{"head": {json.dumps(head)}, "kernels": [\n{lines}\n]}}\n'


def read(path: Path) -> list[Kernel]:
    """The kernels of a record."""
    return [Kernel(**each) for each in json.loads(path.read_text())["kernels"]]


def _order(kernel: Kernel) -> tuple[str, float]:
    return kernel.name, float(kernel.arch)


def markdown(kernels: Sequence[Kernel], version: str) -> str:
    """A table of the hot kernels, what the others spill, and what breaks a promise."""
    archs = sorted({kernel.arch for kernel in kernels}, key=float)
    rows: dict[str, list[Kernel]] = {}
    for kernel in sorted(kernels, key=_order):
        rows.setdefault(kernel.name, []).append(kernel)
    broken = faults(kernels)
    chips = ", ".join(map(_chip, archs))
    lines = [
        "# What the compiler makes of the kernels",
        "",
        f"nvcc {version} for {chips}; made by `python benchmarks/gpu/compiled.py` without a GPU.",
        "",
        f"{len(rows)} kernels, {sum(row[0].hot for row in rows.values())} of them hot (a fast "
        "path: 32-bit indices, unrolled windows).",
        "",
        "**Hot kernels that break a promise** (spills, local memory, narrow access): "
        + ("none." if not broken else f"{len(broken)}."),
        *(f"- {line}" for line in broken),
        "",
        "## Hot kernels",
        "",
        "Registers a thread, and in brackets the share of a multiprocessor's threads that they "
        "allow; the widest global load and store of the disassembly, in bits, the narrowest of all "
        "chips; instructions of the whole kernel, slow branches included, the most of all chips.",
        "",
        f"| kernel | {' | '.join(archs)} | spills | load | store | instructions |",
        f"|---|{'---:|' * (len(archs) + 4)}",
    ]
    for name, row in rows.items():
        if row[0].hot:
            cells = [f"{k.registers} ({k.occupancy:.0%})" for k in row]
            widths = [_narrowest(row, kind) for kind in ("LDG", "STG")]
            widths.append(str(max((k.accesses or {}).get("all", 0) for k in row) or "not checked"))
            spills = max(k.spills for k in row)
            lines.append(f"| `{name}` | {' | '.join([*cells, str(spills), *widths])} |")
    spilling = {name: row for name, row in rows.items() if any(k.spills or k.stack for k in row)}
    lines += ["", "## Kernels with local memory", ""]
    if not spilling:
        return "\n".join([*lines, "None, on any chip.", ""])
    lines += [
        "Bytes that a thread stores and loads there, chip by chip.",
        "",
        f"| kernel | hot | {' | '.join(archs)} |",
        f"|---|---|{'---:|' * len(archs)}",
        *(
            f"| `{name}` | {'yes' if row[0].hot else 'no'} | "
            f"{' | '.join(str(k.spills) for k in row)} |"
            for name, row in spilling.items()
        ),
    ]
    return "\n".join([*lines, ""])


def _narrowest(row: Sequence[Kernel], kind: str) -> str:
    seen = [_widest(k.accesses, kind) for k in row if k.accesses is not None]
    return str(min(seen)) if seen else "not checked"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--arch", nargs="+", default=ARCHITECTURES, metavar="X.Y")
    parser.add_argument("--only", default="", help=".cu files whose name contains this")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    if unknown := [arch for arch in options.arch if arch not in RESIDENT]:
        parser.error(f"--arch {unknown[0]!r} is not one of {', '.join(RESIDENT)}")
    kernels = compile_all(options.arch, options.only)
    page = markdown(kernels, cuda_gate.find_nvcc().version)
    if not options.check:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "compiled.json").write_text(record(kernels))
        (options.out / "compiled.md").write_text(page)
    print(page)
    return int(bool(faults(kernels)))


if __name__ == "__main__":
    sys.exit(main())
