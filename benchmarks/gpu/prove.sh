#!/usr/bin/env bash
# The CUDA kernels on the GPU at hand, in one command of seven minutes: build, small sizes, kernels against the copy
# bandwidth, occlusion against Captum and dense passes, every kernel's tests. Needs an NVIDIA GPU and a Python with
# torch's CUDA build, pytest, hypothesis and matplotlib; zfcuda need not be installed; downloads nothing. Also used
# where they are there: captum (else its way in plain torch) and torchvision (else without its networks).
#
#   benchmarks/gpu/prove.sh --seconds 400                        all of that, in shares of the time
#   benchmarks/gpu/prove.sh --seconds 240 --only kernels memcheck profile
#                                                                some stages; Nsight Compute looks at the three kernels
#                                                                that the last record (in --out or in
#                                                                benchmarks/results) has furthest from what is expected
#   benchmarks/gpu/prove.sh --dry                                does it run? on the CPU, no GPU needed; proves nothing
#
# The build takes nvcc and a minute there. Or bring what was compiled elsewhere, with a CPU-only torch if need be:
#
#   ZFCUDA_CUDA=1 TORCH_CUDA_ARCH_LIST=9.0 python setup.py build_ext --inplace
#
# and zfcuda/_ops.so with zfcuda/_build_facts.py, of the same sources, go into the clone there: that library serves every
# torch since 2.11 and every Python, and nothing is compiled. (zfcuda/_C.*.so is one Python's; without it two tests of
# what only it tells are skipped.)
#
# Writes gpu-CHIP-DATE.json and .md and gpu-CHIP-DATE-logs.tar.gz to benchmarks/results (another folder with --out),
# after every stage; stages of an earlier call of that day stay in them. SIGTERM ends the stage under way as well.
set -euo pipefail
export PROVE_BEGAN="$(date +%s.%N)"
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
command -v "${PYTHON:-python3}" >/dev/null || { echo "prove.sh: there is no ${PYTHON:-python3} (PYTHON=... names another)" >&2; exit 2; }
exec "${PYTHON:-python3}" benchmarks/gpu/prove.py "$@"
