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
from zfcuda.compat.onnx.layers import Function
from zfcuda.compat.onnx.made import Made, needed
from zfcuda.compat.onnx.network import OnnxNetwork
from zfcuda.compat.onnx.nodes import needed_nodes, pads_explicitly, require_known, taken, version_of
from zfcuda.compat.onnx.operators import OPERATORS
from zfcuda.compat.onnx.reading import DTYPES, OnnxFile, tensor

__all__ = ["converted"]

_LARGEST = 2**31  # numbers of one image
_LARGEST_CONSTANT = 2**28
# What is made of a file's weights, times its bytes: int8 read as float64, and transposed once more.
_UNFOLDED = 16
_SPARE = 2**26  # bytes, for files of a few nodes
_TO_MAPS = [0, 3, 1, 2]
_CHANNELS = (1, 3)  # of pictures


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
        # Images [N,H,W,C], as TensorFlow has them; the network takes [N,C,H,W] as others do.
        wanted = needed_nodes(file.graph.node, [self.output])
        taking = [node for node in wanted if source.name in taken(node)]
        self._transposed = bool(taking) and all(
            _to_maps(node) and self.output not in node.output for node in taking
        )
        later = _looks_channels_last(source) and any(map(_to_maps, wanted))
        channels_last = self._transposed or later
        self.images, self.image_shape, dtype = _image(source, size, channels_last)
        self._bytes = 0  # of constants and weights that were made
        self._most = _UNFOLDED * (file.size + sum(file.beside.taken.values())) + _SPARE
        self._files = {value.untyped_storage().data_ptr() for value in file.weights.values()}
        self.values: dict[str, Operand] = {
            name: Operand(name, value.shape, value.dtype, value)
            for name, value in file.weights.items()
        }
        shape = torch.Size((BATCH, *self.image_shape))
        self.made: list[Made] = []
        if channels_last and not self._transposed:
            self.image = f"{source.name} as maps"
            back = Function(torch.permute, (0, 2, 3, 1))
            node = onnx.helper.make_node("Transpose", [self.image], [source.name], "channels_last")
            self.made.append(Made(node, back, (self.image,), (source.name,)))
            shape = torch.Size(shape[i] for i in (0, 2, 3, 1))
        self.values[source.name] = Operand(source.name, shape, dtype)
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
        if self._transposed and self.image in node.input:
            self.values[node.output[0]] = self.values[self.image]
            return None
        version = version_of(node, self._file.opset)
        given = tuple(self._value(node, name) if name else None for name in node.input)
        call = Call(node, version, given, self.images)
        if node.op_type in constants.MAKERS:
            maker, _ = constants.MAKERS[node.op_type]
            return self._keep(node.output[0], _asked(call, lambda: maker(call, self._file.beside)))
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
            self._require_room(sum(meta.nbytes for meta in metas), call.label)
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
        own = (*layer.module.parameters(), *layer.module.buffers())
        made = [v for v in own if v.untyped_storage().data_ptr() not in self._files]
        self._bytes += sum(value.nbytes for value in made)
        self._require_room(0, call.label)
        names = tuple(operand.name for operand in operands)
        self.made.append(Made(node, layer.module, names, outputs))
        return None

    def _value(self, node: onnx.NodeProto, name: str) -> Operand:
        if name not in self.values:
            raise ValueError(
                f"node {label(node)} ({node.op_type}) takes {name!r}, which no node makes"
            )
        return self.values[name]

    def _require_room(self, more: int, place: str) -> None:
        """A file of a few bytes must not become gigabytes of constants, one node after another."""
        if self._bytes + more > self._most:
            raise ValueError(
                f"its constants, up to that of node {place}, take more than {self._most:,} bytes; "
                f"the file has {self._file.size:,}"
            )

    def _keep(self, name: str, constant: Tensor) -> None:
        self._bytes += constant.nbytes
        self._require_room(0, repr(name))
        self.values[name] = Operand(name, constant.shape, constant.dtype, constant)

    def _branch(self, call: Call) -> None:
        """Take one branch of an If that does not depend on the images."""
        call.input(0)
        chosen = _asked(call, lambda: call.constant(0).item())
        branch = call.attribute("then_branch" if chosen else "else_branch")
        for stored in branch.initializer:
            self._keep(stored.name, tensor(stored, self._file.beside))
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


def _to_maps(node: onnx.NodeProto) -> bool:
    """Whether the node makes [N,C,H,W] of [N,H,W,C]."""
    orders = [list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"]
    return node.op_type == "Transpose" and orders == [_TO_MAPS]


def _looks_channels_last(source: onnx.ValueInfoProto) -> bool:
    lengths = [dim.dim_value for dim in source.type.tensor_type.shape.dim]
    return len(lengths) == 4 and lengths[3] in _CHANNELS and lengths[1] not in _CHANNELS


def _image(
    source: onnx.ValueInfoProto, size: tuple[int, int], channels_last: bool
) -> tuple[int | None, tuple[int, int, int], torch.dtype]:
    """For how many images the file was made (None: any number), their shape [C,H,W] and dtype."""
    kind = source.type.tensor_type
    dtype = DTYPES.get(kind.elem_type)
    lengths = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
    shown = ", ".join("?" if length is None else str(length) for length in lengths)
    if dtype is None or not dtype.is_floating_point or len(lengths) != 4:
        raise ValueError(
            f"its input {source.name!r} is {dtype} [{shown}]: expected images [N,C,H,W] of real "
            "numbers"
        )
    images, channels, height, width = (
        lengths[i] for i in (_TO_MAPS if channels_last else range(4))
    )
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
