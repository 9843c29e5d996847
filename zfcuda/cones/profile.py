"""What calls and bytes cost on a device, beside arithmetic, and how much to do at once there.

From this follow the step from which whole maps are cheaper than cones, which windows share a
convolution, and how many positions go together. Other numbers of these change how long it takes,
and the last bits of what is found, never what it means.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zfcuda import ops
from zfcuda.ops.windows import as_maps, window_table
from zfcuda.storage.identity import precision


@dataclass(frozen=True)
class DeviceProfile:
    """A device's costs, in multiply-adds of a large convolution: only their ratios matter.

    Attributes:
        name: of the device, and of the arithmetic that this holds for.
        byte: a byte written or read.
        depthwise: a multiply-add of a grouped convolution, at most.
        windowed: a multiply-add on windows.
        call: a step's call on whole maps.
        cone_call: a step's call on patches: tables, buckets, a few small calls.
        convolution_call: one more convolution, for windows of another size: its setup, and its
            share of the weights read again.
        windows: bytes of windows for one convolution, which should still be near when it reads
            them.
        cached: bytes of patches, and of one batch of maps, from which on more together is no
            faster; 0 where only the memory limits them.
        positions: whose vectors are worth collecting for one pass of the linear layers.
    """

    name: str
    byte: float
    depthwise: float
    windowed: float
    call: float
    cone_call: float
    convolution_call: float
    windows: int
    cached: int
    positions: int

    def __post_init__(self) -> None:
        """
        Raises:
            TypeError: a cost or a size that is no number.
            ValueError: one that is not finite, or of nothing.
        """
        for one in fields(self)[1:]:
            value = getattr(self, one.name)
            whole = one.type == "int"
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                kind = "an int" if whole else "a number"
                raise TypeError(f"{one.name} must be {kind}, got {value!r}")
            nothing = value == 0 and one.name in _POSITIVE
            if not 0 <= value <= (sys.maxsize if whole else sys.float_info.max) or nothing:
                raise ValueError(f"{one.name} must be finite and positive, got {value!r}")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> DeviceProfile:
        """From what :attr:`settings` gave.

        Raises:
            TypeError, ValueError: it is none.
        """
        return cls(**settings)

    @property
    def settings(self) -> dict[str, Any]:
        """As stored runs record it."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.name}: a byte costs {self.byte:g} multiply-adds, one more convolution "
            f"{self.convolution_call / 1e6:,.0f} million; {self.windows / 2**20:,.4g} MiB of "
            f"windows, {self.positions} positions together"
        )


_POSITIVE = ("byte", "windows", "positions")

# From benchmarks/device_profile.py and from runs of occlusion on two cores, for AVX2 with torch and
# oneDNN told to use no more. malloc takes blocks above 32 MiB from the system and gives them back
# every time.
AVX512 = DeviceProfile(
    "AVX-512", 12.0, 12.0, 1.08, 3e6, 15e6, 100e6, windows=2**23, cached=2**25, positions=512
)
AVX2 = DeviceProfile(
    "AVX2", 8.0, 6.0, 1.08, 1.5e6, 7.5e6, 50e6, windows=2**23, cached=2**25, positions=512
)

_known: dict[tuple[Any, ...], DeviceProfile] = {}


def profile_of(device: torch.device, dtype: torch.dtype) -> DeviceProfile:
    """What holds for convolutions of ``dtype`` on a device.

    Of CPUs by what torch computes with. A GPU is asked once a process, for a dtype and a precision
    of products, which takes some tenths of a second.
    """
    if device.type != "cuda":
        return AVX512 if torch.backends.cpu.get_cpu_capability() == "AVX512" else AVX2
    how = precision(device, dtype)
    key = (str(device), dtype, how)
    if key not in _known:
        name = f"{torch.cuda.get_device_name(device)}, convolutions in {how.convolutions}"
        free, memory = torch.cuda.mem_get_info(device)
        _known[key] = of_gpu(name, memory, rates(device, dtype, _that_fit(free, dtype)))
    return _known[key]


@dataclass(frozen=True)
class Rates:
    """What was measured of a device.

    Attributes:
        macs: multiply-adds a second of a large convolution.
        depthwise_macs: of one whose every map is a group.
        bytes: read or written a second.
        call: seconds of a small convolution, its bias and ReLU, one of many.
        cone_call: seconds of a step on a few small windows: the host's table and its way to the
            device, gathering, convolution.
    """

    macs: float
    depthwise_macs: float
    bytes: float
    call: float
    cone_call: float


