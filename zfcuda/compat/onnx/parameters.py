"""Modules with the weights of a file."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

__all__ = ["with_parameters"]


def with_parameters(module: Any, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """The module, made on the device "meta", with its parameters in place."""
    module.weight = nn.Parameter(weight)
    if bias is not None:
        module.bias = nn.Parameter(bias.contiguous())
    return module
