"""The one place where pixels become network input, and network input becomes pixels again."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zfcuda.data.reading import to_rgb

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}


@dataclass(frozen=True)
class Preprocessing:
    """What a network expects of its input; RGB pictures in, `[1, 3, height, width]` float32 out.

    The picture is fitted (`fit`), its values v in 0..1 become `(v * scale - mean) / std`.

    Attributes:
        size: side of the square input, pixels, or its (height, width).
        resize: the shorter side is resized to this, then the centre of this `size` is cut out;
            None resizes the largest centred part of these proportions to `size`, so that nothing
            more is lost.
        mean, std: per channel, in the network's own channel order and scale.
        scale: value of full brightness before normalisation: 1 or 255.
        channels: the network's channel order.
        interpolation: "bilinear", "bicubic" (both antialiased) or "nearest".
    """

    size: int | tuple[int, int] = 224
    resize: int | None = 256
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    scale: float = 1.0
    channels: Literal["rgb", "bgr"] = "rgb"
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", _size(self.size))
        if self.resize is not None:
            object.__setattr__(self, "resize", _pixels("resize", self.resize))
            if self.resize < max(self.height, self.width):
                raise ValueError(
                    f"resize {self.resize}: expected at least the size {max(self.shape)}"
                )
        if not all(len(v) == 3 and all(map(math.isfinite, v)) for v in (self.mean, self.std)) or (
            min(self.std) <= 0
        ):
            raise ValueError(
                f"mean {self.mean}, std {self.std}: expected three values each, std above 0"
            )
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale {self.scale}: expected a positive number (1 or 255)")
        if self.channels not in ("rgb", "bgr"):
            raise ValueError(f"channels {self.channels!r}: expected 'rgb' or 'bgr'")
        if self.interpolation not in _FILTERS:
            raise ValueError(
                f"interpolation {self.interpolation!r}: expected one of {sorted(_FILTERS)}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the input, pixels."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def height(self) -> int:
        return self.shape[0]

    @property
    def width(self) -> int:
        return self.shape[1]

    @property
    def side(self) -> int:
        """Of a square input, pixels.

        Raises:
            ValueError: it is not square.
        """
        if not isinstance(self.size, int):
            raise ValueError(
                f"size {self.height}x{self.width}: expected a square input (training, its data "
                "sets and the paper's figures know no other)"
            )
        return self.size

    def fit(self, image: Image.Image) -> Image.Image:
        """`image` (any mode, so masks too) resized and cropped to `size`.

        Raises:
            ValueError: it is so narrow that with `resize` pixels on its shorter side it would have
                more than `PIL.Image.MAX_IMAGE_PIXELS`.
        """
        width, height = image.size
        short = min(width, height)
        resample = _FILTERS[self.interpolation]
        if self.resize is None:
            box = self._centre(width, height)
            return image.resize((self.width, self.height), resample, box=box)
        # torchvision's Resize and CenterCrop, to the pixel: the longer side is truncated, the
        # offset rounded.
        width, height = (int(self.resize * side / short) for side in (width, height))
        if width * height > (Image.MAX_IMAGE_PIXELS or math.inf):
            raise ValueError(
                f"a picture of {image.width}×{image.height} pixels is too narrow: with "
                f"{self.resize} on its shorter side it would have {width * height:,}, more than "
                f"{Image.MAX_IMAGE_PIXELS:,} (PIL.Image.MAX_IMAGE_PIXELS)"
            )
        left, top = round((width - self.width) / 2), round((height - self.height) / 2)
        image = image.resize((width, height), resample)
        return image.crop((left, top, left + self.width, top + self.height))

    def _centre(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The largest centred part of a picture that has the input's proportions."""
        if self.height == self.width:
            short = min(width, height)
            left, top = (width - short) // 2, (height - short) // 2
            return (left, top, left + short, top + short)
        scale = min(width / self.width, height / self.height)
        right, low = (width + scale * self.width) / 2, (height + scale * self.height) / 2
        return (max(width - right, 0), max(height - low, 0), min(right, width), min(low, height))

    def to_input(self, image: Image.Image) -> Tensor:
        """The network's input for `image`: float32 `[1, 3, height, width]`.

        Raises:
            TypeError: `image` is not a PIL image.
            ValueError: its mode has no one meaning as RGB (see `to_rgb`), or see `fit`.
        """
        if not isinstance(image, Image.Image):
            raise TypeError(
                f"expected a PIL image, got {type(image).__name__} (PIL.Image.fromarray makes one "
                "of a uint8 array [H, W, 3])"
            )
        pixels = self._reorder(np.asarray(self.fit(to_rgb(image))))
        # A plane a channel, each step in place: up to eight times as fast, which counts where a
        # data set is read.
        x = np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)
        mean, std = (np.float32(each)[:, None, None] for each in (self.mean, self.std))
        x /= 255
        x *= np.float32(self.scale)
        x -= mean
        x /= std
        return torch.from_numpy(x[None])

    def to_display(self, x: Tensor) -> np.ndarray:
        """Network inputs `[N, 3, H, W]` as RGB `[N, H, W, 3]`, float32 clipped to 0..1.

        NaN, which no screen can show, becomes 0.
        """
        values = _channels_last(x)
        values = (values * np.float32(self.std) + np.float32(self.mean)) / np.float32(self.scale)
        return self._reorder(np.nan_to_num(values.clip(0, 1), nan=0.0))

    def signal_to_display(self, signal: Tensor) -> np.ndarray:
        """Projections `[N, 3, H, W]` as RGB `[N, H, W, 3]`, float32 in 0..1, zero at mid grey.

        Each image is scaled on its own: the 99.5th percentile of its non-zero |values| reaches
        black or white. Zeros do not count, since one unit's projection is zero outside its
        receptive field and a small field would otherwise vanish. Values that are not finite are
        shown as zero.
        """
        values = np.nan_to_num(_channels_last(signal), nan=0.0, posinf=0.0, neginf=0.0)
        shown = np.full_like(values, 0.5)
        for one, out in zip(values, shown, strict=True):
            size = np.abs(one[one != 0])
            if size.size:
                out += one / (2 * np.percentile(size, 99.5))
        return self._reorder(shown.clip(0, 1))

    def display_value(self, rgb: Sequence[float]) -> Tensor:
        """The network-input values `[3]` of a plain colour (RGB in 0..1): an occluder's `fill`.

        Raises:
            ValueError: not three numbers in 0..1.
        """
        colour = np.asarray(rgb, dtype=np.float32)
        if colour.shape != (3,) or not ((colour >= 0) & (colour <= 1)).all():
            raise ValueError(f"colour {rgb!r}: expected three numbers (red, green, blue) in 0..1")
        values = self._reorder(colour) * np.float32(self.scale) - np.float32(self.mean)
        return torch.from_numpy(values / np.float32(self.std))

    def _reorder(self, values: np.ndarray) -> np.ndarray:
        # RGB to the network's order and back: the same reversal.
        return np.ascontiguousarray(values if self.channels == "rgb" else values[..., ::-1])


