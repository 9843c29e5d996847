"""The diagram as plain data: names, kinds, shapes, arrows, numbers."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from torch import Tensor

from zfcuda.results.base import Result


@dataclasses.dataclass(frozen=True)
class Source:
    """Maps that the layer is given: what lies below what is drawn.

    Attributes:
        name: of the layer (or call) whose output they are; "image" for the network's input.
        shape: of one image's, (C,H,W).
        calls: how many calls of the model they are made by; 0 for the image.
    """

    name: str
    shape: tuple[int, ...]
    calls: int


@dataclasses.dataclass(frozen=True)
class Step:
    """One call of the layer, and what the deconvnet does in its place.

    Attributes:
        name: of the module, or of the call where it is none.
        kind, detail: what the call does, as "convolution" and "96 filters 3×7×7, stride 2".
        back, back_detail: what the deconvnet does with the signal.
        inputs: whose output it takes: i is step i, -1 - i is source i.
        shape: of its output for one image, (C,H,W) or (F,); the signal's shape on the way down.
    """

    name: str
    kind: str
    detail: str
    back: str
    back_detail: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class SwitchExample:
    """Neighbouring windows of a max-pooling on the real image, pooled and unpooled.

    Attributes:
        name: of the pooling layer.
        channel: the map.
        kernel, stride: (height, width) of a window and between windows.
        values: [h,w], the map before pooling, as far as the windows reach; NaN for padding.
        origin: (row, column) of the first of ``values`` in that map; negative in padding.
        pooled: [r,c], each window's maximum.
        switches: int64 [r,c], the maximum's place in its window, row by row from 0.
        first: (row, column) of the first window in the pooled map.
        unit: (row, column) in ``pooled`` of the strongest unit of the map.
        unpooled: [h,w], where unpooling puts the maxima, nothing else sent back; where windows
            share their maximum, the sum.
        rectified: whether the pooling rectifies too, before it takes the maximum.
    """

    name: str
    channel: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    values: Tensor
    origin: tuple[int, int]
    pooled: Tensor
    switches: Tensor
    first: tuple[int, int]
    unit: tuple[int, int]
    unpooled: Tensor
    rectified: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Diagram(Result):
    """A convnet layer and the deconvnet layer attached to it, with one image's numbers.

    Attributes:
        model: the model's class.
        layer: the layer's name.
        steps: its calls, each after those whose output it takes; the last is the layer's output.
        sources: the maps that it is given.
        unit: (channel, row, column) of the strongest unit, which is projected.
        activation: its value.
        image: [C,H,W], the network input.
        projection: [C,H,W], what the unit saw (:func:`zfcuda.deconv`).
        switch: the topmost max-pooling at or below the layer, for one map; None if there is none.
    """

    model: str
    layer: str
    steps: tuple[Step, ...]
    sources: tuple[Source, ...]
    unit: tuple[int, int, int]
    activation: float
    image: Annotated[Tensor, "C H W"]
    projection: Annotated[Tensor, "C H W"]
    switch: SwitchExample | None
    seconds: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.steps:
            raise ValueError("a diagram needs at least one step")
        for index, step in enumerate(self.steps):
            wrong = [i for i in step.inputs if not -len(self.sources) <= i < index]
            if wrong:
                raise ValueError(
                    f"step {index} ({step.name}) takes {wrong}, which do not precede it"
                )
