"""Captum's deconvolution: of classes on our kernels, of units inside their cones."""

from __future__ import annotations

from typing import Any

import torch
from captum import attr
from captum._utils.common import _format_output
from captum.log import log_usage
from torch import Tensor

from zfcuda.compat.captum import rule
from zfcuda.compat.captum.accepting import Refused, check_model, single_image_batch, unit_of
from zfcuda.compat.captum.path import Traceable
from zfcuda.graph.tracing import trace
from zfcuda.inference.interception import fast_forward


class Deconvolution(Traceable, attr.Deconvolution):
    """``captum.attr.Deconvolution`` with pooling and contrast normalisation on zfcuda's kernels.

    A class score depends on the whole image, so that there is no cone to stay inside.
    """

    @log_usage(part_of_slo=True)
    def attribute(
        self, inputs: Any, target: Any = None, additional_forward_args: Any = None
    ) -> Any:
        """As ``captum.attr.Deconvolution.attribute``."""
        return _on_our_kernels(
            self, super().attribute, inputs, target, additional_forward_args=additional_forward_args
        )


class NeuronDeconvolution(Traceable, attr.NeuronDeconvolution):
    """``captum.attr.NeuronDeconvolution`` that computes only what the unit depends on.

    The cone is taken for one image-shaped input, a unit (channel, row, column) of maps and a model
    in eval mode that torch.fx can trace. :func:`zfcuda.project` does many units in one forward
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
            return _on_our_kernels(
                self,
                super().attribute,
                inputs,
                neuron_selector,
                additional_forward_args=additional_forward_args,
                attribute_to_neuron_input=attribute_to_neuron_input,
                no_cone=error,
            )
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
        return rule.project(graph, model, x, node, unit_of(selector, node.shape))


def _on_our_kernels(
    caller: Traceable,
    attribute: Any,
    inputs: Any,
    *args: Any,
    no_cone: Exception | None = None,
    **named: Any,
) -> Any:
    """Captum's own procedure, hooks and all; max-pooling and contrast normalisation, whose
    gradients ours are, run on zfcuda's kernels."""
    try:
        check_model(caller.forward_func)
    except Refused as error:
        caller.took("captum", str(error), error)
        return attribute(inputs, *args, **named)
    why = no_cone or "a class score depends on the whole image"
    caller.took("kernels", f"{why}; pooling and normalisation run on zfcuda's kernels", no_cone)
    with fast_forward():
        return attribute(inputs, *args, **named)
