"""What a convolution takes and gives, over all images of a data set."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zfcuda.data.images import Source
from zfcuda.inference.checks import check_input, to_result
from zfcuda.inference.guards import evaluating
from zfcuda.inference.passes import require_called


@dataclass(frozen=True, eq=False)
class Seen:
    """Of all images.

    Attributes:
        strongest: [M], the largest response of each filter.
        spectrum: complex [Z,Z,H,W], the mean of conj(X_a) X_b, X_a the Fourier transform of what
            the layer took in channel a.
        count: number of images that were looked at.
    """

    strongest: Tensor
    spectrum: Tensor
    count: int


class _Enough(Exception):
    """Ends a forward pass behind the layer that was wanted."""


def look(model: nn.Module, name: str, module: nn.Conv2d, source: Source) -> Seen:
    """Show a convolution of the model all images of a source; those with NaN are left out.

    Raises:
        TypeError, ValueError: the images do not fit the model, or there are none without NaN.
        RuntimeError: the model did not call the convolution.
    """
    strongest: Tensor | None = None
    spectrum: Tensor | None = None
    count = 0

    def receive(module: nn.Module, taken: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal strongest, spectrum
        defined = ~taken[0].isnan().flatten(1).any(1)
        if not defined.any():
            raise _Enough
        responses = output[defined].amax((0, 2, 3))
        transforms = torch.fft.fft2(_faded(taken[0][defined].double()))
        cross = torch.einsum("nahw,nbhw->abhw", transforms.conj(), transforms)
        strongest = responses if strongest is None else torch.maximum(strongest, responses)
        spectrum = cross if spectrum is None else spectrum + cross
        raise _Enough

    with evaluating(model):
        weight = module.weight
        hook = module.register_forward_hook(receive)
        try:
            for images in source.batches():
                images = images.to(weight.device)
                check_input(model, images)
                try:
                    model(images.clone())
                except _Enough:
                    count += len(images)
                else:
                    require_called([name], {})
        finally:
            hook.remove()
    if strongest is None or spectrum is None:
        raise ValueError("there are no images, or none without NaN")
    return Seen(to_result(strongest), (spectrum / count).cpu(), count)


def _faded(images: Tensor) -> Tensor:
    """Without their mean and towards the edges faded out (Hann): otherwise the step from one edge
    to the opposite, which is not in the image, has a share in all frequencies."""
    windows = [
        torch.hann_window(length + 2, periodic=False, dtype=images.dtype, device=images.device)[
            1:-1
        ]
        for length in images.shape[2:]
    ]
    return (images - images.mean((2, 3), keepdim=True)) * (windows[0][:, None] * windows[1])
