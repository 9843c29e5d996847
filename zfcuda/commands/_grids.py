"""Pictures of many units as figures show them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from zfcuda._text import short_spec

if TYPE_CHECKING:
    from torch import Tensor

    from zfcuda._network import Network


def signals(network: Network, projections: Mapping[str, Tensor]) -> dict[str, Any]:
    """Projections [A,B,C,h,w] by layer as RGB pictures [A,B,h,w,3], zero at mid grey."""
    show = network.preprocessing.signal_to_display
    return {layer: _shown(own, show) for layer, own in projections.items()}


def pictures(network: Network, patches: Mapping[str, Tensor]) -> dict[str, Any]:
    """Patches of network inputs [A,B,C,h,w] by layer as RGB pictures [A,B,h,w,3]."""
    return {layer: _shown(own, network.display) for layer, own in patches.items()}


def title(spec: str) -> str:
    """A model's spec without the folders of its file."""
    return short_spec(spec)


def _shown(own: Tensor, show: Callable[[Tensor], Any]) -> Any:
    import torch

    from zfcuda.figures.maxima import reduced

    small = torch.from_numpy(reduced(own))
    shown = show(small.flatten(0, 1))
    return shown.reshape(*small.shape[:2], *shown.shape[1:])
