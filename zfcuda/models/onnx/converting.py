"""From the graph of an ONNX file to a network: node by node, in the file's order.

Every layer is tried out as it is made, on tensors without memory that stand for ``BATCH`` images:
that tells the shapes, which later nodes may need, finds what does not fit before anything is
computed, and shows whether images stay apart. What depends on no image (shapes, weights that are
transposed first) is computed here and now.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

import onnx
import torch
from torch import Tensor, nn

from zfcuda.models.onnx.call import BATCH, Call, Made, Operand, label, needed
from zfcuda.models.onnx.contrast import with_contrast_normalisation
from zfcuda.models.onnx.elementwise import ELEMENTWISE
from zfcuda.models.onnx.layers import Function, OnnxNetwork
from zfcuda.models.onnx.reading import DTYPES, OnnxFile, first_line, tensor
from zfcuda.models.onnx.shaping import SHAPING, padding
from zfcuda.models.onnx.windows import WINDOWS

OPERATORS = WINDOWS | ELEMENTWISE | SHAPING
# Of every operator the latest version that is known.
_NEWEST = {name: newest for name, (_, newest) in OPERATORS.items()} | {"If": 25}

_SCOPES = "pkg.torch.onnx.name_scopes"  # torch's exporter from 2.5 on

Path = tuple[str, ...]


def layer_names(nodes: Sequence[onnx.NodeProto]) -> list[str]:
    """A name for each node: unique, made of letters, digits, "_" and dots, and such that no name
    goes on where another ends (a layer is no part of another)."""
    places = [_place(node, index) for index, node in enumerate(nodes)]
    paths = [path for path, _ in places]
    if not any(node.name.startswith("/") or _torchs_scopes(node) for node in nodes):
        # What they all begin with says nothing (``gpu_0`` in Caffe2's files).
        while all(len(path) > 1 for path in paths) and len({path[0] for path in paths}) == 1:
            paths = [path[1:] for path in paths]
    clashing = _clashing(paths)
    paths = [
        (*path, operator) if path in clashing else path
        for path, (_, operator) in zip(paths, places, strict=True)
    ]
    paths = _numbered(paths)
    if _clashing(paths):
        paths = _numbered([("_".join(path),) for path in paths])
    return [".".join(path) for path in paths]


def _place(node: onnx.NodeProto, index: int) -> tuple[Path, str]:
    """Where a node comes from, and what it is there."""
    operator = node.op_type.lower()
    name = node.name or node.output[0]
    scopes = _torchs_scopes(node)
    if len(scopes) > 1:
        parts, operator = scopes[-2].split("."), scopes[-1]
    elif name.startswith("/"):
        *scope, operator = [part for part in name.split("/") if part] or [operator]
        # The children of torch's containers repeat the container's name: features/features.0
        own = [part for part, child in pairwise((*scope, "")) if not child.startswith(f"{part}.")]
        parts, operator = ".".join(own).split("."), operator.lower()
    else:
        parts = [f"{operator}_{index}"] if name.isdecimal() else name.split("/")
    operator = _attribute(operator)
    return tuple(_attribute(part) for part in parts if part) or (operator,), operator


def _torchs_scopes(node: onnx.NodeProto) -> list[str]:
    for entry in node.metadata_props:
        if entry.key == _SCOPES and len(entry.value) < 10_000:
            try:
                scopes = ast.literal_eval(entry.value)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                return []
            fine = isinstance(scopes, list) and all(isinstance(s, str) for s in scopes)
            return scopes if fine else []
    return []


def _clashing(paths: Sequence[Path]) -> set[Path]:
    """Paths that are there twice, or with which another begins."""
    starts = {path[:length] for path in set(paths) for length in range(1, len(path))}
    return {path for path, times in Counter(paths).items() if times > 1 or path in starts}


def _numbered(paths: Sequence[Path]) -> list[Path]:
    """With a number behind those that were there before."""
    found: dict[Path, None] = {}
    for path in paths:
        candidate, number = path, 1
        while candidate in found:
            number += 1
            candidate = (*path[:-1], f"{path[-1]}_{number}")
        found[candidate] = None
    return [*found]


def _attribute(part: str) -> str:
    """A part of a name as an attribute of a module."""
    part = re.sub(r"\W", "_", part, flags=re.ASCII)[:100] or "_"
    return f"{part}_" if hasattr(_MODULE, part) else part


_MODULE = OnnxNetwork((0, 0, 0))


def pads_explicitly(node: onnx.NodeProto, padded: str) -> bool:
    """Whether the node is a convolution of the value ``padded`` that says its own padding in
    numbers, to which more can be added."""
    automatic = any(
        a.name == "auto_pad" and a.s not in (b"NOTSET", b"VALID") for a in node.attribute
    )
    return node.op_type == "Conv" and not automatic and [*node.input].index(padded) == 0


def needed_nodes(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes on which the outputs depend, in order."""
    wanted, found = {*outputs}, []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.output):
            wanted.update(taken(node))
            found.append(node)
    return found[::-1]


