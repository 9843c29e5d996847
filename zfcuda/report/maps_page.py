"""A page of every projected map of a run over a data set: what excites it most, layer by layer.

Each map has a sheet: its strongest activations projected, and beside them the images there (paper
figure 2). Sheets are files of their own that a browser fetches when they come into view, so that
thousands of maps stay usable. A filter by layer and map is the only script; without it everything
is shown.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zfcuda.data.preprocessing import Preprocessing
from zfcuda.figures.maxima import displayed, sheet
from zfcuda.figures.style import display_images, display_signal
from zfcuda.report.page import link_to, template, webp
from zfcuda.results.stored import KIND, Layer, StoredActivations
from zfcuda.storage.files import read_csv, write_bytes

_TOGETHER = 16  # maps that are read at a time
_QUALITY = 85
_NO_DATA = "#c8c8c8"

_Display = Callable[[Any], np.ndarray]


def stored_folders(folder: str | os.PathLike[str]) -> list[Path]:
    """The folders in ``folder``, itself included, with the results of complete runs."""
    found = []
    for path in sorted(Path(folder).rglob("manifest.json")):
        try:
            StoredActivations.open(path.parent)
        except (OSError, ValueError):  # of something else, or not done
            continue
        found.append(path.parent)
    return found


def write_maps_page(
    folder: str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    title: str | None = None,
) -> tuple[Path, int]:
    """Write the page of a run's results and its sheets; returns its path and how many maps it
    shows.

    Sheets lie in ``sheets/`` in the folder; those that are there are not made again.

    Args:
        folder: as :func:`zfcuda.record_activations` wrote it.
        path: of the page; default: ``maps.html`` in the folder.
        title: default: the model's and the images' names.

    Raises:
        ValueError: no results of a complete run.
        ModuleNotFoundError: Jinja2 (the "demo" extra) is not installed.
        OSError: the page cannot be written.
    """
    page_template = template("maps.html")
    stored = StoredActivations.open(folder)
    page = stored.folder / "maps.html" if path is None else Path(path)
    names = _names(stored)
    sections = [
        _section(stored, index, name, names, page.parent)
        for index, name in enumerate(stored.layers)
    ]
    count = sum(len(section["maps"]) for section in sections)
    about = stored.manifest.get("about") or {}
    content = page_template.render(
        title=title or _title(stored),
        sections=sections,
        count=count,
        images=stored.count,
        of=about.get("images") or "",
        k=stored.k,
        skipped=len(stored.skipped),
        files=[
            link_to(file, page.parent).href
            for file in (stored.index, stored.folder / "manifest.json")
        ],
    )
    write_bytes(page, content.encode())
    return page, count


def _title(stored: StoredActivations) -> str:
    provenance = (stored.manifest.get("about") or {}).get("provenance") or {}
    model = re.sub(r"[^:?]*/", "", str(provenance.get("model", "")))
    return f"{model}: {KIND}" if model else KIND.capitalize()


def _names(stored: StoredActivations) -> dict[int, str]:
    try:
        return {int(row["image"]): str(row["name"]) for row in read_csv(stored.index)}
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ValueError(f"'{stored.index}' is damaged: {error!r}") from error


def _section(
    stored: StoredActivations, index: int, name: str, names: Mapping[int, str], base: Path
) -> dict[str, Any]:
    layer, about = stored.layer(name), stored.about(name)
    sheets = stored.folder / "sheets" / Path(about["file"]).stem
    maps = []
    for channel, file in _sheets(stored, layer, sheets):
        with Image.open(file, formats=["WEBP"]) as picture:
            width, height = picture.size
        values, images = layer.values[channel].tolist(), layer.images[channel].tolist()
        rows = [
            (names.get(image) or f"image {image}", f"{value:.4g}")
            for image, value in zip(images, values, strict=True)
            if image >= 0
        ]
        span = f"{rows[0][1]} – {rows[-1][1]}" if rows else "nothing"
        href = link_to(file, base).href
        maps.append({"number": channel, "sheet": href, "width": width, "height": height,
                     "span": span, "rows": rows})  # fmt: skip
    return {"name": name, "anchor": f"layer-{index}", "maps": maps, "about": about}


def _sheets(stored: StoredActivations, layer: Layer, folder: Path) -> Iterator[tuple[int, Path]]:
    """Each projected map and the file of its sheet, made where it is missing."""
    signals, pictures = _displays(stored)
    channels = layer.channels.tolist()
    for start in range(0, len(channels), _TOGETHER):
        some = slice(start, start + _TOGETHER)
        paths = [folder / f"{channel:05d}.webp" for channel in channels[some]]
        if not all(path.is_file() for path in paths):
            projections, patches = layer.pictures(some)
            shown = displayed(projections, signals), displayed(patches, pictures)
            for path, channel, own, seen in zip(paths, channels[some], *shown, strict=True):
                _draw(path, own, seen, (layer.images[channel] >= 0).tolist())
        yield from zip(channels[some], paths, strict=True)


def _displays(stored: StoredActivations) -> tuple[_Display, _Display]:
    said = (stored.manifest.get("about") or {}).get("preprocessing")
    if isinstance(said, dict):
        try:
            expects = Preprocessing(
                **{k: tuple(v) if isinstance(v, list) else v for k, v in said.items()}
            )
        except (TypeError, ValueError) as error:
            manifest = stored.folder / "manifest.json"
            raise ValueError(f"'{manifest}' is damaged: preprocessing: {error}") from error
        return expects.signal_to_display, expects.to_display
    return display_signal, display_images


def _draw(path: Path, signals: np.ndarray, seen: np.ndarray, there: Sequence[bool]) -> None:
    whole = sheet(signals, seen, there, int(np.ceil(np.sqrt(len(there)))), _NO_DATA, gap=2)
    picture = Image.fromarray((whole.clip(0, 1) * 255).round().astype(np.uint8))
    write_bytes(path, webp(picture, _QUALITY))
