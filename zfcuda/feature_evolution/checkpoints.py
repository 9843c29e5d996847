"""What a checkpoint may be, and the network at it."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from zfcuda.models.weights import load_checked, read_state

Checkpoint = nn.Module | Mapping[str, Tensor] | str | os.PathLike[str]


def network_at(name: str, checkpoint: Checkpoint, model: nn.Module | None) -> nn.Module:
    """The ``model`` at a checkpoint: itself if that is one, or a copy with its weights.

    Raises:
        TypeError: weights without a model.
        FileNotFoundError, ValueError: no such file, one that cannot be read, or weights that do not
            fit (names what differs).
    """
    if isinstance(checkpoint, nn.Module):
        return checkpoint
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"checkpoint {name!r} holds weights only: model must be the torch.nn.Module that they "
            f"belong to, got {type(model).__name__}"
        )
    if isinstance(checkpoint, Mapping):
        state, source = checkpoint, f"checkpoint {name!r}"
    else:
        state, source = read_state(Path(checkpoint)), f"checkpoint '{os.fspath(checkpoint)}'"
    network = copy.deepcopy(model)
    load_checked(network, state, source)
    return network
