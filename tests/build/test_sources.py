"""csrc/sources.txt, the one list that setup.py and CMakeLists.txt compile from."""

from pathlib import Path

import extension

CSRC = Path(extension.CSRC)


def test_list_and_disk_agree():
    on_disk = {str(p.relative_to(CSRC.parent)) for p in CSRC.rglob("*.c*") if p.suffix != ".h"}
    listed = extension.sources()
    assert len(listed) == len(set(listed)), "a file is listed twice"
    assert set(listed) == on_disk


def test_only_kernels_need_nvcc():
    for source in extension.sources():
        is_kernel = source.startswith("csrc/cuda/") and source.endswith("_kernel.cu")
        assert is_kernel == source.endswith(".cu"), source


def test_kernels_are_torch_free():
    """nvcc sees no torch header beyond the 16-bit types, so kernels build under any torch."""
    allowed = {"<c10/util/Half.h>", "<c10/util/BFloat16.h>"}
    for path in [*CSRC.glob("cuda/*_kernel.cu"), *CSRC.glob("core/*.h")]:
        included = {
            line.split()[1] for line in path.read_text().splitlines() if line.startswith("#include")
        }
        torch_headers = {name for name in included if name.startswith(("<ATen", "<c10", "<torch"))}
        assert torch_headers <= allowed, path
