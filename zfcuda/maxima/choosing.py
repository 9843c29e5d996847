"""Which of a layer's maps are projected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zfcuda.inference.checks import is_int
from zfcuda.maxima.running import Top

__all__ = ["Maps", "chosen", "units_of"]

Maps = int | str | Sequence[int] | Mapping[str, Any]


def chosen(maps: Maps, layer: str, top: Top) -> Tensor:
    """The channels to project, int64 [M], ascending."""
    if isinstance(maps, Mapping):
        if layer not in maps:
            raise ValueError(f"maps name the layers {list(maps)}, but not {layer!r}")
        return chosen(maps[layer], layer, top)
    total = len(top.values)
    if isinstance(maps, str) and maps == "all":
        return torch.arange(total)
    if is_int(maps) and maps >= 0:
        return _spread(top.values[:, 0].cpu(), int(maps))
    channels = sorted(set(maps)) if isinstance(maps, Sequence | Tensor) and maps != "" else [-1]
    if not all(is_int(channel) and 0 <= channel < total for channel in channels):
        raise ValueError(
            f"maps must be a number of maps, 'all', or channels between 0 and {total - 1} of layer "
            f"{layer!r}, got {maps!r}"
        )
    return torch.tensor(channels, dtype=torch.int64)


def _spread(strongest: Tensor, wanted: int) -> Tensor:
    """So many channels, evenly spread over those that respond; over all if none does."""
    alive = (strongest > 0).nonzero()[:, 0]
    if not len(alive):
        alive = torch.arange(len(strongest))
    wanted = min(wanted, len(alive))
    # The middle of each of as many equal stretches.
    return alive[(torch.arange(wanted) * 2 + 1) * len(alive) // (2 * max(1, wanted))]


def units_of(top: Top, channels: Tensor) -> Tensor:
    """The units to project, int64 [M*k,4], (image number, channel, row, column); -1 as number
    where there is none."""
    own = channels.to(top.numbers.device)
    numbers, positions = top.numbers[own], top.positions[own]
    each = own[:, None].expand_as(numbers)
    return torch.cat([torch.stack([numbers, each], -1), positions], -1).flatten(0, 1).cpu()
