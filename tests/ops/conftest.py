"""Where an op is tested: the CPU kernel, the CUDA path run on the host, and CUDA if any."""

from collections.abc import Callable
from dataclasses import dataclass

import host_copies
import pytest
import torch
from torch import Tensor

from zfcuda import _build_facts, ops  # noqa: F401  (ops: the rules of autograd)
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


PLACES = [
    Place("cpu", "zfcuda", "cpu"),
    Place("cuda-on-host", "zfcuda_host", "cpu"),
    pytest.param(
        Place("cuda", "zfcuda", "cuda"),
        marks=[
            pytest.mark.cuda,
            pytest.mark.skipif(not CUDA, reason="no usable GPU, or zfcuda was built without CUDA"),
        ],
    ),
]


@pytest.fixture(params=PLACES, ids=lambda place: place.name)
def place(request: pytest.FixtureRequest) -> Place:
    return request.param


@pytest.fixture(scope="session", autouse=True)
def _host_copies(request: pytest.FixtureRequest) -> None:
    """``torch.ops.zfcuda_host``; compiling it the first time is shown on the terminal."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        host_copies.load()
