"""Where an op is tested: the CPU kernel, the CUDA path run on the host, and CUDA if any."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import host_copies
import pytest
import torch
from torch import Tensor

import zfcuda
from zfcuda import _build_facts
from zfcuda.ops.library import _translated

CUDA = torch.cuda.is_available() and _build_facts.WITH_CUDA


@dataclass(frozen=True)
class Place:
    """An implementation: its op namespace and the device its tensors live on."""

    name: str
    namespace: str
    device: str

    def op(self, name: str) -> Callable[..., Tensor]:
        """With the exceptions that the functions of zfcuda.ops raise, under every torch."""
        return _translated(getattr(getattr(torch.ops, self.namespace), name).default)

    @property
    def library(self) -> Path:
        """The file with its kernels."""
        own = self.namespace == "zfcuda"
        return Path(zfcuda.__path__[0]) / "_ops.so" if own else host_copies.load()


CPU = Place("cpu", "zfcuda", "cpu")
# Those that run the kernels for GPUs.
FOR_GPUS = [
    Place("cuda-on-host", "zfcuda_host", "cpu"),
    pytest.param(
        Place("cuda", "zfcuda", "cuda"),
        marks=[
            pytest.mark.cuda,
            pytest.mark.skipif(not CUDA, reason="no usable GPU, or zfcuda was built without CUDA"),
        ],
    ),
]
