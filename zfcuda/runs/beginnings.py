"""What every run starts from: its network, its images, what results depend on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zfcuda.data.images import Numbered, tried
from zfcuda.inference.checks import device_of, is_int, per_image
from zfcuda.results.base import Outputs
from zfcuda.storage.identity import (
    architecture_digest,
    precision,
    tensor_digest,
    versions,
    weights_digest,
)

__all__ = ["first_readable", "identity_of", "memory", "outputs_setting", "targets_of"]

# Bytes of one batch: fixed, since what is free changes from run to run, and batches with it.
_MEMORY = {"cpu": 2**27, "cuda": 2**30}


def memory(max_memory: int | None, device: torch.device) -> int:
    """Bytes that the activations of one batch may take: as given, or 128 MiB on a CPU and 1 GiB on
    a GPU."""
    return _MEMORY.get(device.type, 2**27) if max_memory is None else max_memory


def identity_of(model: nn.Module, images: Numbered, x: Tensor) -> dict[str, Any]:
    """What every experiment's results depend on: network, images, types, device, versions.

    Args:
        x: an image [C,H,W], as the model takes it.
    """
    return {
        "weights": weights_digest(model),
        "architecture": architecture_digest(model),
        **images.identity(),
        "count": len(images),
        "image": [*x.shape],
        "dtype": str(x.dtype).removeprefix("torch."),
        "device": device_of(model).type,  # images are read on the CPU
        **precision(device_of(model)),
        "versions": versions("zfcuda", "torch", "pillow"),
    }


def targets_of(target: Any, count: int, classes: int) -> tuple[Tensor | None, str | int]:
    """A class for all images or one for each as int64 [N], None for what the model predicts; and
    what settings say about it.

    Raises:
        ValueError: not one or ``count`` of the ``classes``.
    """
    if target is None:
        return None, "predicted"
    found = per_image(target, count, classes, "target")
    return found, int(target) if is_int(target) else tensor_digest(found)


def outputs_setting(outputs: Outputs) -> dict[str, str]:
    """What settings say of the network's outputs: of logits nothing, as those of runs begun before
    there was anything to say."""
    return {} if outputs == "logits" else {"outputs": outputs}


def first_readable(images: Numbered) -> Tensor:
    """The first image that can be read.

    Raises:
        ValueError: there is none.
    """
    for number in range(len(images)):
        x = tried(images, number)
        if isinstance(x, Tensor):
            return x
    raise ValueError(f"none of the {len(images):,} images can be read; the last: {x}")
