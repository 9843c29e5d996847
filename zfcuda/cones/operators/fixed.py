"""Maps that do not depend on the images: nothing changes on them, and no signal goes down them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from zfcuda.cones.operators.batch import Batch
from zfcuda.cones.operators.behaviours import (
    Naming,
    Step,
    below,
    needed,
    patched,
    reached,
    whole,
    words,
)
from zfcuda.cones.operators.each_pixel import Sent
from zfcuda.cones.operators.patches import Patches, fresh_rows
from zfcuda.cones.operators.rectangles import Boxes
from zfcuda.cones.operators.signals import Signal
from zfcuda.graph.nodes import Node
from zfcuda.graph.rules import Fixed


@reached.of(Fixed)
@needed.of(Fixed)
def _nothing(rule: Fixed, boxes: Boxes, *_: Any) -> Boxes:
    return np.zeros_like(boxes)


@whole.of(Fixed)
def _whole(rule: Fixed, step: Step, *inputs: Tensor) -> Tensor:
    return step.node.evaluate(dict(zip(step.node.inputs, inputs, strict=True)))


@patched.of(Fixed)
def _patched(
    rule: Fixed, step: Step, sources: Sequence[Patches], bases: Sequence[Tensor], boxes: Boxes
) -> Patches:
    nowhere = sources[0].buffers[0].new_empty(0, step.shape[0], dtype=rule.dtype)
    return Patches([nowhere], fresh_rows(sources[0]), sources[0].tables)


@below.of(Fixed)
def _below(rule: Fixed, batch: Batch, node: Node, signal: Signal) -> Sent:
    return []


@words.of(Fixed)
def _words(rule: Fixed, node: Node) -> Naming:
    return Naming("fixed map", "the same for every image", "nothing", "")
