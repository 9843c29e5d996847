"""What a step costs, on whole maps and inside cones."""

from __future__ import annotations

import numpy as np

from zfcuda.graph.pixelwise import fan_in
from zfcuda.graph.rules import Conv, MaxPool, Opaque
from zfcuda.planning.plan import PlannedStep
from zfcuda.steps.step import Step, Steps

# In multiply-adds of a large convolution. Only the ratios matter: they choose the step from which
# whole maps are cheaper than cones. From runs on two AVX-512 cores.
BYTE = 12.0  # a byte written or read
_DEPTHWISE = 12.0  # a multiply-add of a grouped convolution, at most
_CALL = 3e6  # a step's call on whole maps
_CONE_CALL = 15e6  # a step's call on patches: tables, buckets, a few small calls
_CONE = 1.08  # a multiply-add on windows


def costed(
    steps: Steps, step: Step, boxes: dict[int, np.ndarray], batch: int, element: int
) -> PlannedStep:
    """What a step costs both ways.

    Args:
        boxes: by step value int64 [P,4], what each position can change; missing past a barrier.
        batch: positions computed together.
        element: bytes of a number.
    """
    shape = tuple(step.shape or ())
    outputs = float(np.prod(shape)) if shape else 0.0
    inputs = sum(float(np.prod(steps.graph.nodes[i].shape or ())) for i in step.inputs)
    weights = _weights_per_output(step)
    rate = 1.0
    if isinstance(step.rule, Conv) and step.rule.groups > 1:
        rate = min(_DEPTHWISE, float(step.rule.groups))
    dense = outputs * weights * rate + (inputs + outputs) * element * BYTE + _CALL / batch
    row = {
        "name": _name(step),
        "kind": type(step.rule).__name__.lower() if not isinstance(step.rule, Opaque) else "other",
        "maps": shape,
        "dense": False,
        "dense_macs": outputs * weights,
        "dense_cost": dense,
    }
    if step.value not in boxes:
        return PlannedStep(
            **row, rectangle=shape[1:] or (1, 1), cone_macs=outputs * weights, cone_cost=np.inf
        )
    sides = boxes[step.value][:, 2:] - boxes[step.value][:, :2]
    area = float(sides.prod(1).mean())
    computed = area * shape[0]
    read = (
        area * _window_growth(step, sides) * sum(steps.graph.nodes[i].shape[0] for i in step.inputs)
    )
    cost = computed * weights * rate * _CONE
    cost += (2 * read + computed) * element * BYTE + _CONE_CALL / batch
    return PlannedStep(
        **row,
        rectangle=tuple(sides.mean(0).tolist()),
        cone_macs=computed * weights,
        cone_cost=cost,
    )


def _window_growth(step: Step, sides: np.ndarray) -> float:
    """Pixels read over pixels made."""
    rule = step.rule
    if not isinstance(rule, Conv | MaxPool) and not hasattr(rule, "kernel"):
        return 1.0
    kernel, stride = np.array(rule.kernel), np.array(rule.stride)
    sides = np.maximum(sides.mean(0), 1)
    return float((((sides - 1) * stride + kernel) / sides).prod())


def _weights_per_output(step: Step) -> float:
    """Multiply-adds for each number the step makes."""
    if isinstance(step.rule, Conv):
        return float(step.rule.weight[0].numel())
    return float(fan_in(step.node))


def _name(step: Step) -> str:
    return next(filter(None, step.node.layers), step.node.name)
