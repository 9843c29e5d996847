"""A network as a list of its layers' calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.fx
from torch import Tensor, nn

__all__ = ["OnnxNetwork", "Step"]


@dataclass(frozen=True)
class Step:
    """One call.

    Attributes:
        layer: name of the module.
        inputs, outputs: names of the values that it takes and makes.
        done: values that no later call takes.
    """

    layer: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    done: tuple[str, ...]


class OnnxNetwork(nn.Module):
    """A network read from an ONNX file, [N,C,H,W] → what the file computes; made by
    :func:`zfcuda.compat.onnx.load`.

    Attributes:
        image_shape: (channels, height, width) of the images that it takes.
        left_out: name of the final Softmax if there was one that was left out, else "".
    """

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.left_out = ""
        self._steps: tuple[Step, ...] = ()
        self._input = self._output = ""

    def follow(self, steps: tuple[Step, ...], image: str, output: str) -> None:
        """Set the calls, and the names of the first value and of the answer."""
        self._steps, self._input, self._output = steps, image, output

    def forward(self, x: Tensor) -> Tensor:
        """The answer for images of ``image_shape``.

        Raises:
            ValueError: they are of another shape.
        """
        _check(x, self.image_shape)
        values: dict[str, Any] = {self._input: x}
        for step in self._steps:
            given = (values[name] for name in step.inputs)
            result = self.get_submodule(step.layer)(*given)
            if len(step.outputs) == 1:
                values[step.outputs[0]] = result
            else:
                values |= {name: result[i] for i, name in enumerate(step.outputs)}
            for name in step.done:
                del values[name]
        return values[self._output]

    def extra_repr(self) -> str:
        left_out = f", left out: {self.left_out}" if self.left_out else ""
        return f"image_shape={self.image_shape}{left_out}"


@torch.fx.wrap  # its condition cannot be followed
def _check(x: Tensor, image_shape: tuple[int, int, int]) -> None:
    if x.dim() != 4 or tuple(x.shape[1:]) != image_shape:
        raise ValueError(
            f"the ONNX network takes images [N, {', '.join(map(str, image_shape))}], "
            f"got {list(x.shape)}"
        )
