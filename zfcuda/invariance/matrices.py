"""Transformations of images as :func:`zfcuda.ops.warp_affine` takes them: float64 [M,2,3], mapping
output to input pixel coordinates (x, y), pixel centres at +0.5."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def rotation_matrices(values: Sequence[float] | Tensor, image_size: tuple[int, int]) -> Tensor:
    """Counter-clockwise rotations by degrees about the centre of an (H, W) image."""
    turns = [_cosine_and_sine(float(angle)) for angle in values]
    linear = torch.tensor([[[c, -s], [s, c]] for c, s in turns], dtype=torch.float64)
    return _about_centre(linear.view(-1, 2, 2), image_size)


def translation_matrices(
    values: Sequence[tuple[float, float]] | Tensor, image_size: tuple[int, int]
) -> Tensor:
    """Shifts by (down, right) pixels: the input is read that far up and left."""
    shifts = torch.as_tensor(values, dtype=torch.float64).view(-1, 2)
    linear = torch.eye(2, dtype=torch.float64).expand(len(shifts), 2, 2)
    return torch.cat([linear, -shifts.flip(1)[..., None]], dim=2)


def scaling_matrices(values: Sequence[float] | Tensor, image_size: tuple[int, int]) -> Tensor:
    """Enlargements by positive factors about the centre of an (H, W) image.

    Raises:
        ValueError: a factor that is not positive.
    """
    factors = torch.as_tensor(values, dtype=torch.float64).view(-1, 1, 1)
    if bool((factors <= 0).any()):
        raise ValueError(f"scale factors must be positive, got {factors.min().item()}")
    return _about_centre(torch.eye(2, dtype=torch.float64) / factors, image_size)


def _cosine_and_sine(degrees: float) -> tuple[float, float]:
    """Exact at multiples of 90, where math.cos(math.radians(90)) is 6e-17."""
    exact = {0: (1.0, 0.0), 90: (0.0, 1.0), 180: (-1.0, 0.0), 270: (0.0, -1.0)}
    angle = math.fmod(degrees, 360.0) % 360.0
    return exact.get(angle) or (math.cos(math.radians(angle)), math.sin(math.radians(angle)))


def _about_centre(linear: Tensor, image_size: tuple[int, int]) -> Tensor:
    """``linear`` [M,2,2] with the offset that leaves the image's centre in place."""
    centre = torch.tensor([image_size[1] / 2, image_size[0] / 2], dtype=torch.float64)
    return torch.cat([linear, (centre - linear @ centre)[..., None]], dim=2)