def _size(size: int | tuple[int, int]) -> int | tuple[int, int]:
    """A side, or (height, width) where they differ."""
    pair = size if isinstance(size, tuple) else (size, size)
    if len(pair) != 2:
        raise ValueError(f"size {size}: expected a side or (height, width), in pixels")
    height, width = (_pixels("size", side) for side in pair)
    if height * width > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise ValueError(
            f"size {height}x{width}: expected at most {Image.MAX_IMAGE_PIXELS:,} pixels "
            "(PIL.Image.MAX_IMAGE_PIXELS)"
        )
    return height if height == width else (height, width)


def _pixels(name: str, number: int) -> int:
    try:
        pixels = operator.index(number)
    except TypeError:
        raise ValueError(f"{name} {number!r}: expected a whole number of pixels") from None
    if pixels < 1:
        raise ValueError(f"{name} {number}: expected at least 1 pixel")
    return pixels


def _channels_last(x: Tensor) -> np.ndarray:
    if not isinstance(x, Tensor):
        raise TypeError(f"expected a tensor [N, 3, H, W], got {type(x).__name__}")
    if x.ndim != 4 or x.shape[1] != 3:
        raise ValueError(f"shape {list(x.shape)}: expected [N, 3, H, W]")
    return x.detach().permute(0, 2, 3, 1).to("cpu", torch.float32).numpy()
