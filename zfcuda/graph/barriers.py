"""What makes a call global: why no cone leads past it, in words.

Nothing is proven here. What cones may pass is decided by rules; this gives what they may not pass
the name that the field has for it.
"""

from __future__ import annotations

import torch

from zfcuda.graph.nodes import Graph, Node, Value, values_in
from zfcuda.graph.pixelwise import Linear
from zfcuda.graph.rules import Affine, Binary, Concat, Opaque, Pixelwise, Pointwise, Shape

_ATTENTION = ("scaled_dot_product", "multi_head_attention", "transformer_encoder_layer")
_PRODUCTS = ("bmm", "mm", "matmul", "baddbmm")
_STATISTICS = {
    "native_group_norm": "group norm", "linalg_vector_norm": "norm over the maps",
    "mean": "mean over the maps", "sum": "sum over the maps", "var": "variance over the maps",
    "std": "variance over the maps", "var_mean": "variance over the maps",
    "amax": "maximum over the maps", "amin": "minimum over the maps",
}  # fmt: skip
_ALONG_AN_AXIS = {
    "_fft_r2c": "Fourier transform", "_fft_c2c": "Fourier transform",
    "sort": "sorting", "topk": "sorting", "kthvalue": "sorting", "median": "sorting",
    "cumsum": "running sum", "cumprod": "running product",
    "cummax": "running maximum", "cummin": "running minimum",
}  # fmt: skip
# What moves, joins or changes tokens without one seeing all others. Anything else ends the search.
_ON_THE_WAY = (
    "view", "permute", "transpose", "expand", "unsqueeze", "squeeze", "slice", "select", "split",
    "split_with_sizes", "unbind", "cat", "stack", "roll", "constant_pad_nd", "index", "repeat",
    "native_layer_norm", "native_batch_norm", "_to_copy", "detach", "flip", "im2col", "unfold",
    "chunk", "narrow", "t", "convolution",
)  # fmt: skip
_NEAR = 40  # calls


def nature(graph: Graph, barrier: Node) -> str:
    """Why everything past this call depends on every pixel: "attention", "group norm",
    "squeeze-and-excitation" (a gate made of whole maps), "mean over the maps" and the like; empty
    where nothing is known that is global by nature.

    Args:
        barrier: a call without a cone whose inputs have one. If it only lays maps out as tokens,
            the first call behind it that has one token see all others is what is named; if it works
            on what is left of whole maps, the call that brings that back to maps.
    """
    past = {barrier.index}
    maps = graph.nodes[barrier.inputs[0]].shape or ()
    for node in graph.nodes[barrier.index :]:
        given = {v.index for v in values_in((node.args, node.kwargs))}
        if node is barrier or past & given:
            if found := _name(graph, node, maps):
                return found
            alone = node.target in _ON_THE_WAY or _token_by_token(node)
            if len(past) > _NEAR or (
                not alone and (_has_positions(maps) or _has_positions(node.shape or ()))
            ):
                return ""
            past.add(node.index)
    return ""


def _name(graph: Graph, node: Node, maps: tuple[int, ...]) -> str:
    values = [v for v in values_in((node.args, node.kwargs)) if _of_image(graph, v)]
    if node.target in _STATISTICS:
        return _STATISTICS[node.target] if _leaves_positions(node, values[0]) else ""
    fused = any(name in node.target for name in _ATTENTION)
    if fused or node.target in ("_softmax", "softmax"):
        return "attention"
    if node.target in _ALONG_AN_AXIS:
        return _ALONG_AN_AXIS[node.target] if _along_positions(node, values[0], maps) else ""
    if node.target == "native_layer_norm" and tuple(node.args[1])[-2:] == maps[1:]:
        return "layer norm over the maps"
    if node.target == "native_batch_norm" and isinstance(node.rule, Opaque) and node.args[5]:
        return "instance norm"
    if node.target == "grid_sampler_2d":
        return "sampling where a grid says"
    if "rnn" in node.target or "lstm" in node.target:
        return "recurrence"
    if node.target in _PRODUCTS and len({v.index for v in values}) > 1:
        return "attention"
    if node.target in _PRODUCTS or isinstance(node.function, Linear):
        over = _goes_over_positions(values[0], maps)
        return "linear layer over positions" if over else ""
    gate = any(len(v.shape) > 2 and v.shape[-2:] == (1, 1) for v in values)
    return "squeeze-and-excitation" if gate and len(values) > 1 else ""


def _of_image(graph: Graph, value: Value) -> bool:
    return not isinstance(graph.nodes[value.index].rule, Shape)


def _leaves_positions(node: Node, value: Value) -> bool:
    """Whether a statistic, or a norm that takes one, goes over rows and columns."""
    if node.target == "native_group_norm":
        return True
    return not node.shape or node.shape[-2:] != value.shape[-2:]


def _has_positions(shape: tuple[int, ...]) -> bool:
    """Whether there are rows and columns, and not one number or vector of a whole map."""
    return len(shape) > 2 and shape[-2:] != (1, 1)


def _token_by_token(node: Node) -> bool:
    alone = torch.Tag.pointwise in getattr(node.function, "tags", ())
    alone |= isinstance(node.rule, Affine | Binary | Concat | Pixelwise | Pointwise)
    alone |= isinstance(node.function, Linear)
    return alone or node.target in (*_STATISTICS, *_PRODUCTS)


def _goes_over_positions(given: Value, maps: tuple[int, ...]) -> bool:
    """Whether a linear layer on this value takes as many numbers as the maps have pixels, rather
    than channels."""
    return len(maps) == 3 and given.shape[-1:] == (maps[1] * maps[2],) != maps[:1]


def _along_positions(node: Node, given: Value, maps: tuple[int, ...]) -> bool:
    """Whether a call along an axis of this value goes from pixel to pixel rather than from channel
    to channel."""
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", -1)
    if node.target in ("topk", "kthvalue"):
        dims = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", -1)
    if len(maps) != 3:
        return False
    axes = [dims] if isinstance(dims, int) else dims
    sizes = {given.shape[dim - 1 if dim > 0 else dim] for dim in axes if dim}
    return bool(sizes & {maps[1], maps[2], maps[1] * maps[2]} - {maps[0]})
