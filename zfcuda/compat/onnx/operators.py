"""Every operator of ONNX that is known, and what it is in torch.

The operators' pages (https://onnx.ai/onnx/operators/) say what changed between opsets; where it
matters here, ``Call.version`` tells them apart.
"""

from __future__ import annotations

from zfcuda.compat.onnx.activations import ACTIVATIONS
from zfcuda.compat.onnx.arithmetic import ARITHMETIC
from zfcuda.compat.onnx.convolution import CONVOLUTION
from zfcuda.compat.onnx.linear import LINEAR
from zfcuda.compat.onnx.normalisation import NORMALISATION
from zfcuda.compat.onnx.pooling import POOLING
from zfcuda.compat.onnx.shaping import SHAPING

__all__ = ["OPERATORS"]

OPERATORS = CONVOLUTION | POOLING | NORMALISATION | LINEAR | ACTIVATIONS | ARITHMETIC | SHAPING
