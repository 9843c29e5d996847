"""Networks with layers removed or resized."""

from __future__ import annotations

from torch import Tensor, nn

from zfcuda.ablations.variants import Variant
from zfcuda.inference.guards import evaluating

_FOLLOWING = (nn.ReLU, nn.Dropout, nn.Identity)  # they go with the layer before them


def altered(model: nn.Sequential, variant: Variant, example: Tensor) -> nn.Sequential:
    """``model`` with layers left out or of another size, as a new network.

    Layers whose input or output changes get fresh weights, normally distributed with the spread of
    the layer's own at its number of inputs, and biases 0; the others are the model's own. The model
    is left as it was.

    Args:
        model: layers called one after another.
        variant: the change.
        example: a batch that the model takes, to find the sizes.

    Raises:
        ValueError: a name that is no convolution or linear layer of the model, a layer that is both
            removed and resized, the last layer (its size is the number of classes), a size below 1,
            or a network whose layers no longer fit together.
    """
    weighted = [name for name, layer in model.named_children() if _is_weighted(layer)]
    for name in (*variant.remove, *variant.resize):
        if name not in weighted[:-1]:
            raise ValueError(f"layer {name!r} cannot be changed: expected some of {weighted[:-1]}")
    both = set(variant.remove) & set(variant.resize)
    if both or any(width < 1 for width in variant.resize.values()):
        raise ValueError(
            f"cannot change {min(both) if both else dict(variant.resize)}: expected each layer "
            "either removed or resized to at least 1"
        )
    layers: dict[str, nn.Module] = {}
    removing, x = False, example.clone()  # a layer may work in place
    for name, layer in model.named_children():
        if _is_weighted(layer):
            removing = name in variant.remove
            if not removing:
                layer = _resized(layer, x.shape[1], variant.resize.get(name))
        if removing and (_is_weighted(layer) or isinstance(layer, _FOLLOWING)):
            continue
        layers[name] = layer
        x = _output(name, layer, x)
    # add_module, not an OrderedDict's constructor: names stay as they are.
    result = nn.Sequential()
    for name, layer in layers.items():
        result.add_module(name, layer)
    result.training = model.training  # not its layers', which are the model's own
    return result


def _is_weighted(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d | nn.Linear)


def _resized(layer: nn.Module, inputs: int, outputs: int | None) -> nn.Module:
    """The layer for so many inputs and outputs: itself, if these are its own."""
    linear = isinstance(layer, nn.Linear)
    own = (
        (layer.in_features, layer.out_features)
        if linear
        else (layer.in_channels, layer.out_channels)
    )
    new = (inputs, own[1] if outputs is None else outputs)
    if new == own:
        return layer
    if linear:
        fresh: nn.Module = nn.Linear(*new, bias=layer.bias is not None)
    else:
        fresh = nn.Conv2d(
            *new, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups,
            layer.bias is not None, layer.padding_mode,
        )  # fmt: skip
    # Drawn as the layer's own weights were: the same spread of responses.
    share = layer.weight[0].numel() / fresh.weight[0].numel()
    nn.init.normal_(fresh.weight, std=float(layer.weight.detach().std()) * share**0.5)
    if fresh.bias is not None:
        nn.init.zeros_(fresh.bias)
    return fresh.train(layer.training)


def _output(name: str, layer: nn.Module, x: Tensor) -> Tensor:
    try:
        with evaluating(layer):
            return layer(x)
    except RuntimeError as error:
        raise ValueError(f"after this change layer {name!r} does not fit: {error}") from error
