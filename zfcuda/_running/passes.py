"""Forward passes without gradient: images as they are, and variants of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from zfcuda._running.batches import spans
from zfcuda._running.layers import feature_maps, layer_outputs, require_called
from zfcuda._running.recording import to_result
from zfcuda.interception.kernels import fast_forward
from zfcuda.interception.mode import Interception, Operations
from zfcuda.results.scores import Outputs, check_outputs, looks_like_probabilities

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
