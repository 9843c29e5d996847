"""Forward passes without gradient: images as they are, and variants of them."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from zfcuda.inference.checks import to_result
from zfcuda.inference.interception import Interception, Operations, fast_forward
from zfcuda.results.base import Outputs, check_outputs, looks_like_probabilities
from zfcuda.storage import terminal

Layer = str | nn.Module
Layers = Layer | Sequence[Layer]


def find_layers(model: nn.Module, layers: Layers) -> dict[str, nn.Module]:
    """The modules with these names (one may be given alone), or that are these modules.

    Raises:
        TypeError: a name is no string.
        ValueError: the model has no such module; close names are named.
    """
    # Some modules can be iterated over themselves.
    alone = isinstance(layers, str | nn.Module) or not isinstance(layers, Iterable)
    names = [
        _name_of(model, layer) if isinstance(layer, nn.Module) else layer
        for layer in ([layers] if alone else layers)
    ]
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


def author_of(module: nn.Module, name: str) -> str:
    """What the model's author knows the calls of a module by, as ``PReLU 'prelu2'``: "" for those
    that a module with others in it makes itself."""
    own = type(module).__module__.startswith(("torch.nn.", "torch.ao.nn.", "zfcuda.nn"))
    alone = own or not any(True for _ in module.children())
    return f"{type(module).__name__} {name!r}" if name and alone else ""


def by_name(model: nn.Module, by_layer: Any) -> Any:
    """A mapping by layer, with names where it has modules; anything else as it is."""
    if not isinstance(by_layer, Mapping):
        return by_layer
    return {
        _name_of(model, layer) if isinstance(layer, nn.Module) else layer: own
        for layer, own in by_layer.items()
    }


def _name_of(model: nn.Module, layer: nn.Module) -> str:
    for name, module in model.named_modules():
        if module is layer:
            return name
    shown = repr(layer).split("\n")[0]
    raise ValueError(
        f"the model has no module that is this {shown} itself (it may be another model's, or a "
        "copy's); take it from this model, or give its name"
    )


@contextmanager
def layer_outputs(
    model: nn.Module, layers: Layers, receive: Callable[[str, Any], Any]
) -> Iterator[dict[str, Any]]:
    """Collect ``receive(layer, output)`` for each layer at the moment it returns, before anything
    can change its output in place. Layers come in the order in which they return.

    Of several calls of a module, the last one counts, for the order too. What an earlier one gives
    may be of another size: a ValueError about it is raised at the end, if no later call makes up
    for it.
    """
    found: dict[str, Any] = {}
    wrong: dict[str, ValueError] = {}

    def hook_of(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            found.pop(name, None)  # or it would keep its earlier call's place
            wrong.pop(name, None)
            try:
                found[name] = receive(name, output)
            except ValueError as error:
                wrong[name] = error

        return hook

    with ExitStack() as stack:
        for name, module in find_layers(model, layers).items():
            stack.callback(module.register_forward_hook(hook_of(name)).remove)
        yield found
        for error in wrong.values():
            raise error


def require_called(layers: Sequence[str], found: dict[str, Any]) -> None:
    """Raise a RuntimeError unless each of the layers was heard; see :func:`layer_outputs`."""
    for layer in layers:
        if layer not in found:
            raise RuntimeError(f"layer {layer!r} is in the model, but its forward never called it")


def require_shape(layer: str, maps: Tensor, shape: Sequence[int]) -> None:
    """Raise a ValueError unless the layer's maps [n,p,C,H,W] are of this shape (C,H,W)."""
    if maps.shape[2:] != tuple(shape):
        raise ValueError(
            f"layer {layer!r} gives maps {list(maps.shape[2:])} of a changed image, "
            f"{list(shape)} of the image itself: they cannot be compared"
        )


def feature_maps(output: Any, layer: str, n: int) -> Tensor:
    """A layer's output as maps [N,C,H,W]; vectors [N,F] count as F maps of one element.

    Raises:
        ValueError: it is neither, or not of ``n`` images.
    """
    if not isinstance(output, Tensor) or output.dim() not in (2, 4) or len(output) != n:
        got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"layer {layer!r} must give maps [{n},C,H,W] or vectors [{n},F], it gives {got}"
        )
    return output if output.dim() == 4 else output[:, :, None, None]