def taken(node: onnx.NodeProto) -> list[str]:
    """The values that a node takes, also within its branches."""
    names = [*node.input]
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            inner = attribute.g
            names += [value.name for value in inner.output]
            names += [name for inside in inner.node for name in taken(inside)]
    return names


def require_known(nodes: Iterable[onnx.NodeProto]) -> None:
    """Raise a ValueError that names each unknown operator, and the first node that has it."""
    unknown: dict[str, str] = {}
    for node in nodes:
        domain = "" if node.domain in ("", "ai.onnx") else f"{node.domain}."
        operator = f"{domain}{node.op_type}"
        if operator not in _NEWEST:
            unknown.setdefault(operator, label(node))
    if unknown:
        named = ", ".join(f"{operator!r} (node {node})" for operator, node in unknown.items())
        raise ValueError(f"operators that are not known here: {named}")


def version_of(node: onnx.NodeProto, opset: int) -> int:
    """The version of the node's operator, which must be known."""
    version = onnx.defs.get_schema(node.op_type, opset).since_version
    if version > _NEWEST[node.op_type]:
        raise ValueError(
            f"node {label(node)} ({node.op_type}): of opset {version}; known up to "
            f"{_NEWEST[node.op_type]}"
        )
    return version


_ONLY_SHAPES = ("Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze")


def without_softmax(made: list[Made], output: str) -> tuple[list[Made], str, str]:
    """The layers without a softmax after which nothing but shapes changes; the output's name by
    then; what was left out."""
    makers = {name: layer for layer in made for name in layer.outputs}
    name = output
    while name in makers and makers[name].node.op_type in _ONLY_SHAPES:
        name = makers[name].inputs[0]
    last = makers.get(name)
    if last is None or last.node.op_type != "Softmax":
        return made, output, ""
    (before,) = last.inputs
    kept = [
        replace(layer, inputs=tuple(before if n in last.outputs else n for n in layer.inputs))
        for layer in made
        if layer is not last
    ]
    return kept, before if output in last.outputs else output, last.node.name or last.outputs[0]


_LARGEST = 2**31  # numbers of one image
_LARGEST_CONSTANT = 2**28
# What is made of a file's weights, times its bytes: int8 read as float64, and transposed once more.
_UNFOLDED = 16
_SPARE = 2**26  # bytes, for files of a few nodes
_TO_MAPS = [0, 3, 1, 2]
_CHANNELS = (1, 3)  # of pictures


def converted(file: OnnxFile, logits: bool, size: tuple[int, int]) -> OnnxNetwork:
    """The network of a file; arguments and errors are those of :func:`zfcuda.models.onnx.load`."""
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
    names = layer_names([layer.node for layer in made])
    network.follow(dict(zip(names, made, strict=True)), conversion.image, output)
    return network


