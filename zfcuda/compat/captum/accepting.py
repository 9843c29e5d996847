"""What zfcuda takes on, and what it leaves to Captum, for which it raises :class:`Refused`."""

from __future__ import annotations

import logging
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zfcuda.storage.files import visible

Path = Literal["cone", "dense", "kernels", "captum"]

_log = logging.getLogger("zfcuda.compat.captum")


class Traceable:
    """Says which path the last call took.

    Attributes:
        path: "cone" or "dense", zfcuda's engine of that name; "kernels", Captum's own procedure
            with pooling and contrast normalisation on zfcuda's kernels; "captum", Captum
            unchanged; None before the first call.
        path_reason: why, in words.
    """

    path: Path | None = None
    path_reason: str = "attribute() has not been called"

    def took(self, path: Path, reason: str, error: Exception | None = None) -> None:
        self.path, self.path_reason = path, reason
        _log.debug(
            "%s took the path %r: %s", type(self).__name__, path, visible(reason), exc_info=error
        )


class Refused(Exception):
    """Why zfcuda leaves a call to Captum."""


def check_model(model: Any) -> None:
    """Only a module that zfcuda runs as Captum would."""
    if not isinstance(model, nn.Module):
        raise Refused(f"the forward function is a {type(model).__name__}, not a module")
    if isinstance(model, nn.DataParallel):
        raise Refused("the model is spread over several devices")
    for name, module in model.named_modules():
        if module.training:
            raise Refused(f"module {name!r} is in train mode; zfcuda runs models in eval mode")
        # In eval mode too its output depends on which images share a batch.
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise Refused(f"batch norm {name!r} has no running statistics")


def single_image_batch(model: Any, inputs: Any, additional: Any) -> Tensor:
    """The one input tensor [N,C,H,W]."""
    check_model(model)
    if additional is not None:
        raise Refused("there are additional_forward_args")
    (x,) = inputs if isinstance(inputs, tuple) and len(inputs) == 1 else (inputs,)
    if type(x) is not Tensor or x.dim() != 4 or 0 in x.shape:
        got = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise Refused(f"the input must be one tensor [N,C,H,W] and not empty, got {got}")
    if torch.is_autocast_enabled(x.device.type):
        raise Refused("autocast is on")
    # Captum multiplies by masks of 0 and 1, and 0 times these is NaN.
    if not bool(x.isfinite().all()):
        raise Refused("the input holds infinite values or NaN")
    return x


def baseline_of(baselines: Any, x: Tensor) -> float | Tensor:
    """What hidden pixels show: a number, one image [C,H,W] for all, or one for each [N,C,H,W]."""
    value = baselines[0] if isinstance(baselines, tuple) and len(baselines) == 1 else baselines
    if value is None:
        return 0.0
    if isinstance(value, int | float):
        return float(value)
    if not isinstance(value, Tensor):
        raise Refused(f"baselines are of type {type(value).__name__}")
    if (value.dtype, value.device) != (x.dtype, x.device) or not bool(value.isfinite().all()):
        raise Refused("the baseline is of another dtype or device than the input, or not finite")
    if value.dim() > 4:
        raise Refused(f"the baseline has shape {list(value.shape)}")
    shared = value.dim() < 4 or len(value) == 1
    value = value.detach().expand(x.shape)
    return value[0] if shared else value


def unit_of(selector: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """(channel, row, column) in maps of this shape; negative numbers count from the end."""
    plain = isinstance(selector, tuple) and all(type(i) is int for i in selector)
    if not plain or len(selector) != 3:
        raise Refused(f"the neuron selector {selector!r} is not one (channel, row, column)")
    if any(not -size <= i < size for i, size in zip(selector, shape, strict=True)):
        raise Refused(f"the neuron {selector} is outside the maps {list(shape)}")
    return tuple(i % size for i, size in zip(selector, shape, strict=True))
