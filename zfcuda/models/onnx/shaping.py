"""What ONNX's operators on shapes and places are in torch.

Where a value depends on the images, its first length is theirs and must stay so; among constants
(shapes are computed with, filters transposed) every axis may change.
"""

from __future__ import annotations

import math
import operator
from itertools import takewhile

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zfcuda.models.onnx.call import BATCH, Call, Layer, Table
from zfcuda.models.onnx.layers import Concat, Function, Reshape, Slice
from zfcuda.models.onnx.reading import tensor
from zfcuda.models.onnx.windows import LARGEST

SHAPING = Table()


@SHAPING.add("Flatten", 25)
def _flatten(call: Call) -> Layer:
    rank = len(call.shape)
    axis = call.attribute("axis", 1)
    axis = rank if axis == rank else call.axis(axis, images=True)
    if axis == 0 or any(length != 1 for length in call.shape[1:axis]):
        raise call.error(f"axis {axis} mixes the images of a batch")
    return Layer(nn.Flatten(1))


@SHAPING.add("Reshape", 25)
def _reshape(call: Call) -> Layer:
    target = call.integers(1, "shape")
    if target is None:
        raise call.error("its shape is missing")
    if call.attribute("allowzero", 0) and 0 in target:
        raise call.error(f"to the shape {target} without any elements")
    if call.of_constant:
        return Layer(Reshape(tuple(target), 0))
    images, *rest = target or [None]
    have = call.shape[1:]
    wanted = [have[i] if n == 0 and i < len(have) else n for i, n in enumerate(rest)]
    apart = images in (0, BATCH) or images == call.images or (images == -1 and -1 not in rest)
    if not apart or (-1 not in rest and math.prod(wanted) != have.numel()):
        raise call.error(f"to the shape {target} mixes the images of a batch")
    if wanted in ([-1], [have.numel()]):
        return Layer(nn.Flatten(1))
    # Rows and columns that stay what they are, whatever that is, let a channel shuffle be seen.
    alike = map(operator.eq, reversed(wanted), reversed(have))
    kept = len([*takewhile(bool, alike)])
    return Layer(Reshape((0, *rest[: len(rest) - kept]), kept))


@SHAPING.add("Squeeze", 25)
def _squeeze(call: Call) -> Layer:
    short = [axis for axis, length in enumerate(call.shape) if length == 1]
    axes = [call.axis(axis) for axis in call.integers(1, "axes", short)]
    if not {*axes} <= {*short}:
        raise call.error(f"axes {axes} of {len(call.shape)} are not all of length 1")
    return Layer(Function(torch.squeeze, tuple(axes)))


@SHAPING.add("Unsqueeze", 25)
def _unsqueeze(call: Call) -> Layer:
    axes = call.integers(1, "axes", [])
    rank = len(call.shape) + len(axes)
    axes = sorted(call.axis(axis, rank) for axis in axes)
    if len(axes) == 1:
        return Layer(Function(torch.unsqueeze, axes[0]))
    return Layer(nn.Sequential(*(Function(torch.unsqueeze, axis) for axis in axes)))


@SHAPING.add("Transpose", 25)
def _transpose(call: Call) -> Layer:
    rank = len(call.shape)
    order = call.attribute("perm", list(reversed(range(rank))))
    if sorted(order) != list(range(rank)) or (order[:1] != [0] and not call.of_constant):
        raise call.error(f"perm is {order}: expected the images to stay in front (axis 0)")
    return Layer(Function(torch.permute, tuple(order)))


@SHAPING.add("Concat", 13)
def _concat(call: Call) -> Layer:
    given = [call.input(i) for i in range(len(call.inputs))]
    fixed = {operand.constant is not None for operand in given}
    if len(fixed) != 1:
        raise call.error("joins constants of the file with what depends on the images")
    axis = call.axis(call.attribute("axis", 1))
    return Layer(Concat(axis), tuple(range(len(given))))


