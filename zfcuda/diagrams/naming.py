"""What a call of the model is called, on the way up and on the way down."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from zfcuda.cones.observing import Manner
from zfcuda.graph.nodes import Node
from zfcuda.graph.rules import (
    Affine,
    AvgPool,
    Binary,
    Concat,
    Conv,
    Identity,
    Lrn,
    MaxPool,
    Opaque,
    Pair,
    Pixelwise,
    Pointwise,
)

__all__ = ["Naming", "module_name", "naming"]

_MANNER = Manner()
_SPOKEN = {
    "relu": "ReLU",
    "relu6": "ReLU6",
    "leaky_relu": "leaky ReLU",
    "prelu": "PReLU",
    "rrelu": "RReLU",
    "gelu": "GELU",
    "silu": "SiLU",
}
_WRITTEN = {"iadd": "add", "isub": "sub", "imul": "mul", "itruediv": "div", "truediv": "div"}
_RECTIFIERS = {
    "relu": "ReLU",
    "relu_": "ReLU",
    "relu6": "ReLU6",
    "leakyrelu": "leaky ReLU",
    "prelu": "PReLU",
    "rrelu": "RReLU",
}
# Calls without a rule of their own, by the name of their function or class.
_SHAPED = "flatten view reshape unflatten squeeze unsqueeze permute transpose contiguous"
_AVERAGED = "adaptive_avg_pool2d adaptiveavgpool2d avg_pool2d mean"


@dataclass(frozen=True)
class Naming:
    """What a call does, and what the deconvnet does in its place; see :class:`Step`."""

    kind: str
    detail: str
    back: str
    back_detail: str


_BATCH_NORM = Naming("batch normalisation", "per channel", "scaling", "by the same scale")


def module_name(node: Node) -> str:
    """The module that is called; where none is, the call."""
    if node.call.op == "call_module":
        return str(node.call.target)
    return node.layers[0] if node.layers else _function_name(node)


def naming(node: Node) -> Naming:
    """What this call does."""
    rule = node.rule
    match rule:
        case Conv():
            filters = f"{len(rule.weight)} filters {_product(rule.weight.shape[1:])}"
            groups = f", {rule.groups} groups" if rule.groups > 1 else ""
            return Naming(
                "convolution",
                f"{filters}{_window(rule)}{groups}",
                "transposed convolution",
                "the same filters, no bias",
            )
        case Pointwise() if _MANNER.rectifies(rule):
            name = _SPOKEN.get(rule.name, rule.name)
            return Naming("rectification", name, "rectification", "of the signal")
        case MaxPool():
            kind = "rectified max-pooling" if rule.relu else "max-pooling"
            size = f"{_product(rule.kernel)} windows{_window(rule)}"
            also = ", then rectified" if rule.relu else ""
            return Naming(kind, size, "max-unpooling", f"by the switches{also}")
        case AvgPool():
            size = f"{_product(rule.kernel)} windows{_window(rule)}"
            return Naming("average pooling", size, "spreading", "evenly over each window")
        case Lrn():
            across = f"across {rule.size} maps"
            return Naming("contrast normalisation", across, "passing on", "the signal as it is")
        case Affine() if isinstance(node.function, nn.modules.batchnorm._BatchNorm):
            return _BATCH_NORM
        case Affine():
            return Naming("scale and shift", "per channel", "scaling", "by the same scale")
        case Concat():
            return Naming("concatenation", "of maps", "splitting", "each branch its maps")
        case Binary() if rule.name in ("add", "sub"):
            kind = "sum" if rule.name == "add" else "difference"
            weighted = abs(rule.weight) != 1
            times = f", to the second times {rule.weight:g}" if weighted else ""
            return Naming(kind, "element by element", "copying", f"the signal to both{times}")
        case Identity():
            return Naming("identity", "passes on what it gets", "identity", "")
        case Binary() | Pointwise() | Pixelwise() | Opaque():
            return _by_function(node)
    return _by_gradient(_function_name(node))


def _by_function(node: Node) -> Naming:
    name = _function_name(node)
    if isinstance(node.function, nn.modules.batchnorm._BatchNorm):
        return _BATCH_NORM
    if name.lower() in _RECTIFIERS:  # of vectors
        return Naming("rectification", _RECTIFIERS[name.lower()], "rectification", "of the signal")
    if name.lower() == "linear":
        return Naming("linear", _fully(node), "transposed linear", "the same weights, no bias")
    if name.lower() in _SHAPED.split():
        return Naming("reshape", name, "reshape", "back")
    if name.lower() in _AVERAGED.split():
        return Naming("average pooling", "over the whole map", "spreading", "evenly")
    return _by_gradient(_SPOKEN.get(getattr(node.rule, "name", ""), name))


def _by_gradient(name: str) -> Naming:
    return Naming(name, "", f"gradient of {name}", "at the forward point")


def _fully(node: Node) -> str:
    weight = getattr(node.function, "weight", None)
    return "fully connected" if weight is None else f"{_product(weight.shape)} weights"


def _function_name(node: Node) -> str:
    if isinstance(node.function, nn.Module):
        return type(node.function).__name__
    target = node.call.target
    if node.call.op == "call_module" or not target:  # one in place, of which only the rule is left
        return getattr(node.rule, "name", node.name)
    name = target if isinstance(target, str) else getattr(target, "__name__", node.name)
    return _WRITTEN.get(name, name)


def _product(sizes: object) -> str:
    return "×".join(str(int(size)) for size in sizes)


def _window(rule: Conv | MaxPool | AvgPool) -> str:
    """Stride, padding and dilation, where they are not the usual ones."""
    parts = (
        ("stride", rule.stride, (1, 1)),
        ("pad", rule.padding, (0, 0)),
        ("dilation", getattr(rule, "dilation", (1, 1)), (1, 1)),
    )
    return "".join(f", {name} {_short(got)}" for name, got, usual in parts if got != usual)


def _short(pair: Pair) -> str:
    return str(pair[0]) if pair[0] == pair[1] else _product(pair)
