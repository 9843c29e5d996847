"""A folder with the strongest activations of a run over a data set.

::

    manifest.json                settings, model, versions, skipped images, what the files hold
    index.csv                    layer,map,rank,image,name,row,column,value,y0,x0,y1,x1
    layers/00-relu1.safetensors  the tensors of a layer, as in TopActivations
    progress/                    while the run is under way

Each file appears whole or not at all, the manifest's ``complete`` last.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError, safe_open
from torch import Tensor

from zfcuda.results.maxima import TopActivations
from zfcuda.storage.files import digest, inside, read_json, write_csv, write_json
from zfcuda.storage.identity import Precision

KIND, FORMAT = "strongest activations", 1
COLUMNS = (
    *("layer", "map", "rank", "image", "name", "row", "column", "value"),
    *("y0", "x0", "y1", "x1"),
)
_WHOLE = ("values", "images", "positions", "channels", "boxes")  # read as a whole


def file_of(index: int, layer: str) -> str:
    """A layer's file, relative to the folder; its name may hold anything but dots."""
    return f"layers/{index:02d}-{re.sub(r'[^A-Za-z0-9._-]', '_', layer)}.safetensors"


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer's tensors as :class:`zfcuda.TopActivations` describes them; projections and patches
    stay in the file."""

    path: Path
    values: Tensor
    images: Tensor
    positions: Tensor
    channels: Tensor
    boxes: Tensor
    difference: float
    shape: tuple[int, ...]  # of the projections, [M,k,Z,h,w]

    @classmethod
    def read(cls, path: Path) -> Self:
        """All but the pictures.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged.
        """
        try:
            with safe_open(path, "pt") as file:
                difference = float(file.get_tensor("difference"))
                shape = tuple(file.get_slice("projections").get_shape())
                return cls(path, *map(file.get_tensor, _WHOLE), difference, shape)
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(f"'{path}' is damaged: {error}") from error

    def pictures(self, rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Projections and patches [m,k,Z,h,w] of the projected maps ``rows``."""
        with safe_open(self.path, "pt") as file:
            return tuple(file.get_slice(name)[rows] for name in ("projections", "patches"))


@dataclass(frozen=True, eq=False)
class StoredActivations:
    """The strongest activations that :func:`zfcuda.record_activations` wrote.

    Attributes:
        folder: where.
        manifest: the content of manifest.json.
    """

    folder: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, folder: str | os.PathLike[str], verify: bool = False) -> Self:
        """The results in a folder. The manifest and the index are compared with their checksums.

        Args:
            verify: the layers' files, too, which are read from end to end for that.

        Raises:
            FileNotFoundError: there is no manifest.json in it.
            ValueError: it is of something else, of a newer format, of a run that is not done, or
                damaged (says which file, and what to do).
        """
        folder = Path(folder)
        manifest = read_json(folder / "manifest.json")
        if manifest.get("kind") != KIND or manifest.get("format") != FORMAT:
            got = manifest.get("kind"), manifest.get("format")
            raise ValueError(f"'{folder}' holds {got}: expected {KIND!r} of format {FORMAT}")
        if not manifest.get("complete"):
            raise ValueError(f"the run in '{folder}' is not done; start it again to go on with it")
        stored = cls(folder, manifest)
        try:
            stored._read_through()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"'{folder / 'manifest.json'}' is damaged: {error!r}") from error
        sums = {"index.csv": manifest.get("index_sha256")}
        if verify:
            sums |= {about["file"]: about.get("sha256") for about in manifest["layers"]}
        for name, expected in sums.items():
            _require_intact(folder / name, expected)
        return stored

    def _read_through(self) -> None:
        """Whatever is asked of the manifest later, so that it is missed now."""
        for about in self.manifest["layers"]:
            self._file(about)
            _ = int(about["undefined"]), "" + about["name"]
        for skipped in self.skipped:
            _ = int(skipped["image"]), skipped["name"], "" + skipped["problem"]
        _ = self.k, self.count, float(self.manifest["seconds"])
        _height, _width = map(int, self.manifest["image_size"])

    def _file(self, about: Mapping[str, Any]) -> Path:
        return inside(self.folder, about["file"])

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers' names."""
        return tuple(about["name"] for about in self.manifest["layers"])

    @property
    def k(self) -> int:
        """How many activations of each map."""
        return int(self.manifest["settings"]["k"])

    @property
    def precision(self) -> Precision | None:
        """What the network's convolutions and products rounded numbers to; None where an earlier
        version, which did not note it, began the run."""
        settings = self.manifest["settings"]
        if not {"convolutions", "products"} <= {*settings}:
            return None
        return Precision(str(settings["convolutions"]), str(settings["products"]))

    @property
    def count(self) -> int:
        """Number of images that could be read."""
        return int(self.manifest["count"])

    @property
    def skipped(self) -> Sequence[Mapping[str, Any]]:
        """The images that could not be read: "image" (their number), "name", "problem"."""
        return self.manifest["skipped"]

    @property
    def index(self) -> Path:
        """The CSV file with a row for each activation."""
        return self.folder / "index.csv"

    def about(self, layer: str) -> Mapping[str, Any]:
        """What the manifest says of a layer.

        Raises:
            ValueError: there is no such layer.
        """
        for about in self.manifest["layers"]:
            if about["name"] == layer:
                return about
        raise ValueError(f"layer {layer!r}: expected one of {list(self.layers)}")

    def layer(self, layer: str) -> Layer:
        """A layer's tensors."""
        return Layer.read(self._file(self.about(layer)))

    def result(self, layers: Sequence[str] | None = None) -> TopActivations:
        """The same in memory, of all layers or some."""
        names = list(self.layers if layers is None else layers)
        found = {name: self.layer(name) for name in names}
        pictures = {name: one.pictures() for name, one in found.items()}
        about = {name: self.about(name) for name in names}
        return TopActivations(
            layers=tuple(names),
            **{
                field: {name: getattr(one, field) for name, one in found.items()}
                for field in (*_WHOLE, "difference")
            },
            projections={name: both[0] for name, both in pictures.items()},
            patches={name: both[1] for name, both in pictures.items()},
            undefined={name: int(about[name]["undefined"]) for name in names},
            count=self.count,
            image_size=tuple(self.manifest["image_size"]),
            seconds=float(self.manifest["seconds"]),
            precision=self.precision,
        )


