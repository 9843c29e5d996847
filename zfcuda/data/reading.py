"""Pictures out of files, safely: of the formats in a short list and of IDX files, or one sentence
that names the file.

Pillow goes by a file's first bytes, whatever its name, and knows formats that start other programs
(an EPS file starts Ghostscript). So only those that photographs and figures come in are decoded.
"""

from __future__ import annotations

import gzip
import importlib.util
import math
import os
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor


def _readable(format: str) -> bool:
    """Whether the running Pillow was built with this format's library; the rest is always there."""
    if format == "JPEG2000":
        return hasattr(Image.core, "jpeg2k_decoder")
    return format not in ("AVIF", "WEBP") or bool(
        importlib.util.find_spec(f"PIL._{format.lower()}")
    )


# The suffixes of files by Pillow's names of formats; those it loads at once come first.
_SUFFIXES = {
    "BMP": ".bmp",
    "GIF": ".gif",
    "JPEG": ".jfif .jpeg .jpg",
    "PPM": ".pgm .ppm",
    "PNG": ".png",
    "TIFF": ".tif .tiff",
    "WEBP": ".webp",
    "JPEG2000": ".jp2",
    "AVIF": ".avif",
}
FORMATS = tuple(filter(_readable, _SUFFIXES))  # what is decoded, whatever a file is called
IMAGE_SUFFIXES = frozenset(suffix for format in FORMATS for suffix in _SUFFIXES[format].split())

_WHITE = (255, 255, 255, 255)

Converted = TypeVar("Converted")


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """The image files directly in `folder`, by suffix (`IMAGE_SUFFIXES`), sorted by name.

    Hidden files are left out; an empty list means that there are none.

    Raises:
        ValueError: `folder` does not exist or is not a folder.
    """
    return images_and_others(Path(folder))[0]


def images_and_others(folder: Path) -> tuple[list[Path], list[Path]]:
    """What `list_images` gives of `folder`, and the other files directly in it that are not
    hidden."""
    require_folder(folder, "of images")
    files = sorted(
        path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file()
    )
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    return images, [path for path in files if path.suffix.lower() not in IMAGE_SUFFIXES]


def require_folder(folder: Path, expected: str) -> None:
    """Raise ValueError unless there is this folder, which is to be one ``expected``."""
    if not folder.is_dir():
        state = "is a file" if folder.exists() else "does not exist"
        raise ValueError(f"'{folder}' {state}: expected a folder {expected}")


def tell_left_out(files: Sequence[Path]) -> None:
    """Warn that `files` are not among a data set's images, in one sentence with an example."""
    if files:
        kinds = ", ".join(sorted(IMAGE_SUFFIXES))
        warnings.warn(
            f"left out as no images, by their names: {len(files):,} file{'s'[: len(files) > 1]}, "
            f"as '{files[0]}' (images are {kinds})",
            stacklevel=3,
        )


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """The picture in `path`, upright (EXIF orientation applied), as 8-bit RGB (see `to_rgb`).

    Of an animation or a multi-page file the first frame is read.

    Raises:
        ValueError: the file is missing, a folder, not an image, truncated or otherwise broken, of
            a mode that has no one meaning as RGB, of another format than `FORMATS`, or has more
            pixels than `PIL.Image.MAX_IMAGE_PIXELS` (89,478,485 unless changed).
    """
    return _convert(path, to_rgb)


def read_alpha(path: str | os.PathLike[str]) -> Image.Image | None:
    """The opacity of the picture in `path` as an upright 8-bit "L" image, or None if it has none.

    Raises:
        ValueError: as `read_image`.
    """
    return _convert(path, lambda image: _rgba(image).getchannel("A") if _has_alpha(image) else None)


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """The picture in a file as Pillow has it, of one of the `FORMATS` only; closed on leaving.

    Raises:
        PIL.UnidentifiedImageError: it is of no such format.
        PIL.Image.DecompressionBombWarning: it has more pixels than `PIL.Image.MAX_IMAGE_PIXELS`
            (`PIL.Image.DecompressionBombError`: than twice as many).
        OSError, SyntaxError, ...: whatever decoders raise on bad bytes.
    """
    with warnings.catch_warnings():
        # Pillow only warns up to twice its limit; a job over a folder must not eat the memory.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=FORMATS) as image:
            yield image


def to_rgb(image: Image.Image) -> Image.Image:
    """`image` as 8-bit RGB.

    - transparency (an alpha channel or a transparent colour) is composited on white;
    - 16-bit grey is scaled (65535 is white); Pillow's own conversion would clip it at 255;
    - floating-point grey must lie in 0..1;
    - palettes, grey, 1-bit, YCbCr, HSV and CMYK follow Pillow, without colour profiles.

    Raises:
        ValueError: grey values outside the ranges above, or a mode that Pillow cannot convert.
    """
    if image.mode == "RGB" and not _has_alpha(image):
        return image
    if _is_wide_grey(image):
        return _from_wide_grey(image).convert("RGB")
    if _has_alpha(image):
        image = _rgba(image)
        return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image).convert("RGB")
    return image.convert("RGB")


def _is_wide_grey(image: Image.Image) -> bool:
    return image.mode in ("F", "I") or image.mode.startswith("I;16")


