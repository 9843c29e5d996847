"""`zfcuda layers`: list a model's layers: shapes, receptive fields, strides.

Lists the layers of a model in the order in which they run: kind, shape of the output, and, computed
from the model's own graph, what a unit sees: the extent of its receptive field, the step from one
unit's field to the next, and the centre of the first, in pixels of the input (down × right). Where
a unit has no such field, the reason stands below the table. A layer that is called several times is
shown at its last call, as all experiments look at it.

examples:
  zfcuda layers
  zfcuda layers --model torchvision:vgg16 --weights vgg16.safetensors
  zfcuda layers --model "mynet:build?size=64" --json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zfcuda.cli import arguments

if TYPE_CHECKING:
    from zfcuda.cli.network import Network
    from zfcuda.cones.receptive import ReceptiveField

    Row = tuple[str, str, tuple[int, ...], int]  # name, kind, shape with the batch, calls
    Fields = dict[str, ReceptiveField | str]


def add_options(parser: argparse.ArgumentParser) -> None:
    arguments.add(parser, *arguments.MODEL, "device")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(options: argparse.Namespace) -> None:
    from zfcuda.cli.network import Network
    from zfcuda.cones.receptive import receptive_fields
    from zfcuda.storage.terminal import say

    network = Network.of(options)
    rows = network.layers()
    x = network.blank()
    fields = receptive_fields(network.model, x, [name for name, *_ in rows])
    if options.json:
        say(*json.dumps(_content(network, x.shape, rows, fields), indent=1).splitlines())
    else:
        say(*_table(rows, fields))


def _content(network: Network, shape: Any, rows: Sequence[Row], fields: Fields) -> dict[str, Any]:
    layers = []
    for name, kind, output, calls in rows:
        about = {"name": name, "kind": kind, "calls": calls, "shape": list(output[1:])}
        field, reason = fields[name], None
        if isinstance(field, str):
            field, reason = None, field
        else:
            keys = ("size", "stride", "start", "centre")
            field = {key: list(getattr(field, key)) for key in keys}
        layers.append({**about, "receptive_field": field, "reason": reason})
    about = {"model": network.spec, "weights_sha256": network.weights_digest}
    return {**about, "input": list(shape[1:]), "layers": layers}


def _table(rows: Sequence[Row], fields: Fields) -> list[str]:
    from zfcuda.storage.files import text_table

    lines = []
    for name, kind, shape, calls in rows:
        field, output = fields[name], "×".join(map(str, shape[1:]))
        seen = ("–", "–", "–")
        if not isinstance(field, str):
            seen = (_pair(field.size), _pair(field.stride), _pair(field.centre))
        kind += f" (call {calls} of {calls})" if calls > 1 else ""
        lines.append((name, kind, output, *seen))
    headers = ("layer", "kind", "output", "field", "stride", "first centre")
    table = text_table(lines, headers, colalign=("left",) * 3 + ("right",) * 3)
    return [*table.splitlines(), *_notes(rows, fields)]


def _notes(rows: Sequence[Row], fields: Fields) -> list[str]:
    without: dict[str, list[str]] = {}
    for name, *_ in rows:
        if isinstance(fields[name], str):
            without.setdefault(fields[name], []).append(name)
    lines = []
    for reason, names in without.items():
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        lines.append(f"{'all layers' if len(names) == len(rows) else shown}: {reason}")
    return ["", *lines] if lines else []


def _pair(numbers: tuple[float, float]) -> str:
    down, right = (f"{number:g}" for number in numbers)
    return down if down == right else f"{down}×{right}"
