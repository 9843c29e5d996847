"""What several calls together are: contrast normalisation, and rectification by a mask."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zfcuda.graph.fixed import repeated
from zfcuda.graph.nodes import Node, Sized, Value
from zfcuda.graph.pixelwise import Chain
from zfcuda.graph.reading import Reading, affine_of
from zfcuda.graph.rules import Lrn


def torchs_contrast(nodes: Sequence[Node], args: Sequence[Any], custom: str) -> Lrn | None:
    """The contrast normalisation of which a division is the last call, as
    ``torch.nn.functional.local_response_norm`` writes it: of the maps by a power of the means of
    their squares over neighbouring channels; ``custom`` as :class:`Node` has it."""
    x, below = args[:2]
    if not isinstance(x, Value) or not isinstance(below, Value):
        return None
    up: list[Node] = [nodes[below.index]]
    while up[-1].index > x.index and len(up) < len(_CONTRAST):
        inputs = [v for v in (*up[-1].args, *up[-1].inputs) if isinstance(v, Value | int)]
        source = inputs[0].index if inputs and isinstance(inputs[0], Value) else None
        if source is None:
            return None
        up.append(nodes[source])
    if [node.target for node in up] != _CONTRAST or any(node.custom != custom for node in up):
        return None
    power, shifted, scaled, _, mean, padded, _, squared = up
    size = mean.args[1][0]
    square = {v.index for v in squared.args if isinstance(v, Value)} == {x.index}
    window = list(mean.args[1]) == [size, 1, 1] and list(padded.args[1]) == [
        *(0, 0, 0, 0),
        *(size // 2, (size - 1) // 2),
    ]
    k, alpha = shifted.args[1], scaled.args[1]
    beta = getattr(getattr(power.rule, "function", None), "keywords", {}).get("exponent")
    if not square or not window or not all(isinstance(v, int | float) for v in (k, alpha, beta)):
        return None
    return Lrn(size, float(alpha), float(beta), float(k))


def as_torch_does(rule: Lrn) -> Callable[[Tensor], Tensor]:
    """The same normalisation in one call."""
    return functools.partial(
        F.local_response_norm, size=rule.size, alpha=rule.alpha, beta=rule.beta, k=rule.k
    )


def instance_norm(nodes: Sequence[Node], last: Any, result: Value) -> Reading | None:
    """What a view is if it is the last call of an instance norm with running statistics: to torch
    all maps of all images are maps of one, whose statistics are repeated for every image."""
    norm = nodes[last.index] if isinstance(last, Value) else None
    if norm is None or norm.target not in _BATCH_NORMS or norm.function.place != 0:
        return None
    given, *vectors = norm.args[:5]
    *_, eps = norm.args
    below = nodes[given.index]
    x = below.args[0] if below.target == "view" and below.args else None
    if not isinstance(x, Value) or not x.is_map:
        return None
    if (x.sizes, x.dtype) != (result.sizes, result.dtype):
        return None
    channels, height, width = x.shape
    if given.sizes != (1, Sized(0, channels), height, width):
        return None
    own = [v if v is None else repeated(nodes, v, Sized(0, 1)) for v in vectors]
    if any(a is None and b is not None for a, b in zip(own, vectors, strict=True)):
        return None
    weight, bias, mean, variance = own
    if mean is None or variance is None or any(v is not None and len(v) != channels for v in own):
        return None
    function = functools.partial(
        F.batch_norm, running_mean=mean, running_var=variance, weight=weight, bias=bias, eps=eps
    )
    return affine_of(x, weight, bias, mean, variance, eps), (x,), function


_BATCH_NORMS = (
    "native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm",
    "_native_batch_norm_legit_no_training",
)  # fmt: skip
_CONTRAST = [
    "pow", "add", "mul", "squeeze", "avg_pool3d", "constant_pad_nd", "view", "mul",
]  # fmt: skip


# --- rectification --------------------------------------------------------------------------------

_COMPARED = ("gt", "ge", "lt", "le")
_STEPS = (*_COMPARED, "ne", "eq", "sign", "heaviside")


def looks_at_signs(chain: Chain) -> bool:
    """Whether numbers decide there by being above or below others."""
    return any(call.target in _STEPS for call in chain.calls)


def rectifies(chain: Chain) -> bool:
    """Whether a function of each number by itself hands positive ones on and makes zero of others.

    Where every call in it is one of those below, the function is linear on each side of zero, so
    that two numbers there, and zero itself, tell all of it.
    """
    kinds: dict[int, str] = {chain.source.index: "source"}
    for call in chain.calls:
        kind = _kind(call, kinds)
        if kind is None:
            return False
        kinds[call.index] = kind
    if kinds[chain.calls[-1].index] != "linear":
        return False
    numbers = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], dtype=chain.source.dtype)
    channels = chain.source.shape[0]
    x = numbers.to(chain.source.device).view(1, 1, 1, -1).repeat(1, channels, 1, 1)
    with torch.no_grad():
        return bool((chain.at_once(x) == x.clamp_min(0)).all())


def _kind(call: Node, kinds: dict[int, str]) -> str | None:
    """What a call makes of the numbers: "zero", a "step" (one number on each side of zero) or
    "linear" on each side; None for anything else."""
    given = [_kind_of(a, kinds) for a in (*call.args, *call.kwargs.values())]
    if call.target == "zeros_like":
        return "zero"
    if call.target in ("ones_like", "full_like"):
        return "step"
    if call.target == "index_put":
        return "linear" if given[0] in _LINEAR and given[2] == "zero" else None
    if None in given:
        return None
    match call.target:
        case "neg" if given == ["source"]:  # changes its sign just where the maps do
            return "source"
        case "heaviside":  # its second number is what it gives for zero
            return "step" if given[0] in ("source", "zero") and given[1] in _FLAT else None
        case "gt" | "ge" | "lt" | "le" | "sign":
            return "step" if set(given[:2]) <= {"source", "zero"} else None
        case "maximum" | "minimum" | "fmax" | "fmin" | "clamp" | "clamp_min" | "clamp_max":
            return "linear" if set(given) <= {"source", "zero", "none"} else None
        case "mul":
            return "linear" if sum(k in _LINEAR for k in given) == 1 else _all_steps(given)
        case "where":
            return _sum(given[1:]) if given[0] == "step" else None
        case "masked_fill":
            return "linear" if given[0] in _LINEAR and given[1:] == ["step", "zero"] else None
        case "add" | "sub" | "rsub" | "neg" | "_to_copy" | "logical_not" | "bitwise_not":
            return _sum(given)
    return None


_LINEAR = ("source", "linear")
_FLAT = ("zero", "step")


def _kind_of(argument: Any, kinds: dict[int, str]) -> str | None:
    if isinstance(argument, Value):
        return kinds.get(argument.index)
    if argument is None or isinstance(argument, torch.dtype | bool | str):
        return "none"
    if isinstance(argument, Tensor):
        return "zero" if not argument.any() else ("step" if argument.numel() == 1 else None)
    if isinstance(argument, int | float):
        return "zero" if argument == 0 else "step"
    return "none" if not isinstance(argument, list | tuple) else None


def _sum(given: Sequence[str | None]) -> str:
    return "linear" if any(kind in _LINEAR for kind in given) else "step"


def _all_steps(given: Sequence[str | None]) -> str | None:
    return "step" if not any(kind in _LINEAR for kind in given) else None
