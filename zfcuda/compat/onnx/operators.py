"""Every operator of ONNX that is known, and what it is in torch.

The operators' pages (https://onnx.ai/onnx/operators/) say what changed between opsets; where it
matters here, ``Call.version`` tells them apart.
"""

from __future__ import annotations

from zfcuda.compat.onnx import (
    activations,
    arithmetic,
    convolution,
    linear,
    normalisation,
    pooling,
    shaping,
)

__all__ = ["OPERATORS"]

OPERATORS = (
    convolution.OPERATORS
    | pooling.OPERATORS
    | normalisation.OPERATORS
    | linear.OPERATORS
    | activations.OPERATORS
    | arithmetic.OPERATORS
    | shaping.OPERATORS
)
