"""The rates behind a device's profile, measured here (:mod:`zfcuda.cones.profile`).

    python benchmarks/device_profile.py

prints the median of some rounds, in the units of zfcuda.DeviceProfile, beside what it holds. With
ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 it is that of an older CPU. A CPU's profile was
chosen by these and by runs of occlusion; a GPU's follows from them.
"""

from __future__ import annotations

import argparse
import statistics

import torch

from zfcuda.cones.profile import Rates, of_gpu, profile_of, rates

ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    large = 32 if device.type == "cuda" else 4
    found = [rates(device, dtype, large) for _ in range(options.rounds)]
    median = Rates(
        *(statistics.median(getattr(one, name) for one in found) for name in vars(found[0]))
    )
    known = profile_of(device, dtype)
    print(f"{median.macs / 1e9:.1f} G multiply-adds/s, {median.bytes / 1e9:.1f} GB/s")
    print(f"{'':12}{'measured':>12}{known.name:>24}")
    for name, value in (
        ("byte", median.macs / median.bytes),
        ("depthwise", median.macs / median.depthwise_macs),
        ("call", median.macs * median.call),
        ("cone_call", median.macs * median.cone_call),
    ):
        print(f"{name:12}{value:12.3g}{getattr(known, name):24.3g}")
    if device.type == "cuda":
        print(of_gpu("by this", torch.cuda.mem_get_info(device)[1], median))


if __name__ == "__main__":
    main()
