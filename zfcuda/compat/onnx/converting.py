"""From the graph of an ONNX file to a network: node by node, in the file's order.

Every layer is tried out as it is made, on tensors without memory that stand for ``BATCH`` images:
that tells the shapes, which later nodes may need, finds what does not fit before anything is
computed, and shows whether images stay apart. What depends on no image (shapes, weights that are
transposed first) is computed here and now.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import onnx
import torch
from torch import Tensor, nn

from zfcuda.compat.onnx import constants, shaping
from zfcuda.compat.onnx.assembling import assemble, without_softmax
from zfcuda.compat.onnx.call import BATCH, Call, Layer, Operand, label
from zfcuda.compat.onnx.contrast import with_contrast_normalisation
from zfcuda.compat.onnx.made import Made, needed
from zfcuda.compat.onnx.network import OnnxNetwork
from zfcuda.compat.onnx.nodes import needed_nodes, pads_explicitly, require_known, taken, version_of
from zfcuda.compat.onnx.operators import OPERATORS
from zfcuda.compat.onnx.reading import DTYPES, OnnxFile, tensor

__all__ = ["converted"]

_LARGEST = 2**31  # numbers of one image
_LARGEST_CONSTANT = 2**28


def converted(file: OnnxFile, logits: bool, size: tuple[int, int]) -> OnnxNetwork:
    """The network of a file.

    Args:
        logits: leave out a final softmax, and flatten an answer [N,K,1,1].
        size: of the images, where the file leaves it open.

    Raises:
        ValueError: see :func:`zfcuda.compat.onnx.load`.
    """
    conversion = _Conversion(file, size)
    answer = conversion.values[conversion.output]
    output = answer.name
    made = needed(conversion.made, output)
    if not made:
        raise ValueError(f"its output {conversion.output!r} does not depend on the image")
    made = with_contrast_normalisation(made, output, conversion.values)
    network = OnnxNetwork(conversion.image_shape)
    if logits:
        made, output, network.left_out = without_softmax(made, output)
        if len(answer.shape) == 4 and answer.shape[2:] == (1, 1):
            flatten = onnx.helper.make_node("Flatten", [output], ["logits"], "logits")
            made, output = [*made, Made(flatten, nn.Flatten(1), (output,), ("",))], ""
    assemble(network, made, conversion.image, output)
    return network


class _Conversion:
    """The layers of a file's graph.

    Attributes:
        image: name of the input.
        image_shape: [C,H,W].
        output: name of the output.
        values: by name.
        made: the layers, in order.
    """

    def __init__(self, file: OnnxFile, size: tuple[int, int]) -> None:
        self._file = file
        source = _only([v for v in file.graph.input if v.name not in file.weights], "input")
        self.image, self.output = source.name, _only(file.graph.output, "output").name
        self.images, self.image_shape, dtype = _image(source, size)
        self.values: dict[str, Operand] = {
            name: Operand(name, value.shape, value.dtype, value)
            for name, value in file.weights.items()
        }
        shape = torch.Size((BATCH, *self.image_shape))
        self.values[self.image] = Operand(self.image, shape, dtype)
        self.made: list[Made] = []
        self._takers: dict[str, list[onnx.NodeProto]] = {}
        self._run(file.graph.node, [self.output])

    def _run(self, nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> None:
        """Convert those of the nodes on which the outputs depend."""
        wanted = needed_nodes(nodes, outputs)
        require_known(wanted)
        for node in wanted:
            for name in taken(node):
                self._takers.setdefault(name, []).append(node)
        for node in wanted:
            self._convert(node)

    def _convert(self, node: onnx.NodeProto) -> None:
        version = version_of(node, self._file.opset)
        given = tuple(self._value(node, name) if name else None for name in node.input)
        call = Call(node, version, given, self.images)
        if node.op_type in constants.MAKERS:
            maker, _ = constants.MAKERS[node.op_type]
            return self._keep(node.output[0], _asked(call, lambda: maker(call, self._file.folder)))
        if node.op_type == "If":
            return self._branch(call)
        if self._is_padding_of_convolutions(call):
            return None
        layer = _asked(call, lambda: OPERATORS[node.op_type].layer(call))
        operands = [call.input(index) for index in layer.takes]
        metas = _asked(call, lambda: _tried(layer, operands))
        outputs = tuple(node.output)[: len(metas)]
        if all(operand.constant is not None for operand in operands):
            if sum(meta.numel() for meta in metas) > _LARGEST_CONSTANT:
                raise call.error("makes a constant of too many numbers")
            results = _asked(call, lambda: _computed(layer, operands))
            for name, result in zip(outputs, results, strict=True):
                self._keep(name, result)
            return None
        for name, meta in zip(outputs, metas, strict=True):
            if not meta.dim() or meta.shape[0] != BATCH:
                raise call.error("it mixes the images of a batch")
            if meta.numel() // BATCH > _LARGEST:
                raise call.error(f"makes {meta.numel() // BATCH:,} numbers of one image")
            self.values[name] = Operand(name, meta.shape, meta.dtype)
        names = tuple(operand.name for operand in operands)
        self.made.append(Made(node, layer.module, names, outputs))
        return None

    def _value(self, node: onnx.NodeProto, name: str) -> Operand:
        if name not in self.values:
            raise ValueError(
                f"node {label(node)} ({node.op_type}) takes {name!r}, which no node makes"
            )
        return self.values[name]

    def _keep(self, name: str, constant: Tensor) -> None:
        self.values[name] = Operand(name, constant.shape, constant.dtype, constant)

    def _branch(self, call: Call) -> None:
        """Take one branch of an If that does not depend on the images."""
        call.input(0)
        chosen = _asked(call, lambda: call.constant(0).item())
        branch = call.attribute("then_branch" if chosen else "else_branch")
        for stored in branch.initializer:
            self._keep(stored.name, tensor(stored, self._file.folder))
        inner = [value.name for value in branch.output]
        self._run(branch.node, inner)
        for name, value in zip(call.node.output, inner, strict=True):
            self.values[name] = self.values[value]

    def _is_padding_of_convolutions(self, call: Call) -> bool:
        """Whether the node pads with zeros what only convolutions take; they then do it."""
        if call.node.op_type != "Pad" or call.input(0).constant is not None:
            return False
        pads, mode, value = _asked(call, lambda: shaping.padding(call))
        output = call.node.output[0]
        takers = self._takers.get(output, [])
        rank = len(call.input(0).shape)
        fits = rank == 4 and [*pads[:2], *pads[4:6]] == [0] * 4 and min(pads) >= 0
        fits = fits and mode == "constant" and value == 0 and output != self.output
        if not fits or not all(pads_explicitly(node, output) for node in takers):
            return False
        own = call.input(0)
        more = (pads[2], pads[3], pads[6], pads[7])
        both = tuple(a + b for a, b in zip(own.padding, more, strict=True))
        self.values[output] = replace(own, padding=both)
        return True


def _only(values: Sequence[onnx.ValueInfoProto], what: str) -> onnx.ValueInfoProto:
    if len(values) != 1:
        names = ", ".join(repr(value.name) for value in values) or "none"
        raise ValueError(f"expected one {what}, it has {len(values)}: {names}")
    return values[0]


def _image(
    source: onnx.ValueInfoProto, size: tuple[int, int]
) -> tuple[int | None, tuple[int, int, int], torch.dtype]:
    """For how many images the file was made (None: any number), their shape and dtype."""
    kind = source.type.tensor_type
    dtype = DTYPES.get(kind.elem_type)
    lengths = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
    shown = ", ".join("?" if length is None else str(length) for length in lengths)
    if dtype is None or not dtype.is_floating_point or len(lengths) != 4:
        raise ValueError(
            f"its input {source.name!r} is {dtype} [{shown}]: expected images [N,C,H,W] of real "
            "numbers"
        )
    images, channels, height, width = lengths
    height, width = (given or open_ for given, open_ in zip((height, width), size, strict=True))
    if channels is None or not all(0 < n < 2**16 for n in (channels, height, width)):
        raise ValueError(
            f"its input {source.name!r} is [{shown}]: expected a number of channels, and sizes "
            f"below {2**16:,}"
        )
    return images or None, (channels, height, width), dtype


_Answer = TypeVar("_Answer")


def _asked(call: Call, question: Callable[[], _Answer]) -> _Answer:
    """An answer; whatever goes wrong names the node."""
    try:
        return question()
    except ValueError:
        raise
    except Exception as error:  # attributes of other types, shapes that do not fit
        reason = str(error).strip().split("\n")[0]
        raise call.error(reason or type(error).__name__) from error


def _tried(layer: Layer, operands: Sequence[Operand]) -> tuple[Tensor, ...]:
    """What the layer makes, without numbers."""
    metas = (torch.empty(o.shape, dtype=o.dtype, device="meta") for o in operands)
    named = (*layer.module.named_parameters(), *layer.module.named_buffers())
    weights = {name: value.to("meta") for name, value in named}
    with torch.no_grad():
        return _several(torch.func.functional_call(layer.module.eval(), weights, tuple(metas)))


def _computed(layer: Layer, operands: Sequence[Operand]) -> tuple[Tensor, ...]:
    """What the layer makes of constants."""
    with torch.no_grad():
        return _several(layer.module(*(operand.constant for operand in operands)))


def _several(result: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)
