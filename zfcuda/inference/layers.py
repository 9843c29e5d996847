"""A model's layers by name, and what they return during a pass."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from torch import Tensor, nn

from zfcuda.inference.checks import evaluating

Layer = str | nn.Module
Layers = Layer | Sequence[Layer]


def find_layers(model: nn.Module, layers: Layers) -> dict[str, nn.Module]:
    """The modules with these names (one may be given alone), or that are these modules; errors name
    close ones."""
    # Some modules can be iterated over themselves.
    alone = isinstance(layers, str | nn.Module) or not isinstance(layers, Iterable)
    names = [_name_of(model, layer) for layer in ([layers] if alone else layers)]
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise TypeError(
            "layers are named by strings, as 'features.0', or are modules of the model, got "
            f"{wrong[0]!r}"
        )
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in names:
        if name in modules:
            continue
        close = difflib.get_close_matches(name, modules, n=5, cutoff=0.4)
        valid = f"did you mean {close}?" if close else f"the first are {[*modules][1:8]}"
        raise ValueError(
            f"the model has no layer {name!r} among its {len(modules) - 1} named modules; {valid}"
        )
    return {name: modules[name] for name in names}


def by_name(model: nn.Module, by_layer: Any) -> Any:
    """A mapping by layer, with names where it has modules; anything else as it is."""
    if not isinstance(by_layer, Mapping):
        return by_layer
    return {_name_of(model, layer): own for layer, own in by_layer.items()}


def _name_of(model: nn.Module, layer: Any) -> Any:
    """A module's name; anything else as it is."""
    if not isinstance(layer, nn.Module):
        return layer
    for name, module in model.named_modules():
        if module is layer:
            return name
    shown = repr(layer).split("\n")[0]
    raise ValueError(
        f"the model has no module that is this {shown} itself (it may be another model's, or a "
        "copy's); take it from this model, or give its name"
    )


class _Enough(BaseException):
    """Ends a forward early; no ``except Exception`` of the model's may catch it."""


@contextmanager
def layer_outputs(
    model: nn.Module,
    layers: Layers,
    receive: Callable[[str, Any], Any] = lambda layer, output: output,
    stop: int | None = None,
    with_input: bool = False,
    required: bool = True,
) -> Iterator[dict[str, Any]]:
    """Collect ``receive(layer, output)`` for each layer at the moment it returns, before anything
    can change its output in place. Layers come in the order in which they return.

    Of several calls of a module, the last one counts, for the order too. What an earlier one gives
    may be of another size: a ValueError about it is raised at the end, if no later call makes up
    for it.

    Args:
        stop: the forward ends, and the ``with`` block with it, when the layers have returned so
            often in all.
        with_input: ``receive`` takes (first argument, output) of the call as its output.
        required: all of the layers must return.

    Raises:
        RuntimeError: on leaving, a required layer was never called.
    """
    found: dict[str, Any] = {}
    wrong: dict[str, ValueError] = {}
    calls = 0

    def hook_of(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            nonlocal calls
            found.pop(name, None)  # or it would keep its earlier call's place
            wrong.pop(name, None)
            try:
                found[name] = receive(name, (args[0], output) if with_input else output)
            except ValueError as error:
                wrong[name] = error
            calls += 1
            if stop is not None and calls >= stop:
                raise _Enough

        return hook

    modules = find_layers(model, layers)
    with ExitStack() as stack:
        for name, module in modules.items():
            try:
                stack.callback(module.register_forward_hook(hook_of(name)).remove)
            except RuntimeError as error:
                raise ValueError(
                    f"layer {name!r} is inside a TorchScript model, which does not let it be "
                    "watched; pass the eager model"
                ) from error
        with suppress(_Enough):
            yield found
        for error in wrong.values():
            raise error
        for name in modules if required else ():
            if name not in found:
                raise RuntimeError(
                    f"layer {name!r} is in the model, but its forward never called it"
                )


def outputs_by_call(
    model: nn.Module, x: Tensor, layers: Layers, receive: Callable[[str, Any], Any]
) -> dict[str, Any]:
    """What :func:`layer_outputs` collects in one pass of the first image of ``x``, in eval mode."""
    with evaluating(model), layer_outputs(model, layers, receive, required=False) as found:
        model(x[:1].clone())
    return found


def require_shape(layer: str, maps: Tensor, shape: Sequence[int]) -> None:
    """Raise a ValueError unless the layer's maps [n,p,C,H,W] are of this shape (C,H,W)."""
    if maps.shape[2:] != tuple(shape):
        raise ValueError(
            f"layer {layer!r} gives maps {list(maps.shape[2:])} of a changed image, "
            f"{list(shape)} of the image itself: they cannot be compared"
        )


def feature_maps(output: Any, layer: str, n: int) -> Tensor:
    """A layer's output for ``n`` images as maps [N,C,H,W]; vectors [N,F] count as F maps of one
    element."""
    if not isinstance(output, Tensor) or output.dim() not in (2, 4) or len(output) != n:
        got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"layer {layer!r} must give maps [{n},C,H,W] or vectors [{n},F], it gives {got}"
        )
    return output if output.dim() == 4 else output[:, :, None, None]


def gives_features(module: nn.Module, output: Any) -> bool:
    """Whether a module's output is maps or vectors of its own making."""
    passing = isinstance(module, nn.Dropout | nn.Dropout2d | nn.Flatten | nn.Identity)
    return isinstance(output, Tensor) and output.dim() in (2, 4) and not passing
