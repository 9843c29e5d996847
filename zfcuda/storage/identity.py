"""What results depend on besides their settings: a model's weights and code, versions."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # as the default repr has it: another in every process


def weights_digest(model: nn.Module) -> str:
    """sha256 of the state dict: names, types, shapes and values, in its order."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):  # what a module of one's own keeps besides
            digest.update(f"{name} {_ADDRESS.sub('', repr(value))}".encode())
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(_bytes_of(value))
    return digest.hexdigest()


def architecture_digest(model: nn.Module) -> str:
    """sha256 of the model's printed form: kinds of modules, strides and the like, which no weight
    tells."""
    return hashlib.sha256(_ADDRESS.sub("", repr(model)).encode()).hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    """sha256 of type, shape and values."""
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def precision(device: torch.device) -> dict[str, str]:
    """What torch was told about rounding on a device: autocast's type, and how exact float32
    products are."""
    cast = torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type)
    return {
        "autocast": str(cast or "off").removeprefix("torch."),
        "float32 products": torch.get_float32_matmul_precision(),
    }


def versions(*packages: str) -> dict[str, str]:
    """The installed versions of some packages; those that are not installed are left out.

    Of torch with its build, as 2.13.0+cu130: another build rounds differently.
    """
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # run from a source tree
            continue
    if "torch" in found:
        found["torch"] = str(torch.__version__)  # PyPI's own version is without the build
    return found


def same_versions(there: Any, here: Any) -> bool:
    """Whether two records of :func:`versions` are alike. What zfcuda 0.1.0 began goes on: it
    computed the same but for rounding. Its records may lack the build of torch, which then
    does not count."""
    if not (isinstance(there, dict) and isinstance(here, dict)):
        return bool(there == here)
    if there.get("zfcuda") == "0.1.0":
        there = {**there, "zfcuda": here.get("zfcuda")}
    old, new = str(there.get("torch")), str(here.get("torch"))
    release = new if "+" in old else new.partition("+")[0]
    return {**there, "torch": old} == {**here, "torch": release}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within, torch's random numbers on the CPU begin at ``seed``; afterwards they go on as if none
    had been drawn. Those of GPUs are left alone, which torch.manual_seed would all begin anew."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
