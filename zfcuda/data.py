"""Images in and out: reading files safely, and the one place where pixels become network input.

`read_image` turns any picture Pillow can decode into 8-bit RGB, or raises one sentence that names
the file. `Preprocessing` holds what a network expects of its input and runs in both directions, so
that a figure can show an input, or a projection onto it, as the picture it stands for.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

__all__ = ["IMAGE_SUFFIXES", "Preprocessing", "list_images", "read_alpha", "read_image", "to_rgb"]

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}
_WHITE = (255, 255, 255, 255)


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """The image files directly in `folder`, by suffix (`IMAGE_SUFFIXES`), sorted by name.

    Hidden files are left out; an empty list means that there are none.

    Raises:
        ValueError: `folder` does not exist or is not a folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        state = "is a file" if folder.exists() else "does not exist"
        raise ValueError(f"'{folder}' {state}: expected a folder of images")
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not path.name.startswith(".")
        and path.is_file()
    )


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """The picture in `path`, upright (EXIF orientation applied), as 8-bit RGB (see `to_rgb`).

    Of an animation or a multi-page file the first frame is read.

    Raises:
        ValueError: the file is missing, a folder, not an image, truncated or otherwise broken, of
            a mode that has no one meaning as RGB, or has more pixels than
            `PIL.Image.MAX_IMAGE_PIXELS` (89,478,485 unless changed).
    """
    return _convert(path, to_rgb)


def read_alpha(path: str | os.PathLike[str]) -> Image.Image | None:
    """The opacity of the picture in `path` as an upright 8-bit "L" image, or None if it has none.

    Raises:
        ValueError: as `read_image`.
    """
    return _convert(path, lambda image: _rgba(image).getchannel("A") if _has_alpha(image) else None)


def to_rgb(image: Image.Image) -> Image.Image:
    """`image` as 8-bit RGB.

    - transparency (an alpha channel or a transparent colour) is composited on white;
    - 16-bit grey is scaled (65535 is white); Pillow's own conversion would clip it at 255;
    - floating-point grey must lie in 0..1;
    - palettes, grey, 1-bit, YCbCr, HSV and CMYK follow Pillow, without colour profiles.

    Raises:
        ValueError: grey values outside the ranges above, or a mode that Pillow cannot convert.
    """
    if image.mode == "RGB" and not _has_alpha(image):
        return image
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        return _from_wide_grey(image).convert("RGB")
    if _has_alpha(image):
        image = _rgba(image)
        return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image).convert("RGB")
    return image.convert("RGB")


