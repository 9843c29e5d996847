"""Windows and tensors to try the ops on."""

import torch
from torch import Tensor

from zfcuda.ops import reference

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
LAYOUTS = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}

# (kernel, stride, padding, dilation, ceil_mode): the ways in which windows meet edges and others.
WINDOWS = {
    "3/2 overlapping": ((3, 3), (2, 2), (0, 0), (1, 1), False),
    "3/2 ceil, the ZF pool": ((3, 3), (2, 2), (0, 0), (1, 1), True),
    "3/2 padded, the ResNet pool": ((3, 3), (2, 2), (1, 1), (1, 1), False),
    "3/2 padded ceil": ((3, 3), (2, 2), (1, 1), (1, 1), True),
    "3/1 padded, Inception's": ((3, 3), (1, 1), (1, 1), (1, 1), False),
    "2/2 the VGG pool": ((2, 2), (2, 2), (0, 0), (1, 1), False),
    "2/2 padded ceil": ((2, 2), (2, 2), (1, 1), (1, 1), True),
    "2/1": ((2, 2), (1, 1), (0, 0), (1, 1), False),
    "2/3 with gaps": ((2, 2), (3, 3), (0, 0), (1, 1), False),
    "1/1": ((1, 1), (1, 1), (0, 0), (1, 1), False),
    "3/3": ((3, 3), (3, 3), (1, 1), (1, 1), True),
    "5/2": ((5, 5), (2, 2), (2, 2), (1, 1), False),
    "uneven": ((2, 3), (1, 2), (1, 0), (1, 1), True),
    "dilated": ((3, 3), (2, 2), (1, 1), (2, 2), False),
    "3/2 padded above and below": ((3, 3), (2, 2), (1, 0), (1, 1), False),
    "2/2 padded above and below": ((2, 2), (2, 2), (1, 0), (1, 1), True),
    "dilated at stride 1": ((3, 3), (1, 1), (1, 1), (2, 2), False),
    "dilated in height": ((3, 3), (1, 1), (1, 1), (2, 1), False),
    "dilated ceil, windows without a tap": ((2, 2), (2, 2), (0, 0), (5, 5), True),
    "16x16: more taps than a byte": ((16, 16), (3, 5), (8, 8), (1, 1), False),
    "15x17: exactly 255 taps": ((15, 17), (4, 4), (7, 8), (1, 1), False),
}
# Around and beyond the widths and channels at which kernels change their block size.
SIZES_AND_CHANNELS = [
    ((7, 9), 1),
    ((7, 9), 37),
    ((13, 35), 3),
    ((20, 8), 16),
    ((16, 67), 2),
]


def sizes_and_channels(window: tuple, *flags: bool) -> list[tuple[tuple[int, int], int]]:
    """What to try a window on: every other size, beginning elsewhere for the next window and for
    other flags; little for the large windows, on which the reference is slow."""
    if window[0][0] > 5:
        return [((16, 67), 3), ((16, 67), 16)]
    turn = list(WINDOWS.values()).index(window) + sum(flags)
    return SIZES_AND_CHANNELS[turn % 2 :: 2]


def image(
    batch: int,
    channels: int,
    size: tuple[int, int],
    dtype: torch.dtype,
    layout: torch.memory_format = torch.contiguous_format,
    *,
    ties: bool = False,
    device: str = "cpu",
) -> Tensor:
    """A random tensor; with ``ties`` only a few values, zero and negative ones among them."""
    x = torch.randn(batch, channels, *size, dtype=torch.float64)
    if ties:
        x = (x * 1.5).round() / 2
    return x.to(dtype).to(device).contiguous(memory_format=layout)


def has_layout(tensor: Tensor, layout: torch.memory_format) -> bool:
    return tensor.is_contiguous(memory_format=layout)


def fits(size, window):
    kernel, stride, padding, dilation, ceil_mode = window
    return all(
        reference.pooled_size(length, k, s, p, d, ceil_mode) > 0
        for length, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    )
