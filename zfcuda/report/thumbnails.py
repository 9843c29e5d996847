"""Pictures in the page, small, with a link to the large ones."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from zfcuda.data.reading import opened
from zfcuda.report.texts import Link, link_to

__all__ = ["Picture", "picture_of"]

# A thumbnail is as large as it is shown at most, twice over for fine screens.
_SMALL, _NARROW, _WIDE = 600, 960, 1680
_WIDE_FROM = 2.5  # width over height, from which on a figure takes a whole row
_QUALITY = 80


@dataclass(frozen=True)
class Picture:
    """A thumbnail and what it leads to."""

    full: Link
    thumbnail: str  # a data URI, or "" where the picture cannot be read
    width: int
    height: int

    @property
    def wide(self) -> bool:
        return self.width >= _WIDE_FROM * self.height


def picture_of(path: Path, folder: Path, small: bool) -> Picture:
    """The thumbnail of a file, ``small`` where many stand together; a link where it cannot be
    read."""
    link = link_to(path, folder)
    try:
        with opened(path) as image:
            width, height = image.size
            limit = _WIDE if width >= _WIDE_FROM * height else _NARROW
            limit = _SMALL if small else limit
            return Picture(link, _data_uri(image, limit), width, height)
    except Exception:  # decoders raise all kinds on bad bytes
        return Picture(link, "", 1, 1)


def _data_uri(image: Image.Image, limit: int) -> str:
    small = image.convert("RGB")
    small.thumbnail((limit, limit), Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=_QUALITY, method=2)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
