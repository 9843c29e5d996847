"""The radius that keeps single filters from dominating (Zeiler & Fergus 2014, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zfcuda.data.preprocessing import Preprocessing
from zfcuda.training.recipe import Recipe

__all__ = ["FilterRadius"]


class FilterRadius:
    """Scales every convolution filter whose root mean square exceeds its radius back to it.

    The model's first convolution is taken for the one that reads the picture.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, preprocessing: Preprocessing) -> None:
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        self._radii = [
            (layer.weight, recipe.first_radius(preprocessing) if i == 0 else recipe.radius)
            for i, layer in enumerate(convolutions)
        ]

    @torch.no_grad()
    def apply(self) -> Tensor:
        """Rescale, and return how many filters were."""
        rescaled = torch.zeros(())
        for weight, radius in self._radii:
            rms = weight.square().mean((1, 2, 3), keepdim=True).sqrt()
            over = rms > radius
            weight.mul_(torch.where(over, radius / rms, 1.0))
            rescaled = rescaled + over.sum().to(rescaled.device)
        return rescaled
