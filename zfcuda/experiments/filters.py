"""The first layer's filters: which of them are dead, and how much of them aliases (Zeiler & Fergus
2014, section 4.1 and figure 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from zfcuda.data.images import ImageData, Source, source_of
from zfcuda.experiments.maxima.finding import top_activations
from zfcuda.experiments.maxima.top import Maps
from zfcuda.inference.checks import check_input, evaluating, to_result
from zfcuda.inference.layers import Layer, find_layers, layer_outputs
from zfcuda.results.filters import FilterComparison, FilterResult
from zfcuda.storage.identity import precision


def aliased_share(
    filters: Tensor, stride: Sequence[int], dilation: Sequence[int] = (1, 1)
) -> Tensor:
    """[M], the share of the spectral energy of filters [M,Z,h,w] above the Nyquist frequency of a
    stride (vertical, horizontal): at |fy| > 1 / (2 sy) or |fx| > 1 / (2 sx), in cycles a pixel.

    The energy below is the integral of |F(f)|^2 over that rectangle, F the filter's Fourier
    transform, which is w' (A x B) w with A[m, n] = sinc((m - n) / sy) / sy and B likewise for the
    weights w (Slepian 1978, "Prolate spheroidal wave functions V"); all of it is the sum of w^2
    (Parseval). So this is exact, without a grid of frequencies. At stride 1 nothing is above, and
    white noise has 1 - 1 / (sy sx). NaN where all weights are 0.
    """
    weights = filters.double()
    below = weights
    for axis, (step, spread) in enumerate(zip(stride, dilation, strict=True), start=2):
        taps = torch.arange(weights.shape[axis], dtype=torch.float64) * spread / step
        kernel = torch.sinc(taps[:, None] - taps) / step
        below = torch.tensordot(below, kernel, ([axis], [0])).movedim(-1, axis)
    share = 1 - (weights * below).sum((1, 2, 3)) / weights.square().sum((1, 2, 3))
    return share.clamp(0, 1).to(filters.dtype)


def aliased_responses(
    filters: Tensor, spectrum: Tensor, stride: Sequence[int], dilation: Sequence[int] = (1, 1)
) -> Tensor:
    """[M], the same of the responses of filters [M,Z/groups,h,w] to images, were they computed at
    every pixel: the share of their variance. NaN where they have none.

    Args:
        spectrum: complex [Z,Z,H,W], the mean over images of conj(X_a) X_b, X_a the Fourier
            transform of channel a: the mean power of a filter's responses follows from it.
    """
    size = spectrum.shape[2:]
    spread = _dilated(filters.double(), dilation)
    each = len(filters) // (len(spectrum) // filters.shape[1])  # of a group
    shares = []
    for group, own in enumerate(spread.split(each)):
        transforms = torch.fft.fft2(own, s=size)  # [m,z,H,W]
        first = group * own.shape[1]
        among = spectrum[first : first + own.shape[1], first : first + own.shape[1]]
        power = torch.einsum("mahw,abhw,mbhw->mhw", transforms, among, transforms.conj()).real
        power[:, 0, 0] = 0  # the mean is not a matter of resolution
        share = (power * _above_nyquist(size, stride)).sum((1, 2)) / power.sum((1, 2))
        shares.append(share.clamp(0, 1))
    return torch.cat(shares).to(filters.dtype)


def _dilated(filters: Tensor, dilation: Sequence[int]) -> Tensor:
    count, inputs, height, width = filters.shape
    size = ((height - 1) * dilation[0] + 1, (width - 1) * dilation[1] + 1)
    spread = filters.new_zeros(count, inputs, *size)
    spread[:, :, :: dilation[0], :: dilation[1]] = filters
    return spread


def _above_nyquist(size: Sequence[int], stride: Sequence[int]) -> Tensor:
    """1 at the frequencies [H,W] that the stride cannot represent, 0 at the others."""
    rows, columns = (
        torch.fft.fftfreq(length).abs() > 1 / (2 * step) + 1e-9
        for length, step in zip(size, stride, strict=True)
    )
    return (rows[:, None] | columns).double()


def responses(
    model: nn.Module, name: str, module: nn.Conv2d, filters: Tensor, source: Source
) -> dict[str, Any]:
    """How a convolution of the model responds to all images of a source, but those with NaN: the
    fields of :class:`FilterResult` that depend on images."""
    largest: list[Tensor] = []
    spectrum: Any = 0
    count = 0
    with evaluating(model):
        for images in source.batches():
            images = images.to(module.weight.device)
            check_input(model, images)
            with layer_outputs(model, name, stop=1, with_input=True) as found:
                model(images.clone())
            taken, output = found[name]
            defined = ~taken.isnan().flatten(1).any(1)
            if defined.any():
                largest.append(output[defined].amax((0, 2, 3)))
                transforms = torch.fft.fft2(_faded(taken[defined].double()))
                spectrum += torch.einsum("nahw,nbhw->abhw", transforms.conj(), transforms)
            count += len(images)
    if not largest:
        raise ValueError("there are no images, or none without NaN")
    # The mean of conj(X_a) X_b, X_a the Fourier transform of what the layer took in channel a.
    spectrum = (spectrum / count).cpu()
    return {
        "strongest": to_result(torch.stack(largest).amax(0)),
        "response_aliasing": aliased_responses(filters, spectrum, module.stride, module.dilation),
        "count": count,
        "precision": precision(module.weight.device, module.weight.dtype),
    }


def _faded(images: Tensor) -> Tensor:
    """Without their mean and towards the edges faded out (Hann): otherwise the step from one edge
    to the opposite, which is not in the image, has a share in all frequencies."""
    rows, columns = (
        torch.hann_window(n + 2, periodic=False, dtype=images.dtype, device=images.device)[1:-1]
        for n in images.shape[2:]
    )
    return (images - images.mean((2, 3), keepdim=True)) * (rows[:, None] * columns)


@torch.inference_mode(False)  # nothing made here is an inference tensor
def first_layer_filters(
    model: nn.Module,
    images: ImageData | None = None,
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
    seen: dict[str, Any] = {"strongest": None}
    if images is not None:
        seen = responses(model, name, module, filters, source_of(images, batch))
    return FilterResult(
        layer=name,
        filters=filters,
        stride=tuple(module.stride),
        rms=rms,
        weak=rms < threshold * rms.nan_to_num(0.0).max(),
        threshold=float(threshold),
        aliasing=aliased_share(filters, module.stride, module.dilation),
        **seen,
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


@torch.inference_mode(False)
def compare_filters(
    models: Mapping[str, nn.Module],
    images: ImageData | Mapping[str, ImageData],
    layers: Mapping[str, Sequence[str]] | None = None,
    maps: Maps = 48,
    threshold: float = 0.05,
    batch: int = 64,
    max_memory: int | None = None,
    progress: bool = False,
) -> FilterComparison:
    """First layers of several models side by side: their filters (:func:`first_layer_filters`), and
    what some maps of the first two layers see (:func:`zfcuda.top_activations` with k=1).

    Args:
        models: by name.
        images: for all models, or by name for each, as :func:`zfcuda.top_activations` takes them.
        layers: by name, whose maps are projected; by default the first two convolutions in the
            order of definition.
        maps: which maps are projected, as for :func:`zfcuda.top_activations`.
        threshold, batch, max_memory, progress: as for the functions above.

    Raises:
        TypeError, ValueError, RuntimeError: as the functions above.
    """
    if not models:
        raise ValueError("models must hold at least one")
    filters, tops = [], []
    for name, model in models.items():
        own = source_of(images[name] if isinstance(images, Mapping) else images, batch)
        chosen = layers[name] if layers else convolutions(model)[:2]
        filters.append(first_layer_filters(model, own, threshold=threshold))
        tops.append(
            top_activations(model, own, chosen, 1, maps, max_memory=max_memory, progress=progress)
        )
    return FilterComparison(tuple(models), tuple(filters), tuple(tops))
