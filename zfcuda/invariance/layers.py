"""Which layers to compare."""

from __future__ import annotations

from torch import Tensor, nn

from zfcuda.inference.guards import evaluating
from zfcuda.inference.passes import layer_outputs


def early_and_late(model: nn.Module, x: Tensor) -> list[str]:
    """Two layers to compare: what stands for the paper's layers 1 and 7.

    The early one is the first max-pooling (without any, the first convolution). The late one is
    what the last layer with weights, the classifier, takes. A module that is called several times
    lies where it is called last.

    Raises:
        ValueError: the model has no two such layers; name them then.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    with evaluating(model), layer_outputs(model, [*modules], lambda _, output: output) as found:
        model(x[:1].clone())
    order: list[str] = []
    for name, output in found.items():
        maps_or_vectors = isinstance(output, Tensor) and output.dim() in (2, 4)
        passing = isinstance(modules[name], nn.Dropout | nn.Dropout2d | nn.Flatten | nn.Identity)
        # A container gives what its last module gives: the innermost name says more.
        if maps_or_vectors and not passing and all(found[other] is not output for other in order):
            order.append(name)

    def of(*kinds: type[nn.Module]) -> list[str]:
        return [name for name in order if isinstance(modules[name], kinds)]

    weighted = of(nn.Conv2d, nn.Linear)
    late = order[: order.index(weighted[-1])] if weighted else []
    # A pool that is used throughout lies where it is called last: it may be the late one itself.
    early = [name for name in (*of(nn.MaxPool2d)[:1], *of(nn.Conv2d)[:1]) if name in late[:-1]]
    if not early:
        raise ValueError(
            f"no early and late layer can be told apart among {order[:8]}; name two in layers"
        )
    return [early[0], late[-1]]