@SHAPING.add("Split", 18)
def _split(call: Call) -> Layer:
    axis = call.axis(call.attribute("axis", 0))
    length, parts = call.shape[axis], len(call.node.output)
    each = -(-length // parts)
    sizes = call.integers(1, "split", [min(each, length - each * i) for i in range(parts)])
    if sum(sizes) != length or min(sizes) < 0 or len(sizes) != parts:
        raise call.error(f"of {length} into {parts} parts: {sizes}")
    if len(sizes) == 1:
        return Layer(nn.Identity())
    return Layer(Function(torch.split, sizes, axis))


@SHAPING.add("Slice", 13)
def _slice(call: Call) -> Layer:
    starts, ends = call.integers(1, "starts"), call.integers(2, "ends")
    if starts is None or ends is None:
        raise call.error("where it starts or ends is missing")
    axes = call.integers(3, "axes", range(len(starts)))
    steps = call.integers(4, "steps", [1] * len(starts))
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise call.error(f"from {starts} to {ends} along {list(axes)} in steps of {steps}")
    if 0 in steps or (min(steps, default=1) < 0 and not call.of_constant):
        raise call.error(f"in steps of {steps}: expected positive ones")
    cuts = [slice(None)] * len(call.shape)
    for axis, *cut in zip(axes, starts, ends, steps, strict=True):
        cuts[call.axis(axis)] = slice(*cut)
    if min(steps, default=1) > 0:
        return Layer(Slice(tuple(cuts)))
    places = (range(length)[cut] for length, cut in zip(call.shape, cuts, strict=True))
    picks = (
        Function(torch.index_select, axis, constant=torch.tensor(place, dtype=torch.int64))
        for axis, place in enumerate(places)
    )
    return Layer(nn.Sequential(*picks))


@SHAPING.add("Gather", 13)
def _gather(call: Call) -> Layer:
    axis = call.axis(call.attribute("axis", 0))
    length = call.shape[axis]
    call.input(1)
    places = call.constant(1)
    if places.dim() > 1 or ((places < -length) | (places >= length)).any():
        raise call.error(f"of {length} at {places.tolist()}")
    places = places % length
    if places.dim() == 0:
        return Layer(Function(torch.select, axis, places.item()))
    return Layer(Function(torch.index_select, axis, constant=places))


@SHAPING.add("Pad", 25)
def _pad(call: Call) -> Layer:
    pads, mode, value = padding(call)
    if mode not in ("constant", "reflect", "edge"):
        raise call.error(f"mode is {mode!r}: expected constant, reflect or edge")
    rank = len(call.shape)
    sides = list(zip(pads[:rank], pads[rank:], strict=True))
    maps_only = rank == 4 and sides[1] == (0, 0)
    if max(map(abs, pads), default=0) > LARGEST or sides[0] != (0, 0):
        raise call.error(f"pads are {pads}: expected none of the images (axis 0)")
    innermost_first = [pad for side in reversed(sides[1:]) for pad in side]
    if mode == "constant" and not maps_only:
        return Layer(Function(F.pad, innermost_first, value=value))
    if not maps_only:
        raise call.error(f"pads are {pads}: expected to pad the last two axes of maps [N,C,H,W]")
    around = tuple(innermost_first[:4])
    if mode == "constant":
        return Layer(nn.ConstantPad2d(around, value) if value else nn.ZeroPad2d(around))
    return Layer((nn.ReflectionPad2d if mode == "reflect" else nn.ReplicationPad2d)(around))


def padding(call: Call) -> tuple[list[int], str, float]:
    """What a Pad node does: how much, for every axis before and then for every axis behind; in
    which mode; and with which number."""
    rank = len(call.shape)
    pads = call.integers(1, "pads")
    axes = call.integers(3, "", range(rank))
    if pads is None or len(pads) != 2 * len(axes) or len(axes) > rank:
        raise call.error(f"pads are {pads}: expected two for each of {rank} axes")
    every = [0] * (2 * rank)
    for place, axis in enumerate(axes):
        axis = call.axis(axis, rank, images=True)
        every[axis], every[rank + axis] = pads[place], pads[len(axes) + place]
    return every, call.attribute("mode", "constant"), call.number(2, "value", 0.0)


_REDUCTIONS = {"ReduceMean": torch.mean, "ReduceSum": torch.sum, "ReduceMax": torch.amax}


@SHAPING.add("ReduceMean", 18)
@SHAPING.add("ReduceSum", 13)
@SHAPING.add("ReduceMax", 20)
def _reduce(call: Call) -> Layer:
    axes = call.integers(1, "axes")
    if not axes and call.attribute("noop_with_empty_axes", 0):
        return Layer(nn.Identity())
    axes = sorted(call.axis(axis) for axis in axes or range(len(call.shape)))
    keeps = bool(call.attribute("keepdims", 1))
    return Layer(Function(_REDUCTIONS[call.node.op_type], axes, keeps))


_LARGEST = 2**20


@SHAPING.add("Constant", 25)
def _constant(call: Call) -> Tensor:
    stored = call.attribute("value")
    if stored is not None:
        return tensor(stored, call.beside)
    for kind, dtype in (("float", torch.float32), ("int", torch.int64)):
        for name in (f"value_{kind}", f"value_{kind}s"):
            if (value := call.attribute(name)) is not None:
                return torch.tensor(value, dtype=dtype)
    raise call.error("holds no numbers")


@SHAPING.add("Shape", 25)
def _shape(call: Call) -> Tensor:
    shape = call.shape[call.attribute("start", 0) : call.attribute("end")]
    return torch.tensor(shape, dtype=torch.int64)


@SHAPING.add("ConstantOfShape", 25)
def _constant_of_shape(call: Call) -> Tensor:
    call.input(0)
    shape = call.integers(0, "")
    if min(shape, default=0) < 0 or math.prod(shape) > _LARGEST or BATCH in shape:
        raise call.error(f"of the shape {shape}")
    stored = call.attribute("value")
    value = torch.zeros(1) if stored is None else tensor(stored, call.beside)
    if value.numel() != 1:
        raise call.error(f"value has {value.numel()} numbers: expected one")
    return value.reshape(()).expand(shape).clone()
