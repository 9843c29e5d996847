"""Captum's deconvolution of single units, inside their backward cones.

Captum puts a hook on the tensor that each ``nn.ReLU`` module takes, which replaces that tensor's
gradient by the rectified signal at the module's output, as last seen. That is the deconvnet's rule
only where nothing else uses the tensor, and where a module called several times is not called
again before its signal is through: :func:`manner_of` refuses everything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zfcuda.compat.captum.accepting import Refused
from zfcuda.cones.descent import descend
from zfcuda.cones.observing import Manner, forward_bytes, observe, obstacle
from zfcuda.graph.nodes import Graph, Node
from zfcuda.graph.rules import Identity, Rule, Shape
from zfcuda.inference.passes import memory_limit, spans


@dataclass(frozen=True)
class CaptumsManner(Manner):
    """The gradient of everything but these rules, which rectify."""

    rule: str = "gradient"
    norm: str = "gradient"
    relus: tuple[Rule, ...] = ()

    def rectifies(self, rule: Any) -> bool:
        return any(rule is relu for relu in self.relus)


def project(graph: Graph, model: nn.Module, x: Tensor, node: Node, unit: tuple[int, ...]) -> Tensor:
    """Captum's picture [N,C,H,W] of one unit (channel, row, column) of a node, for every image."""
    manner = manner_of(graph, model, node)
    blocked = obstacle(graph, [node.index])
    if blocked is not None:
        raise Refused(f"no cone goes through {blocked.name}")
    limit = memory_limit(None, x.device)
    pictures = torch.zeros_like(x, memory_format=torch.contiguous_format)
    each = forward_bytes(graph, [node.index], x.element_size())
    for images in spans(0, len(x), max(1, limit // max(1, each))):
        observed = observe(graph, x[images], [node.index], manner)
        part = pictures[images]
        numbers = np.arange(len(part))
        units = np.tile(np.array(unit, np.int64), (len(part), 1))
        found = descend(observed, node.index, numbers, units, 1.0, limit)
        for image, projected in found:
            y0, x0, y1, x1 = projected.box
            part[image, :, y0:y1, x0:x1] = projected.patch
    return pictures


def manner_of(graph: Graph, model: nn.Module, top: Node) -> CaptumsManner:
    """Captum's rule for what lies below ``top``.

    Raises:
        Refused: its hooks do something else in this model.
    """
    calls: dict[int, list[Node]] = {}  # by module
    for node in graph.nodes:
        if node.call.op == "call_module":
            module = model.get_submodule(node.call.target)
            if isinstance(module, nn.ReLU):
                calls.setdefault(id(module), []).append(node)
    if any(
        isinstance(m, nn.ReLU) and type(m).forward is not nn.ReLU.forward for m in model.modules()
    ):
        raise Refused("a subclass of nn.ReLU has a forward of its own")
    below = graph.ancestors([top.index])
    relus = [node for nodes in calls.values() for node in nodes if node.index in below]
    for nodes in calls.values():
        for earlier, later in pairwise(nodes):
            if earlier.index not in graph.ancestors([later.index]):
                raise Refused(f"one ReLU module is called in parallel ({later.name})")
    for node in relus:
        _require_alone(graph, node, below, {relu.index for relu in relus})
    return CaptumsManner(relus=tuple(node.rule for node in relus))


def _require_alone(graph: Graph, relu: Node, below: set[int], relus: set[int]) -> None:
    """Nothing else that signals come from may take the tensor that ``relu`` takes, nor may another
    hook see it: of two ReLUs in a row the earlier is told the later's gradient, unrectified."""
    taker, index = relu, relu.inputs[0]
    while True:
        source = graph.nodes[index]
        others = [
            graph.nodes[other].name
            for other in graph.consumers[index]
            if other in below
            and other != taker.index
            and not isinstance(graph.nodes[other].rule, Shape)
        ]
        if others:
            raise Refused(f"{others[0]} takes what {relu.name} takes")
        if index in relus:
            raise Refused(f"{relu.name} follows {source.name} directly")
        if not isinstance(source.rule, Identity):
            return
        taker, index = source, source.inputs[0]  # an identity may return the very same tensor