_LARGE = 32  # images of a large convolution


def _that_fit(free: int, dtype: torch.dtype) -> int:
    """As many of them as leave most of so many bytes free."""
    image = math.prod(_IMAGE) * dtype.itemsize
    return max(1, min(_LARGE, free // (16 * image)))  # four of each and what cuDNN works with


_MOST_WINDOWS = 2**32
_ON_GPU = 3000  # positions


def of_gpu(name: str, memory: int, rates: Rates) -> DeviceProfile:
    """The profile of a GPU with so many bytes of memory. Costs are powers of two, so that another
    process, which measures a little more or less, finds the same."""
    windows = min(_MOST_WINDOWS, memory // 32)
    cone_call = _power_of_two(rates.macs * rates.cone_call)
    return DeviceProfile(
        name,
        byte=_power_of_two(rates.macs / rates.bytes),
        depthwise=max(1.0, _power_of_two(rates.macs / rates.depthwise_macs)),
        windowed=1.0,
        call=_power_of_two(rates.macs * rates.call),
        cone_call=cone_call,
        convolution_call=cone_call,
        windows=2 ** int(math.log2(max(1, windows))),
        cached=0,
        positions=_ON_GPU,
    )


def _power_of_two(value: float) -> float:
    return 2.0 ** round(math.log2(value))


# --- measuring ------------------------------------------------------------------------------------


@torch.no_grad()
def rates(device: torch.device, dtype: torch.dtype, large: int = _LARGE) -> Rates:
    """Measure a device; ``large``: images of 256 maps of 56x56 in a large convolution."""
    x = torch.ones(large, *_IMAGE, dtype=dtype, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.ones(256, 256, 3, 3, dtype=dtype, device=device)
    weight = weight.contiguous(memory_format=torch.channels_last)
    each = weight[:, :1].contiguous()
    few = x[:1, :16].contiguous(memory_format=torch.channels_last), weight[:16, :16].clone()
    macs = x.numel() * weight[0].numel()
    copy = torch.empty_like(x)
    memory = _seconds(lambda: copy.copy_(x), device)
    depthwise = _seconds(lambda: F.conv2d(x, each, padding=1, groups=256), device)
    return Rates(
        macs=macs / _seconds(lambda: F.conv2d(x, weight, padding=1), device),
        # Without what its bytes take, which are counted by themselves.
        depthwise_macs=x.numel() * each[0].numel() / max(depthwise - memory, depthwise / 8),
        bytes=2 * x.nbytes / memory,
        call=_seconds(_many(_small_step(*few)), device) / _TIMES,
        cone_call=_seconds(_many(_small_cone_step(*few)), device) / _TIMES,
    )


_IMAGE = (256, 56, 56)
_TIMES = 32  # of small calls, so that a device's queue is filled


def _many(call: Callable[[], object]) -> Callable[[], object]:
    return lambda: [call() for _ in range(_TIMES)]


def _small_step(x: Tensor, weight: Tensor) -> Callable[[], Tensor]:
    few, bias = x[:1, :, :3, :3], weight.new_zeros(len(weight))
    return lambda: torch.relu_(F.conv2d(few, weight, bias, padding=1))


def _small_cone_step(x: Tensor, weight: Tensor) -> Callable[[], Tensor]:
    maps, bias = x[:1].permute(0, 2, 3, 1), weight.new_zeros(len(weight))
    rows = np.zeros((8, 8), np.int64)
    rows[:, 1] = -1
    boxes = np.tile(np.array([0, 0, 3, 3]), (8, 1))

    def step() -> Tensor:
        windows = window_table(rows, boxes, np.arange(8) * 9, x.device)
        out = maps.new_empty(8 * 9, maps.shape[3])
        ops.gather_windows(maps, [], windows, out, 9)
        return torch.relu_(F.conv2d(as_maps(out.view(8, 3, 3, -1)), weight, bias))

    return step


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """The shortest of three, after one that does not count."""

    def once() -> float:
        begin = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - begin

    once()
    return max(1e-9, min(once() for _ in range(3)))
