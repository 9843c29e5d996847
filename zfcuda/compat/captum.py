"""Captum's Occlusion, Deconvolution and NeuronDeconvolution on zfcuda's engines.

Change one import line and nothing else::

    from zfcuda.compat.captum import Occlusion  # was: from captum.attr import Occlusion

The classes are subclasses of Captum's own. Where zfcuda can do the work they give Captum's numbers
faster; anywhere else they hand the call to Captum unchanged. ``path`` says which of them did the
last ``attribute`` call and ``path_reason`` why; the logger ``zfcuda.compat.captum`` says both at
debug level.

Captum's own rules hold throughout, also where zfcuda's differ: occlusion averages over the windows
that cover a pixel and returns float32; deconvolution starts from 1, rectifies at ``nn.ReLU``
modules only and takes the gradient of everything else (functional ReLU, ReLU6, contrast
normalisation).
"""

from __future__ import annotations

import logging
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zfcuda.compat import _captums_rule
from zfcuda.compat._captums_rule import Refused
from zfcuda.graph import trace
from zfcuda.interception import fast_forward
from zfcuda.sensitivity import occlusion

try:
    from captum import attr
    from captum._utils.common import _format_output, _select_targets
    from captum.attr._utils.common import (
        _format_and_verify_sliding_window_shapes,
        _format_and_verify_strides,
    )
    from captum.log import log_usage
except ModuleNotFoundError as error:
    if error.name != "captum":
        raise
    raise ModuleNotFoundError(
        "zfcuda.compat.captum subclasses Captum, which is not installed: "
        "pip install 'zfcuda[captum]'",
        name="captum",
    ) from None

__all__ = ["Deconvolution", "NeuronDeconvolution", "Occlusion"]

Path = Literal["cone", "dense", "kernels", "captum"]

_log = logging.getLogger(__name__)


class _Traceable:
    """Says which path the last call took.

    Attributes:
        path: "cone" or "dense", zfcuda's engine of that name; "kernels", Captum's own procedure
            with pooling and contrast normalisation on zfcuda's kernels; "captum", Captum
            unchanged; None before the first call.
        path_reason: why, in words.
    """

    path: Path | None = None
    path_reason: str = "attribute() has not been called"

    def _took(self, path: Path, reason: str, error: Exception | None = None) -> None:
        self.path, self.path_reason = path, reason
        _log.debug("%s took the path %r: %s", type(self).__name__, path, reason, exc_info=error)


class Occlusion(_Traceable, attr.Occlusion):
    """``captum.attr.Occlusion`` that recomputes only what each window can change.

    The fast path takes one image-shaped input and a model [N,C,H,W] → [N,K] in eval mode, with any
    windows, strides, baselines and targets; ``perturbations_per_eval`` has no effect on it.
    """

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: Any,
        sliding_window_shapes: Any,
        strides: Any = None,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
    ) -> Any:
        """As ``captum.attr.Occlusion.attribute``."""
        try:
            x = _single_image_batch(self.forward_func, inputs, additional_forward_args)
            if not isinstance(perturbations_per_eval, int) or perturbations_per_eval < 1:
                raise Refused(f"perturbations_per_eval is {perturbations_per_eval!r}")
            attributions = self._occlude(
                x, sliding_window_shapes, strides, baselines, target, show_progress
            )
        except Exception as error:  # whatever it is, Captum may still be able to do it
            self._took("captum", str(error), error)
            return super().attribute(
                inputs,
                sliding_window_shapes,
                strides,
                baselines,
                target,
                additional_forward_args,
                perturbations_per_eval,
                show_progress,
            )
        return _format_output(isinstance(inputs, tuple), (attributions,))

    def _occlude(
        self, x: Tensor, shapes: Any, strides: Any, baselines: Any, target: Any, progress: bool
    ) -> Tensor:
        """Captum's map, [outputs,C,H,W]: one output an image, or all of them without a target."""
        (window,) = _format_and_verify_sliding_window_shapes(shapes, (x,))
        (steps,) = _format_and_verify_strides(strides, (x,))
        steps = steps if isinstance(steps, tuple) else (steps,) * 3
        covers = [_cover(*axis) for axis in zip(x.shape[1:], window, steps, strict=True)]
        fill = _baseline(baselines, x)
        size = window[1:]
        stride = tuple(min(s, length) for s, length in zip(steps[1:], x.shape[2:], strict=True))

        base, scores, method = None, [], ""
        for hidden in covers[0].T.bool():  # the channels that one block of windows hides
            results = [
                occlusion(
                    self.forward_func, x[i], size=size, stride=stride, fill=f, progress=progress
                )
                for i, f in _fills(x, fill, hidden)
            ]
            method = getattr(results[0], "method", "dense")
            base = torch.cat([result.base_logits for result in results])
            logits = torch.cat([result.logits for result in results])
            scores.append(_selected(logits, target))
        drops = _selected(base[:, None], target)[..., None] - torch.stack(scores, 1)
        drops = drops.unflatten(2, [cover.shape[1] for cover in covers[1:]])
        total = torch.einsum("cb,hr,wk,obrk->ochw", *covers, drops.double())
        count = torch.einsum("cb,hr,wk->chw", *covers)
        self._took(method, f"one input {list(x.shape)} and a model in eval mode")
        return (total.float() / count.float()).to(x.device)


class Deconvolution(_Traceable, attr.Deconvolution):
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


