#!/usr/bin/env bash
# The CUDA kernels on the GPU at hand: build, tests, benchmarks, sanitizer, profile, the rest of the suite. Needs an
# NVIDIA GPU, nvcc and a Python with torch's CUDA build, pytest, hypothesis and matplotlib; downloads nothing. With
# half an hour once, this is the order that leaves most behind. Also run where they are there: captum (else its way
# in plain torch) and torchvision.
#
#   benchmarks/gpu/prove.sh                      everything; each stage stays under 8 minutes
#   benchmarks/gpu/prove.sh --only build tests   some stages
#   benchmarks/gpu/prove.sh --dry [--arch 9.0]   does it run? on the CPU, no GPU needed; proves nothing
#
# Writes benchmarks/results/gpu-CHIP-DATE.json and .md (another folder with --out), after every stage.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python3}" -c 'import torch' || { echo "prove.sh: ${PYTHON:-python3} has no torch (PYTHON=... names another)" >&2; exit 2; }
exec "${PYTHON:-python3}" benchmarks/gpu/prove.py "$@"
