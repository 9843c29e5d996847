"""Captum's deconvolution: of classes on our kernels, of units inside their cones."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from captum import attr
from captum._utils.common import _format_output
from captum.log import log_usage
from torch import Tensor, nn

from zfcuda.compat.captum.accepting import (
    Refused,
    Traceable,
    check_model,
    single_image_batch,
    unit_of,
)
from zfcuda.cones.descent import descend, on_pictures
from zfcuda.cones.observing import forward_bytes, observe, obstacle
from zfcuda.cones.operators.batch import Manner
from zfcuda.graph.nodes import Graph, Node
from zfcuda.graph.rules import Identity, Rule, Shape
from zfcuda.graph.tracing import trace
from zfcuda.inference.checks import untuned
from zfcuda.inference.interception import fast_forward
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
    pictures = torch.empty_like(x, memory_format=torch.contiguous_format)
    each = forward_bytes(graph, [node.index], x.element_size())
    for images in spans(0, len(x), max(1, limit // max(1, each))):
        observed = observe(graph, x[images], [node.index], manner)
        numbers = np.arange(len(pictures[images]))
        units = np.tile(np.array(unit, np.int64), (len(numbers), 1))
        with untuned(x.device):
            parts = [*descend(observed, node.index, numbers, units, 1.0, limit)]
        pictures[images] = on_pictures(parts, len(numbers), x)
    return pictures


def manner_of(graph: Graph, model: nn.Module, top: Node) -> CaptumsManner:
    """Captum's rule for what lies below ``top``; refused where its hooks do something else."""
    calls: dict[int, list[Node]] = {}  # by module
    for node in graph.nodes:
        if node.module is not None:
            module = model.get_submodule(node.module)
            if isinstance(module, nn.ReLU):
                calls.setdefault(id(module), []).append(node)
    relu_modules = (module for module in model.modules() if isinstance(module, nn.ReLU))
    if any(type(module).forward is not nn.ReLU.forward for module in relu_modules):
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
        for other in (graph.nodes[i] for i in graph.consumers[index] if i in below):
            if other is not taker and not isinstance(other.rule, Shape):
                raise Refused(f"{other.name} takes what {relu.name} takes")
        if index in relus:
            raise Refused(f"{relu.name} follows {source.name} directly")
        if not isinstance(source.rule, Identity):
            return
        taker, index = source, source.inputs[0]  # an identity may return the very same tensor


class Deconvolution(Traceable, attr.Deconvolution):
    """``captum.attr.Deconvolution`` with pooling and contrast normalisation on zfcuda's kernels.

    A class score depends on the whole image, so that there is no cone to stay inside.
    """

    @log_usage(part_of_slo=True)
    def attribute(
        self, inputs: Any, target: Any = None, additional_forward_args: Any = None
    ) -> Any:
        """As ``captum.attr.Deconvolution.attribute``."""
        arguments = (inputs, target, additional_forward_args)
        return _on_our_kernels(self, super().attribute, arguments)


class NeuronDeconvolution(Traceable, attr.NeuronDeconvolution):
    """``captum.attr.NeuronDeconvolution`` that computes only what the unit depends on.

    The cone is taken for one image-shaped input, a unit (channel, row, column) of maps and a model
    in eval mode that can be traced. :func:`zfcuda.project` does many units in one forward
    pass.
    """

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: Any,
        neuron_selector: Any,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
    ) -> Any:
        """As ``captum.attr.NeuronDeconvolution.attribute``."""
        try:
            if attribute_to_neuron_input:
                raise Refused("the neuron's input is asked for")
            x = single_image_batch(self.forward_func, inputs, additional_forward_args)
            attributions = self._project(x.detach(), neuron_selector)
        except Exception as error:  # whatever it is, Captum may still be able to do it
            more = (additional_forward_args, attribute_to_neuron_input)
            arguments = (inputs, neuron_selector, *more)
            return _on_our_kernels(self, super().attribute, arguments, error)
        self.took("cone", f"a unit of maps, one input {list(x.shape)}")
        return _format_output(isinstance(inputs, tuple), (attributions,))

    @torch.no_grad()
    def _project(self, x: Tensor, selector: Any) -> Tensor:
        model = self.forward_func
        names = [name for name, module in model.named_modules() if module is self.layer]
        # Of the whole model: a ReLU module that is called again after the layer counts too.
        graph = trace(model, x[:1])
        node = graph.layer(names[0]) if names else None
        if node is None or node.shape is None or len(node.shape) != 3:
            raise Refused("the layer does not give maps [N,C,h,w]")
        return project(graph, model, x, node, unit_of(selector, node.shape))


def _on_our_kernels(
    caller: Traceable, attribute: Any, arguments: tuple[Any, ...], no_cone: Exception | None = None
) -> Any:
    """Captum's own procedure, hooks and all; max-pooling and contrast normalisation, whose
    gradients ours are, run on zfcuda's kernels."""
    try:
        check_model(caller.forward_func)
    except Refused as error:
        caller.took("captum", str(error), error)
        return attribute(*arguments)
    why = no_cone or "a class score depends on the whole image"
    caller.took("kernels", f"{why}; pooling and normalisation run on zfcuda's kernels", no_cone)
    with fast_forward():
        return attribute(*arguments)
