"""Pictures of many units as figures show them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zfcuda.storage.files import short_spec

if TYPE_CHECKING:
    from torch import Tensor

    from zfcuda._network import Network


def shown_signals(network: Network, projections: Mapping[str, Tensor]) -> dict[str, Any]:
    """Projections [A,B,C,h,w] by layer as RGB pictures [A,B,h,w,3], zero at mid grey."""
    show = network.preprocessing.signal_to_display
    return {layer: _shown(own, show) for layer, own in projections.items()}


def shown_pictures(network: Network, patches: Mapping[str, Tensor]) -> dict[str, Any]:
    """Patches of network inputs [A,B,C,h,w] by layer as RGB pictures [A,B,h,w,3]."""
    return {layer: _shown(own, network.display) for layer, own in patches.items()}


def grid_title(spec: str) -> str:
    """A model's spec without the folders of its file."""
    return short_spec(spec)


def silent_layers(layers: Sequence[tuple[Tensor, Tensor]]) -> str:
    """What is to be said of maps that never fire; of each layer the shown maps' strongest values
    and their images (-1: none), [A,k] both."""
    count = sum(len(values) for values, _ in layers)
    silent = sum(
        int((((values == 0) | (images < 0)).all(1) & (images >= 0).any(1)).sum())
        for values, images in layers
    )
    if not silent:
        return ""
    return f" {silent} of the {count} maps shown never fire{'s' * (silent == 1)} (light grey)."


def _shown(own: Tensor, show: Callable[[Tensor], Any]) -> Any:
    import torch

    from zfcuda.figures.maxima import reduced

    small = torch.from_numpy(reduced(own))
    shown = show(small.flatten(0, 1))
    return shown.reshape(*small.shape[:2], *shown.shape[1:])