class _Conversion:
    """The layers of a file's graph (``made``, in order), and its values by name, of which
    ``image`` and ``output`` are the network's own."""

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
            return
        version = version_of(node, self._file.opset)
        given = tuple(self._value(node, name) if name else None for name in node.input)
        call = Call(node, version, given, self.images, self._file.beside)
        try:
            self._enter(call)
        except ValueError:
            raise
        except Exception as error:  # attributes of other types, shapes that do not fit
            raise call.error(first_line(error)) from error

    def _enter(self, call: Call) -> None:
        """What the node becomes: values that are known, or a layer."""
        if call.node.op_type == "If":
            return self._branch(call)
        if self._is_padding_of_convolutions(call):
            return None
        maker, _ = OPERATORS[call.node.op_type]
        layer = maker(call)
        if isinstance(layer, Tensor):
            return self._keep(call.node.output[0], layer)
        module, operands = layer.module, [call.input(index) for index in layer.takes]
        metas = _tried(module, operands)
        outputs = tuple(call.node.output)[: len(metas)]
        if all(operand.constant is not None for operand in operands):
            if sum(meta.numel() for meta in metas) > _LARGEST_CONSTANT:
                raise call.error("makes a constant of too many numbers")
            self._require_room(sum(meta.nbytes for meta in metas), label(call.node))
            with torch.no_grad():
                results = _several(module(*(operand.constant for operand in operands)))
            for name, result in zip(outputs, results, strict=True):
                self._keep(name, result)
            return None
        for name, meta in zip(outputs, metas, strict=True):
            if not meta.dim() or meta.shape[0] != BATCH:
                raise call.error("it mixes the images of a batch")
            if meta.numel() // BATCH > _LARGEST:
                raise call.error(f"makes {meta.numel() // BATCH:,} numbers of one image")
            self.values[name] = Operand(name, meta.shape, meta.dtype)
        own = (*module.parameters(), *module.buffers())
        made = [v for v in own if v.untyped_storage().data_ptr() not in self._files]
        self._bytes += sum(value.nbytes for value in made)
        self._require_room(0, label(call.node))
        self.made.append(Made(call.node, module, tuple(o.name for o in operands), outputs))
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
        branch = call.attribute("then_branch" if call.constant(0).item() else "else_branch")
        for stored in branch.initializer:
            self._keep(stored.name, tensor(stored, self._file.beside))
        inner = [value.name for value in branch.output]
        self._run(branch.node, inner)
        for name, value in zip(call.node.output, inner, strict=True):
            self.values[name] = self.values[value]

    def _is_padding_of_convolutions(self, call: Call) -> bool:
        """Whether the node pads with zeros what only convolutions take; they then do it."""
        if call.node.op_type != "Pad" or call.of_constant:
            return False
        pads, mode, value = padding(call)
        own, output = call.input(0), call.node.output[0]
        fits = len(own.shape) == 4 and [*pads[:2], *pads[4:6]] == [0] * 4 and min(pads) >= 0
        fits = fits and mode == "constant" and value == 0 and output != self.output
        takers = self._takers.get(output, [])
        if not fits or not all(pads_explicitly(node, output) for node in takers):
            return False
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
    order = _TO_MAPS if channels_last else range(4)
    images, channels, height, width = (lengths[i] for i in order)
    height, width = (given or open_ for given, open_ in zip((height, width), size, strict=True))
    if channels is None or not all(0 < n < 2**16 for n in (channels, height, width)):
        raise ValueError(
            f"its input {source.name!r} is [{shown}]: expected a number of channels, and sizes "
            f"below {2**16:,}"
        )
    return images or None, (channels, height, width), dtype


def _tried(module: nn.Module, operands: Sequence[Operand]) -> tuple[Tensor, ...]:
    """What the module makes, without numbers."""
    metas = (torch.empty(o.shape, dtype=o.dtype, device="meta") for o in operands)
    named = (*module.named_parameters(), *module.named_buffers())
    weights = {name: value.to("meta") for name, value in named}
    with torch.no_grad():
        return _several(torch.func.functional_call(module.eval(), weights, tuple(metas)))


def _several(result: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)