def _has_alpha(image: Image.Image) -> bool:
    if _is_wide_grey(image):  # Pillow offers no transparent colour here: opaque
        return False
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def _rgba(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # premultiplied; Pillow converts it to LA only
        image = image.convert("LA")
    return image.convert("RGBA")


def _from_wide_grey(image: Image.Image) -> Image.Image:
    grey = np.asarray(image, dtype=np.float64)
    top = 1.0 if image.mode == "F" else 65535.0
    # Written so that NaN fails as well.
    if not (grey.min() >= 0 and grey.max() <= top):
        raise ValueError(
            f"grey values from {grey.min():g} to {grey.max():g} in mode {image.mode}: "
            f"expected 0 to {top:g}"
        )
    return Image.fromarray(np.rint(grey * (255 / top)).astype(np.uint8))


def _convert(
    path: str | os.PathLike[str], convert: Callable[[Image.Image], Converted]
) -> Converted:
    """`convert(upright image)`, with whatever goes wrong told as one ValueError."""
    path = Path(path)
    if not path.exists() or path.is_dir():
        state = "is a folder" if path.exists() else "does not exist"
        raise ValueError(f"'{path}' {state}: expected an image file")
    try:
        with opened(path) as image:
            image.load()
            return convert(ImageOps.exif_transpose(image))
    except Image.UnidentifiedImageError:
        raise ValueError(
            f"'{path}' is not an image of a format that is read here ({', '.join(FORMATS)})"
        ) from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ValueError(
            f"'{path}' is too large to be read safely: it has more than "
            f"{Image.MAX_IMAGE_PIXELS:,} pixels (PIL.Image.MAX_IMAGE_PIXELS)"
        ) from None
    except Exception as error:
        # Decoders raise OSError, SyntaxError, ValueError, struct.error, EOFError, ... on bad bytes.
        raise ValueError(f"'{path}' cannot be read as an image: {error}") from error


# --- IDX files ------------------------------------------------------------------------------------

# IDX files (the MNIST family's format): arrays of bytes behind a header with their shape.
_BYTES = 8  # the header's code for uint8, the only kind of number these data sets use
_MAX_DIMENSIONS = 8
_MAX_BYTES = 1 << 32  # of one file unpacked
_PIECE = 1 << 20
_DEFLATED = 1032  # bytes that one of a .gz can stand for at most
_TORCHVISION = Path("FashionMNIST/raw")  # where torchvision puts Fashion-MNIST's in its root


def idx_folder(folder: str | os.PathLike[str]) -> Path | None:
    """Where `folder` has its IDX files: in itself, or where torchvision leaves Fashion-MNIST's;
    None if it has none."""
    for place in (Path(folder), Path(folder) / _TORCHVISION):
        if any(place.glob("*-ubyte")) or any(place.glob("*-ubyte.gz")):
            return place
    return None


def find_idx(folder: str | os.PathLike[str], name: str) -> Path | None:
    """The file `name` or `name`.gz in `folder`, plain first; None if there is neither."""
    for path in (Path(folder) / name, Path(folder) / f"{name}.gz"):
        if path.is_file():
            return path
    return None


def read_idx(path: str | os.PathLike[str]) -> Tensor:
    """The array in an IDX file, plain or gzipped (by its first bytes, not its name), as uint8.

    Source: the format's description on the MNIST page: two zero bytes, a code for the kind of
    number, the number of dimensions, each length as a big-endian int32, then the values.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an IDX file of bytes, broken compression, or more or fewer bytes than the
            header promises.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"IDX file '{path}' does not exist")
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            shape = _shape(path, file)
            promised = math.prod(shape)
            size = path.stat().st_size
            if promised > size * (_DEFLATED if packed else 1):
                raise ValueError(
                    f"'{path}' is damaged: its header promises {_said(shape)}, which its {size:,} "
                    "bytes cannot hold"
                )
            content = _at_most(file, promised + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"'{path}' is damaged: {error}") from error
    if len(content) != promised:
        follow = f"{len(content):,} follow" if len(content) < promised else "more follow"
        raise ValueError(f"'{path}' is damaged: its header promises {_said(shape)}, {follow}")
    if not content:
        return torch.empty(shape, dtype=torch.uint8)
    return torch.frombuffer(content, dtype=torch.uint8).reshape(shape)


def _shape(path: Path, file: BinaryIO) -> list[int]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise ValueError(f"'{path}' is not an IDX file: it does not begin with two zero bytes")
    kind, dimensions = magic[2], magic[3]
    lengths = file.read(4 * dimensions)
    if kind != _BYTES or not 1 <= dimensions <= _MAX_DIMENSIONS or len(lengths) < 4 * dimensions:
        raise ValueError(
            f"'{path}' is an IDX file of kind {kind:#04x} with {dimensions} dimensions: expected "
            f"bytes (kind {_BYTES:#04x}) with 1 to {_MAX_DIMENSIONS} dimensions"
        )
    shape = [int.from_bytes(lengths[at : at + 4], "big") for at in range(0, len(lengths), 4)]
    if math.prod(max(length, 1) for length in shape) > _MAX_BYTES:
        raise ValueError(
            f"'{path}' is damaged: its header promises {_said(shape)}; no IDX data set has more "
            f"than {_MAX_BYTES:,}"
        )
    return shape


def _said(shape: list[int]) -> str:
    return f"{'x'.join(map(str, shape))} = {math.prod(shape):,} values"


def _at_most(file: BinaryIO, length: int) -> bytearray:
    """At most so many bytes, piece by piece: memory is taken for what is there, not for what a
    header promises, and a small .gz that unpacks to any length is not unpacked further."""
    content = bytearray()
    while piece := file.read(min(_PIECE, length - len(content))):
        content += piece
    return content