def _require_intact(path: Path, expected: str | None) -> None:
    """Raise ValueError unless a file is there and has the sha256 that the manifest says."""
    if not path.is_file():
        raise ValueError(f"'{path}' is missing: start the same run again, which makes it anew")
    if expected not in (None, digest(path)):
        raise ValueError(
            f"'{path}' is damaged: delete it and start the same run again, which makes it anew"
        )


def about_layer(
    path: Path,
    folder: Path,
    name: str,
    maps: int,
    map_size: Sequence[int],
    undefined: int,
    sha256: str | None = None,
) -> dict[str, Any]:
    """What the manifest says of a layer's file, whose ``sha256`` may be known."""
    layer = Layer.read(path)
    window = layer.shape[-2:]
    size = path.stat().st_size
    return {
        "name": name,
        "file": path.relative_to(folder).as_posix(),
        "maps": maps,
        "map_size": list(map_size),
        "projected": len(layer.channels),
        "window": window,
        "undefined": undefined,
        # As strict JSON has it, which knows no infinity.
        "difference": layer.difference if math.isfinite(layer.difference) else None,
        "bytes": size,
        "bytes_per_map": size // max(1, len(layer.channels)),
        "sha256": sha256 or digest(path),
    }


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write manifest.json."""
    write_json(folder / "manifest.json", {"kind": KIND, "format": FORMAT, **content})


def write_index(folder: Path, layers: Mapping[str, Layer], names: Mapping[int, str]) -> None:
    """Write index.csv: a row for each activation, by layer, map and rank (from 1). Its box is
    empty where its map was not projected."""
    rows = (row for name, layer in layers.items() for row in _rows(name, layer, names))
    write_csv(folder / "index.csv", COLUMNS, rows)


def _rows(name: str, layer: Layer, names: Mapping[int, str]) -> Iterator[list[Any]]:
    row_of = {channel: row for row, channel in enumerate(layer.channels.tolist())}
    own = (layer.values, layer.images, layer.positions, layer.boxes)
    values, images, positions, boxes = (one.tolist() for one in own)
    for channel, numbers in enumerate(images):
        for rank, image in enumerate(numbers):
            if image < 0:
                break
            box = boxes[row_of[channel]][rank] if channel in row_of else [""] * 4
            row, column = positions[channel][rank]
            value = values[channel][rank]
            file = names.get(image, "")
            yield [name, channel, rank + 1, image, file, row, column, value, *box]
