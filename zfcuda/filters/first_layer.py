"""The filters of a model's first convolution: which are dead, and how much aliases."""

from __future__ import annotations

from numbers import Real

import torch
from torch import nn

from zfcuda.data.images import Images, source_of
from zfcuda.filters.aliasing import aliased_responses, aliased_share
from zfcuda.filters.looking import look
from zfcuda.inference.checks import to_result
from zfcuda.inference.passes import Layer, find_layers
from zfcuda.results.filters import FilterResult


@torch.inference_mode(False)  # nothing made here is an inference tensor
def first_layer_filters(
    model: nn.Module,
    images: Images | None = None,
    layer: Layer | None = None,
    threshold: float = 0.05,
    batch: int = 64,
) -> FilterResult:
    """The filters of the model's first convolution, which of them are dead, and how much aliases.

    A filter is *weak* when its root mean square over all weights is below ``threshold`` times that
    of the layer's strongest filter: beside it, it adds next to nothing. It is *silent* when no
    image makes its response, bias included, positive anywhere, so that a ReLU never lets it
    through. *Dead* is either. (The paper counts by eye, in filters shown without clipping.)

    *Aliasing* is what the layer's stride cannot represent: the output is a response at every pixel
    of which only each s-th is kept, so that by the sampling theorem frequencies above 1 / (2 s)
    cycles a pixel appear as others. It is measured as a share of energy, of the filters by
    themselves (:func:`aliased_share`) and, with ``images``, of their responses to these.

    Args:
        model: its convolutions are looked at; with ``images`` it runs in eval mode. Left as it was.
        images: as for :func:`zfcuda.top_activations`; gone through once.
        layer: the convolution, or its name; None takes the first ``nn.Conv2d`` in the order of
            definition.
        threshold: of weak filters, 0 to 1.
        batch: images of a tensor or Dataset that are read at a time.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or out of range, no convolution.
        RuntimeError: the model did not call the layer.
    """
    if not isinstance(threshold, Real) or not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be between 0 and 1, got {threshold!r}")
    name, module = _first(model, layer)
    filters = to_result(module.weight).clone()
    rms = filters.square().mean((1, 2, 3)).sqrt()
    seen = None if images is None else look(model, name, module, source_of(images, batch))
    return FilterResult(
        layer=name,
        filters=filters,
        stride=tuple(module.stride),
        rms=rms,
        weak=rms < threshold * rms.nan_to_num(0.0).max(),
        threshold=float(threshold),
        strongest=seen and seen.strongest,
        aliasing=aliased_share(filters, module.stride, module.dilation),
        response_aliasing=seen
        and aliased_responses(filters, seen.spectrum, module.stride, module.dilation),
        count=seen.count if seen else 0,
    )


def _first(model: nn.Module, layer: Layer | None) -> tuple[str, nn.Conv2d]:
    if layer is None:
        names = convolutions(model)
        if not names:
            raise ValueError(f"the model ({type(model).__name__}) has no nn.Conv2d")
        layer = names[0]
    ((name, module),) = find_layers(model, layer).items()
    if not isinstance(module, nn.Conv2d):
        raise TypeError(f"layer {name!r} must be a nn.Conv2d, it is a {type(module).__name__}")
    return name, module


def convolutions(model: nn.Module) -> list[str]:
    """Their names, in the order of definition."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
