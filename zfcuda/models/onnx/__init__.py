"""Classification networks from ONNX files, as modules of torch (extra ``onnx``).

::

    from zfcuda.models.onnx import load

    model = load("network.onnx")

:func:`load` gives an :class:`OnnxNetwork`: torch.nn's modules under the names that the file has for
its nodes, called in the file's order.
"""

from __future__ import annotations

import os
import warnings

from zfcuda.storage.terminal import extra

with extra("ONNX files need the package onnx", "onnx"):
    import onnx as _onnx  # noqa: F401

from zfcuda.models.onnx.converting import converted
from zfcuda.models.onnx.layers import OnnxNetwork
from zfcuda.models.onnx.reading import read

__all__ = ["OnnxNetwork", "load"]


def load(
    path: str | os.PathLike[str], *, logits: bool = True, size: tuple[int, int] = (224, 224)
) -> OnnxNetwork:
    """The network in an ONNX file, on the CPU and in eval mode.

    Nothing in the file is executed, and what it claims about sizes is checked before memory is
    taken for it. Weights stored outside the file are read from its own folder only. A file made for
    a fixed number of images takes any number.

    Args:
        path: of the file; operators of opset 7 or later, one input [N,C,H,W], one output. Where
            the file takes [N,H,W,C] (a Transpose says so) the network takes [N,C,H,W] all the same.
        logits: as zfcuda's functions want it, leave out a final Softmax and flatten an answer
            [N,K,1,1]. False: answer as the file does.
        size: height and width of the images, where the file leaves them open.

    Warns:
        UserWarning: a Softmax was left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an ONNX model, is broken, mixes the images of a batch, or has
            operators (or settings of operators) that are not known here; nodes are named.
    """
    try:
        model = converted(read(path), logits, size)
    except ValueError as error:
        raise ValueError(f"ONNX file '{os.fspath(path)}': {error}") from error
    if model.left_out:
        warnings.warn(
            f"ONNX file {os.fspath(path)!r}: its final Softmax ({model.left_out!r}) is left out, "
            "so that it answers logits; load(..., logits=False) keeps it",
            stacklevel=2,
        )
    return model.eval()
