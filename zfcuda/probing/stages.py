"""Which layers to probe: the stages of a network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from zfcuda.inference.guards import evaluating
from zfcuda.inference.passes import layer_outputs

__all__ = ["layers_by_depth"]

_PASSING = (nn.Dropout, nn.Dropout2d, nn.Flatten, nn.Identity)


def layers_by_depth(model: nn.Module, x: Tensor, most: int = 8) -> list[str]:
    """Layers to probe, by depth: of every block with weights the features that the next one takes.

    Blocks are what the model and its ``nn.Sequential`` containers consist of; a block that holds a
    convolution or linear layer begins a stage, and what follows without (ReLU, pooling,
    normalisation) belongs to it. The last block, the classifier, is none; of more than ``most``
    stages so many are taken, evenly, the last one included.

    Raises:
        ValueError: no stage is found; name layers then.
    """
    blocks = dict(_blocks(model, ""))
    with (
        evaluating(model),
        layer_outputs(model, [*blocks], lambda _, output: output) as found,
    ):
        model(x[:1].clone())
    stages: list[str] = []
    for name, output in found.items():
        if any(isinstance(module, nn.Conv2d | nn.Linear) for module in blocks[name].modules()):
            stages.append(name)
        elif stages and not isinstance(blocks[name], _PASSING) and _is_features(output):
            stages[-1] = name
    stages = stages[:-1]
    if not stages:
        raise ValueError(
            f"no layers to probe can be told apart among {[*found][:8]}; name them in layers"
        )
    count = min(most, len(stages))
    return [stages[(i + 1) * len(stages) // count - 1] for i in range(count)]


def _blocks(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        inner = f"{path}.{name}" if path else name
        if isinstance(child, nn.Sequential):
            yield from _blocks(child, inner)
        else:
            yield inner, child


def _is_features(output: Any) -> bool:
    return isinstance(output, Tensor) and output.dim() in (2, 4)
