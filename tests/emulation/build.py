"""Compile ``torch.ops.zfcuda_host`` so that its ops launch nvcc's kernels, translated to C++.

    python tests/emulation/build.py [--variant wide]    prints the library, kept under build/

What has not changed is not made again. Needs nvcc, g++ and a CPU torch; no GPU.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "build_backend"))
import cuda_gate
import extension
import ptx_to_cpp
import steps
import toolchain
from steps import Step
from toolchain import CSRC, FLAGS, Toolchain

HERE = Path(__file__).resolve().parent
PTX = "-gencode=arch=compute_80,code=compute_80"
# What a variant changes of cuda/launch.h.
VARIANTS = {
    "wide": ("return elements < (int64_t{1} << 30);", "return elements < 0;"),
    "grid": ("most_blocks = int64_t{1} << 20;", "most_blocks = 3;"),
    "unaligned": (
        "return reinterpret_cast<uintptr_t>(pointer) % bytes == 0 && stride_bytes % bytes == 0;",
        "return pointer != nullptr || stride_bytes + bytes != 0;",
    ),
}


def build(variant: str | None = None) -> Path:
    """The library, for the variable ZFCUDA_HOST_COPIES, and guard.so.

    Raises:
        ValueError: there is no nvcc, or launch.h lacks what the variant changes.
    """
    nvcc = cuda_gate.find_nvcc()
    if nvcc is None:
        raise ValueError("the emulation needs nvcc (CUDA_HOME, PATH and /usr/local/cuda)")
    folder = extension.build_folder("emulation")
    gate = cuda_gate.Gate("these are the kernels for GPUs, emulated", nvcc)
    steps.write(folder / "zfcuda_build_facts.h", extension.facts_header(gate))
    tools = Toolchain(gate, folder)
    kernels = toolchain.sources("kernels")

    launches = [stub(tools, kernel) for kernel in kernels]
    steps.run(launches, [], folder)
    compiles = [translated(tools, kernel) for kernel in kernels]
    ops = [file for file in toolchain.sources("host_copies") if file.suffix == ".cpp"]
    compiles += [tools.compile(file, "-O1", "-DZFCUDA_HOST_COPIES") for file in ops]
    for name in ("runtime", "guard"):  # the guard needs torch's own allocator, not the stable ABI
        compiles.append(plain(tools, HERE / f"{name}.cpp", "-O2", "-UTORCH_TARGET_VERSION"))
    objects = [step.output for step in compiles]
    links = [tools.link([objects.pop()], folder / "guard.so", "-lc10")]
    if variant is None:
        objects += [step.output for step in launches]
        links.append(tools.link(objects, folder / "emulated.so"))
        steps.run(compiles, links, folder)
        return links[-1].output

    steps.run(compiles, links, folder)
    changed = folder / variant
    write_variant(variant, changed)
    launches = [stub(tools, kernel, changed) for kernel in kernels]
    link = tools.link([*objects, *(step.output for step in launches)], changed / "emulated.so")
    steps.run(launches, [link], changed)
    return link.output


def guard(library: Path) -> Path:
    """guard.so of a library that was built."""
    return next(folder / "guard.so" for folder in library.parents if (folder / "guard.so").exists())


def stub(tools: Toolchain, kernel: Path, changed: Path | None = None) -> Step:
    """nvcc's code for the host, which launches; its PTX is kept beside it."""
    folder = (changed or tools.folder) / "stubs"
    output = folder / f"{kernel.stem}.o"
    first = [f"-I{changed}"] if changed else []
    command = (
        *(str(tools.gate.nvcc.path), *first, *tools.nvcc_flags, "-Xcompiler", "-O1", PTX),
        *("--keep", "--keep-dir", str(folder), *system(tools), *made(kernel, output)),
    )
    return Step(output, (kernel,), command)


def translated(tools: Toolchain, kernel: Path) -> Step:
    """The PTX of a kernel's file as C++, compiled."""
    source = tools.folder / "translated" / f"{kernel.stem}.cpp"
    ptx = tools.folder / "stubs" / f"{kernel.stem}.ptx"
    steps.write(source, ptx_to_cpp.translate(ptx.read_text()))
    return plain(tools, source, "-O1", "-w", f"-I{HERE}")


def plain(tools: Toolchain, source: Path, *extra: str) -> Step:
    output = tools.folder / "translated" / f"{source.stem}.o"
    flags = [flag for flag in tools.cxx_flags if flag not in FLAGS["cxx"][:1]]
    command = (*tools.cxx, *flags, *extra, *system(tools), *made(source, output))
    return Step(output, (source,), command)


def system(tools: Toolchain) -> list[str]:
    return [flag for path in tools.system_includes for flag in ("-isystem", path)]


def made(source: Path, output: Path) -> tuple[str, ...]:
    return ("-MD", "-MF", f"{output}.d", "-c", str(source), "-o", str(output))


def write_variant(variant: str, folder: Path) -> None:
    """launch.h as the variant has it, to be found before csrc's."""
    before, after = VARIANTS[variant]
    header = (CSRC / "cuda" / "launch.h").read_text()
    if before not in header:
        raise ValueError(f"cuda/launch.h no longer has what {variant!r} changes: {before}")
    steps.write(folder / "cuda" / "launch.h", header.replace(before, after))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--variant",
        choices=VARIANTS,
        help="64-bit indices only; three blocks at most; alignment never asked for (must fault)",
    )
    print(build(parser.parse_args().variant))


if __name__ == "__main__":
    main()