class NeuronDeconvolution(_Traceable, attr.NeuronDeconvolution):
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
            x = _single_image_batch(self.forward_func, inputs, additional_forward_args)
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
        self._took("cone", f"a unit of maps, one input {list(x.shape)}")
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
        return _captums_rule.project(graph, model, x, node, _unit(selector, node.shape))


# --- what zfcuda takes ----------------------------------------------------------------------------


def _check_model(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise Refused(f"the forward function is a {type(model).__name__}, not a module")
    if isinstance(model, nn.DataParallel):
        raise Refused("the model is spread over several devices")
    for name, module in model.named_modules():
        if module.training:
            raise Refused(f"module {name!r} is in train mode; zfcuda runs models in eval mode")
        # In eval mode too its output depends on which images share a batch.
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise Refused(f"batch norm {name!r} has no running statistics")


def _single_image_batch(model: Any, inputs: Any, additional: Any) -> Tensor:
    """The one input tensor [N,C,H,W]."""
    _check_model(model)
    if additional is not None:
        raise Refused("there are additional_forward_args")
    (x,) = inputs if isinstance(inputs, tuple) and len(inputs) == 1 else (inputs,)
    if type(x) is not Tensor or x.dim() != 4 or 0 in x.shape:
        got = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise Refused(f"the input must be one tensor [N,C,H,W] and not empty, got {got}")
    if torch.is_autocast_enabled(x.device.type):
        raise Refused("autocast is on")
    # Captum multiplies by masks of 0 and 1, and 0 times these is NaN.
    if not bool(x.isfinite().all()):
        raise Refused("the input holds infinite values or NaN")
    return x


def _baseline(baselines: Any, x: Tensor) -> float | Tensor:
    """What hidden pixels show: a number, one image [C,H,W] for all, or one for each [N,C,H,W]."""
    value = baselines[0] if isinstance(baselines, tuple) and len(baselines) == 1 else baselines
    if value is None:
        return 0.0
    if isinstance(value, int | float):
        return float(value)
    if not isinstance(value, Tensor):
        raise Refused(f"baselines are of type {type(value).__name__}")
    if (value.dtype, value.device) != (x.dtype, x.device) or not bool(value.isfinite().all()):
        raise Refused("the baseline is of another dtype or device than the input, or not finite")
    if value.dim() > 4:
        raise Refused(f"the baseline has shape {list(value.shape)}")
    shared = value.dim() < 4 or len(value) == 1
    value = value.detach().expand(x.shape)
    return value[0] if shared else value


def _unit(selector: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """(channel, row, column) in maps of this shape; negative numbers count from the end."""
    plain = isinstance(selector, tuple) and all(type(i) is int for i in selector)
    if not plain or len(selector) != 3:
        raise Refused(f"the neuron selector {selector!r} is not one (channel, row, column)")
    if any(not -size <= i < size for i, size in zip(selector, shape, strict=True)):
        raise Refused(f"the neuron {selector} is outside the maps {list(shape)}")
    return tuple(i % size for i, size in zip(selector, shape, strict=True))


# --- Captum's arithmetic --------------------------------------------------------------------------


def _cover(length: int, window: int, stride: int) -> Tensor:
    """Which coordinates of an axis each window covers, 0 or 1 [length, windows]; the last window
    is cut off at the edge."""
    if window > length or (window < length and stride > window) or min(window, stride) < 1:
        raise Refused(f"windows of {window} every {stride} do not cover an axis of {length}")
    starts = torch.arange(-(-(length - window) // stride) + 1) * stride
    places = torch.arange(length)[:, None]
    return ((places >= starts) & (places < starts + window)).double()


def _fills(x: Tensor, fill: float | Tensor, hidden: Tensor) -> list[tuple[slice, float | Tensor]]:
    """Slices of images and what the occluder shows them, where it hides only these channels."""
    if bool(hidden.all()) and (isinstance(fill, float) or fill.dim() == 3):
        return [(slice(None), fill)]
    channels = hidden.to(x.device)[:, None, None]
    shown = torch.as_tensor(fill, dtype=x.dtype, device=x.device)
    images = torch.where(channels, shown, x.detach())
    return [(slice(i, i + 1), image) for i, image in enumerate(images)]


def _selected(logits: Tensor, target: Any) -> Tensor:
    """What Captum selects of logits [N,P,K] by ``target``, at every position: [outputs,P]."""
    n, _, classes = logits.shape
    # Captum itself selects from a table of indices, so that every form of target means the same.
    device = target.device if isinstance(target, Tensor) else None
    table = torch.arange(n * classes, device=device).view(n, classes)
    chosen = _select_targets(table, target).flatten().cpu()
    return logits[chosen // classes, :, chosen % classes]


def _on_our_kernels(
    caller: _Traceable,
    attribute: Any,
    inputs: Any,
    *args: Any,
    no_cone: Exception | None = None,
    **named: Any,
) -> Any:
    """Captum's own procedure, hooks and all; max-pooling and contrast normalisation, whose
    gradients ours are, run on zfcuda's kernels."""
    try:
        _check_model(caller.forward_func)
    except Refused as error:
        caller._took("captum", str(error), error)
        return attribute(inputs, *args, **named)
    why = no_cone or "a class score depends on the whole image"
    caller._took("kernels", f"{why}; pooling and normalisation run on zfcuda's kernels", no_cone)
    with fast_forward():
        return attribute(inputs, *args, **named)
