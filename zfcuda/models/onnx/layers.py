"""Layers that torch.nn lacks: ONNX's operators on values of torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zfcuda.models.onnx.call import Made


class Conv2d(nn.Conv2d):
    """Convolution with another zero padding above (left) than below (right).

    Torch pads both sides alike. Here the longer padding is on both, and the filters, which stay as
    they are, meet rows and columns of zeros where there is too much of it: still one convolution,
    through which cones go.

    Args beyond torch's:
        pads: (top, left, bottom, right); differences between sides are multiples of the dilation.
    """

    def __init__(self, *args: Any, pads: tuple[int, int, int, int], **kwargs: Any) -> None:
        top, left, bottom, right = pads
        super().__init__(*args, padding=(max(top, bottom), max(left, right)), **kwargs)
        self.pads = pads
        rows, columns = self.dilation
        self._zeros = (
            max(right - left, 0) // columns,
            max(left - right, 0) // columns,
            max(bottom - top, 0) // rows,
            max(top - bottom, 0) // rows,
        )

    def forward(self, x: Tensor) -> Tensor:
        weight = F.pad(self.weight, self._zeros)
        geometry = (self.stride, self.padding, self.dilation, self.groups)
        return F.conv2d(x, weight, self.bias, *geometry)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, pads={self.pads}"


class _Settings(nn.Module):
    """A module with the settings that its class annotates, printed with them."""

    def __init__(self, *settings: Any) -> None:
        super().__init__()
        for name, value in zip(type(self).__annotations__, settings, strict=True):
            setattr(self, name, value)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)}" for name in type(self).__annotations__)


class AveragePool(_Settings):
    """Average over each window, for paddings that torch does not have.

    Attributes:
        kernel, stride: (rows, columns).
        padding: (left, right, top, bottom), such that every window fits.
        counted: what of it counts as part of the map, which is zero there.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    counted: tuple[int, int, int, int]

    def forward(self, x: Tensor) -> Tensor:
        rest = tuple(all - some for all, some in zip(self.padding, self.counted, strict=True))
        inside = F.pad(torch.ones_like(x[:, :1]), self.counted, value=1.0)
        total = F.avg_pool2d(F.pad(x, self.padding), self.kernel, self.stride)
        return total / F.avg_pool2d(F.pad(inside, rest), self.kernel, self.stride)


class Elementwise(nn.Module):
    """A function of two values that is applied to all that are given, one after another; a constant
    from the file (a parameter, if its numbers are real) comes first or last."""

    def __init__(
        self,
        function: Callable[[Any, Any], Tensor],
        constant: Tensor | None = None,
        first: bool = False,
    ) -> None:
        super().__init__()
        self.function, self.first = function, first
        if constant is not None and constant.is_floating_point():
            self.constant = nn.Parameter(constant)
        else:
            self.register_buffer("constant", constant)

    def forward(self, *values: Tensor) -> Tensor:
        if self.constant is not None:
            values = (self.constant, *values) if self.first else (*values, self.constant)
        return reduce(self.function, values)

    def extra_repr(self) -> str:
        return _described(self.function)


class Function(nn.Module):
    """A function of torch with fixed arguments after those that it is given, the last of which may
    be a tensor (a buffer then)."""

    def __init__(
        self,
        function: Callable[..., Any],
        *args: Any,
        constant: Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.function, self.args, self.kwargs = function, args, kwargs
        self.register_buffer("constant", constant)

    def forward(self, x: Any) -> Any:
        last = () if self.constant is None else (self.constant,)
        return self.function(x, *self.args, *last, **self.kwargs)

    def extra_repr(self) -> str:
        named = (f"{name}={value}" for name, value in self.kwargs.items())
        return ", ".join((_described(self.function), *map(str, self.args), *named))


def _described(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)


class Reshape(_Settings):
    """ONNX's Reshape: 0 keeps a length, -1 is what remains.

    Attributes:
        shape: without the last ``kept`` lengths.
        kept: how many lengths at the end stay what they are.
    """

    shape: tuple[int, ...]
    kept: int

    def forward(self, x: Tensor) -> Tensor:
        lengths = [x.shape[i] if n == 0 else n for i, n in enumerate(self.shape)]
        return x.reshape(lengths + [x.shape[i] for i in range(-self.kept, 0)])


class FlatSoftmax(nn.Module):
    """Softmax before opset 13: over all dimensions from ``dim`` on, taken together."""

    def __init__(self, function: Callable[..., Tensor], dim: int) -> None:
        super().__init__()
        self.function, self.dim = function, dim

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x.flatten(self.dim), dim=-1).reshape(x.shape)


class HardSigmoid(_Settings):
    """max(0, min(1, alpha x + beta)); torch's alpha is 1/6."""

    alpha: float
    beta: float

    def forward(self, x: Tensor) -> Tensor:
        return torch.clamp(x * self.alpha + self.beta, 0.0, 1.0)


class Concat(_Settings):
    """Values one behind the other along ``dim``."""

    dim: int

    def forward(self, *values: Tensor) -> Tensor:
        return torch.cat(values, self.dim)


class Slice(_Settings):
    """A part of a value; one slice for each of its dimensions."""

    cuts: tuple[slice, ...]

    def forward(self, x: Tensor) -> Tensor:
        return x[self.cuts]

    def extra_repr(self) -> str:
        return ", ".join(f"{cut.start}:{cut.stop}:{cut.step}" for cut in self.cuts)


def with_parameters(module: Any, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """The module, made on the device "meta", with its parameters in place."""
    module.weight = nn.Parameter(weight)
    if bias is not None:
        module.bias = nn.Parameter(bias.contiguous())
    return module


class Step(NamedTuple):
    """The call of a layer, by names; ``done``: values that no later call takes."""

    layer: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    done: set[str]


class OnnxNetwork(nn.Module):
    """A network read from an ONNX file, [N,C,H,W] → what the file computes; made by
    :func:`zfcuda.models.onnx.load`.

    Attributes:
        image_shape: (channels, height, width) of the images that it takes.
        left_out: name of the final Softmax if there was one that was left out, else "".
    """

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.left_out = ""
        self._steps: list[Step] = []
        self._input = self._output = ""

    def follow(self, layers: Mapping[str, Made], image: str, output: str) -> None:
        """Take the layers, which lead from the value ``image`` to the answer ``output``."""
        self._input, self._output = image, output
        last = {name: place for place, layer in enumerate(layers.values()) for name in layer.inputs}
        for place, (name, layer) in enumerate(layers.items()):
            owner = self
            *scope, own = name.split(".")
            for part in scope:
                if not hasattr(owner, part):
                    owner.add_module(part, nn.Module())
                owner = owner.get_submodule(part)
            owner.add_module(own, layer.module)
            done = {n for n in (*layer.inputs, *layer.outputs) if last.get(n, place) == place}
            self._steps.append(Step(name, layer.inputs, layer.outputs, done - {output}))

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


def _check(x: Tensor, image_shape: tuple[int, int, int]) -> None:
    if x.dim() != 4 or tuple(x.shape[1:]) != image_shape:
        raise ValueError(
            f"the ONNX network takes images [N, {', '.join(map(str, image_shape))}], "
            f"got {list(x.shape)}"
        )