def memory_limit(max_memory: int | None, device: torch.device) -> int:
    """Bytes that one batch's activations may take: as given, or half of what is free on a GPU; on
    a CPU a quarter of what is free, at most 128 MiB (there larger batches only fault pages in).

    Raises:
        ValueError: ``max_memory`` is not a positive, finite number.
    """
    if max_memory is not None:
        number = isinstance(max_memory, Real) and not isinstance(max_memory, bool)
        if not number or not 0 < max_memory < math.inf:
            raise ValueError(f"max_memory must be a positive number of bytes, got {max_memory!r}")
        return int(max_memory)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not every system tells
        return 2**27
    return max(2**26, min(free // 4, 2**27))


def spans(start: int, stop: int, step: int) -> Iterator[slice]:
    """Slices of at most ``step`` that cover start..stop."""
    for begin in range(start, stop, step):
        yield slice(begin, min(begin + step, stop))


@contextmanager
def progress_bar(total: int, shown: bool, title: str) -> Iterator[Callable[[int], Any]]:
    """A function that moves a progress bar (or nothing)."""
    if not shown:
        yield lambda steps: None
        return
    with terminal.progress(total=total, desc=title, leave=False) as bar:
        yield bar.update


_SOFTMAX = {"softmax", "softmin", "specialsoftmax"}
_SIGMOID = {"sigmoid", "hardsigmoid", "specialexpit", "expit"}
# What no probability comes out of; the softmax of log-probabilities are the probabilities.
_SCORES = {
    "linear", "conv2d", "conv1d", "convolution", "addmm", "addbmm", "bmm", "baddbmm", "matmul",
    "mm", "rmatmul", "bilinear", "einsum", "batchnorm", "layernorm", "logsoftmax", "logsigmoid",
    "speciallogsoftmax",
}  # fmt: skip


def base_pass(
    model: nn.Module,
    x: Tensor,
    layers: Sequence[str],
    receive: Callable[[str, Tensor], Any],
    limit: int,
    seen: Operations | None = None,
) -> tuple[Tensor, dict[str, list[Any]], int]:
    """Every image as it is; ``seen`` looks on at the first, to tell what the outputs are.

    Returns the logits [N,K], what ``receive(layer, maps)`` made of each batch, and how many images
    fit in ``limit`` bytes at once, measured on the first.
    """
    logits: list[Tensor] = []
    received: dict[str, list[Any]] = {layer: [] for layer in layers}

    def run(images: slice, measure: bool = False) -> Interception:
        batch = x[images].clone()
        calls = fast_forward(measure)
        with layer_outputs(
            model, layers, lambda name, out: receive(name, feature_maps(out, name, len(batch)))
        ) as found:
            logits.append(_forward(model, batch, calls))
        require_called(layers, found)
        for layer, value in found.items():
            received[layer].append(value)
        return calls

    with seen or nullcontext():
        needed = run(slice(0, 1), measure=True).peak_bytes + 2 * x[0].nbytes
    if seen is not None:
        seen.end(logits[0])
    fitting = max(1, limit // needed)
    for images in spans(1, len(x), fitting):
        run(images)
    return torch.cat(logits), received, fitting


def variant_passes(
    model: nn.Module,
    x: Tensor,
    make: Callable[[Tensor, slice], Tensor],
    count: int,
    layers: Sequence[str],
    measure: Callable[[str, Tensor, slice], Tensor],
    fitting: int,
    advance: Callable[[int], Any],
) -> tuple[Tensor, dict[str, Tensor]]:
    """``count`` variants of every image, ``fitting`` of them at a time.

    Args:
        make: ``(images [n,C,H,W], variants) -> [n,p,C,H,W]``.
        measure: ``(layer, maps [n,p,C,H,W], images) -> [n,p]``, a number for each variant's output.
        advance: called with the number of variants done.

    Returns:
        Logits [N,count,K] and each layer's numbers [N,count], on the CPU.
    """
    rows: list[Tensor] = []
    numbers: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    for images in spans(0, len(x), max(1, fitting // count)):
        blocks: list[Tensor] = []
        parts: dict[str, list[Tensor]] = {layer: [] for layer in layers}
        for variants in spans(0, count, fitting):
            copies = make(x[images], variants)
            shape = copies.shape[:2]

            def receive(name: str, output: Any, shape: Any = shape, images: Any = images) -> Tensor:
                maps = feature_maps(output, name, shape.numel())
                return to_result(measure(name, maps.unflatten(0, shape), images))

            with layer_outputs(model, layers, receive) as found:
                logits = _forward(model, copies.flatten(0, 1), fast_forward())
            blocks.append(to_result(logits).unflatten(0, shape))
            for layer in layers:
                parts[layer].append(found[layer])
            advance(shape.numel())
        rows.append(torch.cat(blocks, 1))
        for layer in layers:
            numbers[layer].append(torch.cat(parts[layer], 1))
    return torch.cat(rows), {layer: torch.cat(parts) for layer, parts in numbers.items()}


def _forward(model: nn.Module, batch: Tensor, calls: Interception) -> Tensor:
    with calls:
        try:
            output = model(batch)
        except RuntimeError as error:  # of the type it has, with what torch's text leaves out
            if type(error) is RuntimeError and len(error.args) == 1:
                error.args = (f"{error} (in the model's forward of images {list(batch.shape)})",)
            raise
        return logits_of(output, len(batch))


def logits_of(output: Any, n: int) -> Tensor:
    """What a model returned for ``n`` images, if that is logits [n,K].

    Raises:
        ValueError: it is something else; where that holds a tensor, how to get at it.
    """
    if isinstance(output, Tensor) and output.dim() == 2 and len(output) == n:
        return output
    got = list(output.shape) if isinstance(output, Tensor) else _described(output)
    raise ValueError(f"the model must return logits [{n},K], it returned {got}")


def _described(output: Any) -> str:
    """What a model returned that is no tensor, and how to get at the tensor in it."""
    if isinstance(output, Mapping):
        parts = {
            f'["{key}"]' if isinstance(key, str) else f"[{key!r}]": output[key] for key in output
        }
    elif isinstance(output, tuple | list):
        parts = {f"[{place}]": value for place, value in enumerate(output)}
    elif dataclasses.is_dataclass(output):
        fields = [field.name for field in dataclasses.fields(output)]
        parts = {f".{name}": getattr(output, name) for name in fields}
    else:
        parts = {f".{name}": value for name, value in getattr(output, "__dict__", {}).items()}
    tensors = {place: value for place, value in parts.items() if isinstance(value, Tensor)}
    kind = f"a {type(output).__name__}"
    if not tensors:
        return kind
    rows = [place for place, value in tensors.items() if value.dim() == 2]
    logits = (rows or [*tensors])[0]
    shapes = ", ".join(f"{place} {list(value.shape)}" for place, value in tensors.items())
    return (
        f"{kind} with {shapes}; wrap it in a module that returns the logits alone, as "
        f"`class Logits(nn.Module): ... return self.model(x){logits}`"
    )


def outputs_of(said: Outputs | None, base: Tensor, seen: Operations) -> Outputs:
    """What the network's outputs are, decided once a call.

    Args:
        said: by the user, who has the last word.
        base: [N,K], the answers to the images as they are.
        seen: the calls of (a part of) that pass.

    Raises:
        ValueError: what is said is for one output only, and there are more.
    """
    count = base.shape[1]
    if said is not None:
        check_outputs(said, count)
        return said
    if seen.last in _SOFTMAX | _SIGMOID:
        return "probability" if count == 1 else "probabilities"
    if count == 1:
        return "logit"
    known = seen.last in _SCORES or not looks_like_probabilities(base)
    return "logits" if known else "probabilities"
