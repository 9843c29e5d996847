"""Captum's occlusion, recomputing only what each window can change."""

from __future__ import annotations

from typing import Any

import torch
from captum import attr
from captum._utils.common import _format_output, _select_targets
from captum.attr._utils.common import (
    _format_and_verify_sliding_window_shapes,
    _format_and_verify_strides,
)
from captum.log import log_usage
from torch import Tensor

from zfcuda.compat.captum.accepting import Refused, Traceable, baseline_of, single_image_batch
from zfcuda.experiments.occlusion.experiment import occlusion


class Occlusion(Traceable, attr.Occlusion):
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
            x = single_image_batch(self.forward_func, inputs, additional_forward_args)
            if not isinstance(perturbations_per_eval, int) or perturbations_per_eval < 1:
                raise Refused(f"perturbations_per_eval is {perturbations_per_eval!r}")
            attributions = self._occlude(
                x, sliding_window_shapes, strides, baselines, target, show_progress
            )
        except Exception as error:  # whatever it is, Captum may still be able to do it
            self.took("captum", str(error), error)
            others = (target, additional_forward_args, perturbations_per_eval, show_progress)
            return super().attribute(inputs, sliding_window_shapes, strides, baselines, *others)
        return _format_output(isinstance(inputs, tuple), (attributions,))

    def _occlude(
        self, x: Tensor, shapes: Any, strides: Any, baselines: Any, target: Any, progress: bool
    ) -> Tensor:
        """Captum's map, [outputs,C,H,W]: one output an image, or all of them without a target."""
        (window,) = _format_and_verify_sliding_window_shapes(shapes, (x,))
        (steps,) = _format_and_verify_strides(strides, (x,))
        steps = steps if isinstance(steps, tuple) else (steps,) * 3
        covers = [_cover(*axis) for axis in zip(x.shape[1:], window, steps, strict=True)]
        fill = baseline_of(baselines, x)
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
        self.took(method, f"one input {list(x.shape)} and a model in eval mode")
        return (total.float() / count.float()).to(x.device)


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
