"""Tensors as arrays, and as pictures that can be shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def to_array(x: Any) -> Array:
    """A tensor or array-like as a NumPy array (16-bit floats widened, so that NumPy knows them)."""
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        if x.is_floating_point():
            x = x.double()
        return x.numpy()
    return np.asarray(x)


def _channels_last(x: Any) -> Array:
    array = to_array(x)
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4:
        raise ValueError(f"display images: expected [N,H,W,3] or [N,C,H,W], got {array.shape}")
    if array.shape[-1] not in (1, 3):
        array = np.moveaxis(array, 1, -1)
    if array.shape[-1] not in (1, 3):
        array = array.mean(axis=-1, keepdims=True)
    return np.repeat(array, 3, axis=-1) if array.shape[-1] == 1 else array


def display_images(x: Any) -> Array:
    """``[N,H,W,3]`` in 0..1: uint8 as shares of 255; others than those in that range are stretched,
    image by image."""
    images = _channels_last(x)
    if images.dtype == np.uint8:
        return images / 255
    images = images.astype(float)
    if np.nanmin(images, initial=0.0) < 0 or np.nanmax(images, initial=1.0) > 1:
        low = np.nanmin(images, axis=(1, 2, 3), keepdims=True)
        high = np.nanmax(images, axis=(1, 2, 3), keepdims=True)
        images = (images - low) / np.where(high > low, high - low, 1.0)
    return np.nan_to_num(images, nan=0.5)


def scale_of(picture: Array, height: int, width: int) -> tuple[float, float]:
    """Pixels of a picture ``[h,w,3]`` for one of an input of that size: (down, across).

    Raises:
        ValueError: the picture has other proportions: what it shows where is unknown.
    """
    down, across = picture.shape[0] / height, picture.shape[1] / width
    if abs(down - across) > 1 / min(height, width):  # a pixel, for rounding
        raise ValueError(
            f"images of {picture.shape[0]}×{picture.shape[1]} pixels: expected the network's "
            f"inputs, {height}×{width}, or the same larger or smaller (Preprocessing.to_display "
            "makes pictures of inputs)"
        )
    return down, across


def scaled(box: Any, scale: tuple[float, float]) -> tuple[float, float, float, float]:
    """A box (y0, x0, y1, x1) of an input in the pixels of a picture of that :func:`scale_of`."""
    y0, x0, y1, x1 = (float(edge) for edge in box)
    return y0 * scale[0], x0 * scale[1], y1 * scale[0], x1 * scale[1]


def cut_out(picture: Array, box: Any, scale: tuple[float, float]) -> Array:
    """What of a picture lies in a box of the input, whole pixels."""
    y0, x0, y1, x1 = scaled(box, scale)
    low, left = int(y0 + 1e-6), int(x0 + 1e-6)
    return picture[low : int(np.ceil(y1 - 1e-6)), left : int(np.ceil(x1 - 1e-6))]


def stretched_inputs(x: Any) -> Array:
    """Network inputs ``[N,C,H,W]`` as pictures where nobody said what their colours are: three
    channels as red, green and blue, others grey; each stretched to 0..1 over all its channels."""
    inputs = to_array(x)
    inputs = inputs if inputs.shape[1] == 3 else inputs.mean(axis=1, keepdims=True)
    return display_images(np.moveaxis(inputs, 1, -1))


def display_signal(x: Any) -> Array:
    """``[N,H,W,3]`` in 0..1 of a signed signal, zero at mid grey.

    Arrays ``[N,H,W,3]`` in 0..1, and of uint8, are taken as already scaled for display.
    """
    array = to_array(x)
    if array.dtype == np.uint8 and array.shape[-1] == 3:
        return array / 255
    if array.ndim == 4 and array.shape[-1] == 3 and array.min() >= 0 and array.max() <= 1:
        return array
    signal = np.nan_to_num(_channels_last(array).astype(float))
    return np.stack([0.5 + 0.5 * np.clip(one / _full_scale(one), -1, 1) for one in signal])


def _full_scale(signal: Array) -> float:
    """The 99.5th percentile of the non-zero values: an early layer's projection is mostly zeros."""
    magnitude = np.abs(signal[signal != 0])
    return float(np.percentile(magnitude, 99.5)) if magnitude.size else 1.0
