"""Filters of a first layer, and of several models' first layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from zfcuda.results.base import Result
from zfcuda.results.maxima import TopActivations


@dataclass(frozen=True, eq=False)
class FilterResult(Result):
    """The filters of a model's first convolution (Zeiler & Fergus 2014, figure 6 a to c).

    Attributes:
        layer: the convolution's name.
        filters: [M,Z,h,w].
        stride: (vertical, horizontal), pixels.
        rms: [M], each filter's root mean square.
        weak: bool [M], an RMS below ``threshold`` times the largest.
        threshold: that share.
        strongest: [M], the largest response of each filter, bias included, to any of the images;
            None without images.
        aliasing: [M], the share of each filter's spectral energy at frequencies that the layer's
            stride cannot represent; see :func:`zfcuda.experiments.filters.aliased_share`.
        response_aliasing: [M], the same of each filter's responses to the images: the share of
            their variance, were they computed at every pixel; None without images.
        count: number of images that were looked at.
    """

    layer: str
    filters: Annotated[Tensor, "M Z h w"]
    stride: tuple[int, int]
    rms: Annotated[Tensor, "M"]
    weak: Annotated[Tensor, "M"]
    threshold: float
    strongest: Annotated[Tensor | None, "M"]
    aliasing: Annotated[Tensor, "M"]
    response_aliasing: Annotated[Tensor | None, "M"] = None
    count: int = 0

    @property
    def silent(self) -> Tensor:
        """bool [M], filters that no image makes respond above 0, where a ReLU begins to pass; all
        False without images."""
        if self.strongest is None:
            return torch.zeros_like(self.weak)
        return ~(self.strongest > 0)

    @property
    def dead(self) -> Tensor:
        """bool [M], weak or silent."""
        return self.weak | self.silent

    @property
    def aliasing_of_all(self) -> float:
        """The share of all filters' energy together: strong filters count more."""
        energy = self.filters.double().square().sum((1, 2, 3)).nan_to_num()
        aliased = self.aliasing.double().nan_to_num() * energy
        return float(aliased.sum() / energy.sum())

    @property
    def aliasing_of_noise(self) -> float:
        """The share that filters of white noise have: the part of all frequencies that the stride
        cannot represent, 1 - 1 / (vertical * horizontal stride)."""
        return 1 - 1 / (self.stride[0] * self.stride[1])


@dataclass(frozen=True, eq=False)
class FilterComparison(Result):
    """First layers of several models, and what their first layers' maps see (Zeiler & Fergus 2014,
    figure 6).

    Attributes:
        names: the models'.
        filters: one for each model.
        tops: one for each model: the strongest activations of its first layers, projected.
    """

    names: Annotated[tuple[str, ...], "N"]
    filters: Annotated[tuple[FilterResult, ...], "N"]
    tops: Annotated[tuple[TopActivations, ...], "N"]