def _has_alpha(image: Image.Image) -> bool:
    if image.mode in ("F", "I") or image.mode.startswith(
        "I;16"
    ):  # Pillow offers no transparent colour here: opaque
        return False
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def _rgba(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # premultiplied; Pillow converts it to LA only
        image = image.convert("LA")
    return image.convert("RGBA")


def _from_wide_grey(image: Image.Image) -> Image.Image:
    grey = np.asarray(image, dtype=np.float64)
    top = 1.0 if image.mode == "F" else 65535.0
    # Written so that NaN fails as well.
    if not (grey.min() >= 0 and grey.max() <= top):
        raise ValueError(
            f"grey values from {grey.min():g} to {grey.max():g} in mode {image.mode}: "
            f"expected 0 to {top:g}"
        )
    return Image.fromarray(np.rint(grey * (255 / top)).astype(np.uint8))


def _convert(path, convert):
    """`convert(upright image)`, with whatever goes wrong told as one ValueError."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"'{path}' is a folder: expected an image file")
    if not path.exists():
        raise ValueError(f"'{path}' does not exist: expected an image file")
    try:
        with warnings.catch_warnings():
            # Pillow only warns up to twice its limit; a job over a folder must not eat the memory.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
                return convert(ImageOps.exif_transpose(image))
    except Image.UnidentifiedImageError:
        raise ValueError(f"'{path}' is not an image that Pillow can read") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ValueError(
            f"'{path}' is too large to be read safely: it has more than "
            f"{Image.MAX_IMAGE_PIXELS:,} pixels (PIL.Image.MAX_IMAGE_PIXELS)"
        ) from None
    except Exception as error:
        # Decoders raise OSError, SyntaxError, ValueError, struct.error, EOFError, ... on bad bytes.
        raise ValueError(f"'{path}' cannot be read as an image: {error}") from error


@dataclass(frozen=True)
class Preprocessing:
    """What a network expects of its input; RGB pictures in, `[1, 3, size, size]` float32 out.

    The picture is fitted (`fit`), its values v in 0..1 become `(v * scale - mean) / std`.

    Attributes:
        size: side of the square input, pixels.
        resize: the shorter side is resized to this, then the centre `size` x `size` is cut out;
            None resizes the largest centred square to `size`, so that nothing more is lost.
        mean, std: per channel, in the network's own channel order and scale.
        scale: value of full brightness before normalisation: 1 or 255.
        channels: the network's channel order.
        interpolation: "bilinear", "bicubic" (both antialiased) or "nearest".
    """

    size: int = 224
    resize: int | None = 256
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    scale: float = 1.0
    channels: Literal["rgb", "bgr"] = "rgb"
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size {self.size}: expected at least 1 pixel")
        if self.resize is not None and self.resize < self.size:
            raise ValueError(f"resize {self.resize}: expected at least the size {self.size}")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(s > 0 for s in self.std):
            raise ValueError(
                f"mean {self.mean}, std {self.std}: expected three values each, std above 0"
            )
        if not self.scale > 0:
            raise ValueError(f"scale {self.scale}: expected a positive number (1 or 255)")
        if self.channels not in ("rgb", "bgr"):
            raise ValueError(f"channels {self.channels!r}: expected 'rgb' or 'bgr'")
        if self.interpolation not in _FILTERS:
            raise ValueError(
                f"interpolation {self.interpolation!r}: expected one of {sorted(_FILTERS)}"
            )

    def fit(self, image: Image.Image) -> Image.Image:
        """`image` (any mode, so masks too) resized and cropped to `size` x `size`."""
        width, height = image.size
        short = min(width, height)
        resample = _FILTERS[self.interpolation]
        if self.resize is None:
            left, top = (width - short) // 2, (height - short) // 2
            box = (left, top, left + short, top + short)
            return image.resize((self.size, self.size), resample, box=box)
        # torchvision's Resize and CenterCrop, to the pixel: the longer side is truncated, the
        # offset rounded.
        width, height = (int(self.resize * side / short) for side in (width, height))
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        image = image.resize((width, height), resample)
        return image.crop((left, top, left + self.size, top + self.size))

    def to_input(self, image: Image.Image) -> Tensor:
        """The network's input for `image`: float32 `[1, 3, size, size]`.

        Raises:
            TypeError: `image` is not a PIL image.
            ValueError: its mode has no one meaning as RGB (see `to_rgb`).
        """
        if not isinstance(image, Image.Image):
            raise TypeError(
                f"expected a PIL image, got {type(image).__name__} (PIL.Image.fromarray makes one "
                "of a uint8 array [H, W, 3])"
            )
        rgb = np.asarray(self.fit(to_rgb(image)), dtype=np.float32) / 255
        x = self._normalise(self._reorder(rgb)).transpose(2, 0, 1)[None]
        return torch.from_numpy(np.ascontiguousarray(x))

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
        return torch.from_numpy(self._normalise(self._reorder(colour)))

    def _normalise(self, values: np.ndarray) -> np.ndarray:
        return (values * np.float32(self.scale) - np.float32(self.mean)) / np.float32(self.std)

    def _reorder(self, values: np.ndarray) -> np.ndarray:
        # RGB to the network's order and back: the same reversal.
        return np.ascontiguousarray(values if self.channels == "rgb" else values[..., ::-1])


def _channels_last(x: Tensor) -> np.ndarray:
    if not isinstance(x, Tensor):
        raise TypeError(f"expected a tensor [N, 3, H, W], got {type(x).__name__}")
    if x.ndim != 4 or x.shape[1] != 3:
        raise ValueError(f"shape {list(x.shape)}: expected [N, 3, H, W]")
    return x.detach().permute(0, 2, 3, 1).to("cpu", torch.float32).numpy()
