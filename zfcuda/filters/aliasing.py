"""What the stride of a convolution cannot represent (Slepian 1978, Parseval)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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
