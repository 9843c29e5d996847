"""Files that a reader never sees half of: whole ones, JSON, tables, tensors larger than the memory;
and the texts in them.

Torch is imported by what needs it only: the command line starts without.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_CHECKSUM = "checksum"  # the entry of a JSON file that tells of all others
LOCK = ".lock"  # in the folder of a run, of its own
_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{8}(\.[^.]*)?")


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on leaving, it becomes ``path`` in one step.

    Missing folders are made. The temporary name keeps ``path``'s suffix, since writers (matplotlib,
    NumPy) choose the format by it. If the body raises, nothing is left behind and an older
    ``path`` stays.

    Raises:
        OSError: the folder cannot be made or written, the disk is full, or ``path`` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, f"cannot write '{path}' (it is a folder)")
    made = absent(path.parent)
    # Of a long name the beginning, so that this one is no longer than the file system takes.
    temporary = path.with_name(f".{path.stem[:50]}.{secrets.token_hex(4)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)  # fails now rather than after the work of the body
    except OSError as error:
        remove_empty(made)
        raise type(error)(
            error.errno, f"cannot write into the folder {path.parent} ({error.strerror})"
        ) from error
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        # A full disk names no file, a failed replacement the temporary one as well.
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise type(error)(error.errno, f"cannot write '{path}' ({error.strerror})") from error
    finally:
        temporary.unlink(missing_ok=True)
        remove_empty(made)


def absent(folder: Path) -> list[Path]:
    """`folder` and those above it, as far as they are not there: what ``mkdir(parents=True)`` would
    make, the innermost first."""
    missing = []
    for one in (folder, *folder.parents):
        if one.exists() or one.is_symlink():
            break
        missing.append(one)
    return missing


def remove_empty(folders: Sequence[Path]) -> None:
    """Remove these, of :func:`absent`, as far as nothing is in them: a failure leaves no trace."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:  # it is in use, or was never made
            break


def remove_unused(folder: Path, names: Sequence[str], made: Sequence[Path]) -> None:
    """Remove the files with these names, which a run begins with, if the folder holds no others;
    and the folders that were ``made`` for it."""
    if folder.is_dir() and {path.name for path in folder.iterdir()} <= {*names}:
        for name in filter(None, names):
            (folder / name).unlink(missing_ok=True)
        remove_empty(made)


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Delete what :func:`atomic_path` left in a folder, or in the folders in it, of processes that
    were killed. Nobody else may be writing there, but in folders with a lock of their own."""
    for path in Path(folder).rglob(".*"):
        another = path.parent != Path(folder) and (path.parent / LOCK).exists()
        if _TEMPORARY.fullmatch(path.name) and path.is_file() and not another:
            path.unlink(missing_ok=True)


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Named tensors as a safetensors file that appears whole or not at all; those that share memory
    (a layer that bears two names) are written each."""
    import torch
    from safetensors.torch import save

    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    write_bytes(path, save(plain, dict(metadata or {})))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """`content`, with its checksum, as a JSON file that appears whole or not at all."""
    sealed = {**content, _CHECKSUM: checksum(content)}
    write_bytes(path, json.dumps(sealed, indent=1, allow_nan=False).encode())


def write_bytes(path: Path, content: bytes) -> None:
    """A file that appears whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, without its checksum.

    Raises:
        ValueError: there is none, or it is not what was written. (Files of 0.1.0, and other
            programs', have no checksum.)
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # the latter of lists in lists in lists
        raise ValueError(f"'{path}' is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"'{path}' holds a {type(content).__name__}: expected an object")
    said = content.pop(_CHECKSUM, None)
    if said is not None and said != checksum(content):
        raise ValueError(f"'{path}' is damaged: it is not what was written")
    return content


def checksum(content: Any) -> str:
    """The SHA-256 of what a JSON file says, in whatever order and layout."""
    plain = json.loads(json.dumps(content))  # keys as texts, before they are sorted
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def inside(folder: Path, name: object) -> Path:
    """The file that a file of others names, in `folder` or in a folder in it.

    Raises:
        ValueError: it is no name, or lies elsewhere: an absolute path, "..", a link out of there.
    """
    if isinstance(name, str) and name and "\0" not in name:
        path = folder / name
        if path.resolve().is_relative_to(folder.resolve()) and ".." not in Path(name).parts:
            return path
    raise ValueError(f"{name!r} is not the name of a file in '{folder}'")


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# What moves a terminal's cursor or colours it, ends a line, or turns the order of what is read
# around: C0 and C1, DEL, Unicode's line ends and its marks of direction.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def class_name(names: Sequence[str] | None, label: int, count: int | None = None) -> str:
    """The name of the class that output `label` of `count` stands for, or "class 7" where no name
    is known. A single output stands for the second of two classes; without names it is ""."""
    if count == 1:
        return str(names[-1]) if names and len(names) <= 2 else ""
    if names is None or not 0 <= label < len(names):
        return f"class {label}"
    return str(names[label])


def visible(text: object) -> str:
    r"""`text` on one line that shows every control character as its escape, "\x1b" or "\n"."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))


def short_spec(spec: str) -> str:
    """A model's spec without the folders of its files."""
    return re.sub(r"[^:?]*/", "", spec)


def subject(spec: str, layers: object = None, channel: object = None) -> str:
    """A model, the layers and the map that were looked at, as titles name them; of more than three
    layers the first and the last."""
    names = [layers] if isinstance(layers, str) else [*layers] if isinstance(layers, list) else []
    names = [str(name) for name in names]
    shown = names if len(names) <= 3 else [f"{names[0]} to {names[-1]}"]
    more = [f"map {channel}"] if isinstance(channel, int) else []
    return ", ".join([short_spec(spec), *shown, *more])


def printable(text: object) -> str:
    """`text` with its lines as they are, other control characters as escapes, and a question mark
    for what is no character: a file's name may hold any bytes, and Python keeps those that are no
    UTF-8 as lone surrogates, which nothing can write."""
    lines = str(text).encode("utf-8", "replace").decode("utf-8").split("\n")
    return "\n".join(map(visible, lines))


_ALIGNED = 64  # bytes, for vector loads from the mapped file


@contextmanager
def tensor_file(
    path: str | os.PathLike[str],
    shapes: Mapping[str, tuple[torch.dtype, Sequence[int]]],
    metadata: Mapping[str, str],
) -> Iterator[dict[str, Tensor]]:
    """The tensors of a new file, zero at first; on leaving, the file appears in one step.

    Args:
        shapes: by name the dtype (float32, float64 or int64) and the shape.
        metadata: texts that the header carries.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    import numpy as np
    import torch

    names = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    places, size = {}, 0
    # The wide ones first, so that each lies where its values are aligned.
    for name, (dtype, shape) in sorted(shapes.items(), key=lambda item: -item[1][0].itemsize):
        end = size + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": names[dtype], "shape": [*shape], "data_offsets": [size, end]}
        places[name], size = (size, end), end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNED)
    start = 8 + len(text)
    with atomic_path(path) as temporary:
        with temporary.open("r+b") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            if size:
                # Reserved now: a mapped file that outgrows its disk ends the process by a signal.
                os.posix_fallocate(file.fileno(), 0, start + size)
        whole = np.memmap(temporary, np.uint8, "r+")
        bytes_of = torch.from_numpy(whole)
        tensors = {}
        for name, (dtype, shape) in shapes.items():
            begin, end = (start + place for place in places[name])
            flat = bytes_of[begin:end].view(dtype) if end > begin else torch.empty(0, dtype=dtype)
            tensors[name] = flat.view(*shape)
        yield tensors
        whole.flush()


# With the apostrophes before it: so the one that is added can be told from a name's own.
_FORMULA = re.compile("'*[=+@-]")


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table with a line of names, as RFC 4180 has it; the file appears whole or not at all.

    Numbers stay numbers. Names of files are written byte for byte also where they are no UTF-8.

    Raises:
        OSError: the folder cannot be written.
    """
    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(map(_cell, head))
        writer.writerows(map(_cell, row) for row in rows)


def read_csv(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a table that :func:`write_csv` wrote, by its line of names.

    Raises:
        OSError: there is no such file.
    """
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        for row in csv.DictReader(file):
            yield {_text(name): _text(cell) for name, cell in row.items() if isinstance(cell, str)}


def text_table(
    rows: Sequence[Sequence[object]] | Sequence[Mapping[str, object]],
    headers: Sequence[str] = (),
    tablefmt: str = "simple",
    colalign: Sequence[str] | None = None,
) -> str:
    """A table as text, a line each row; ``rows`` of mappings bring their headers, and ``tablefmt``
    is one of tabulate's."""
    from tabulate import tabulate

    if rows and isinstance(rows[0], Mapping):
        headers = [*rows[0]]
        rows = [[*row.values()] for row in rows]  # type: ignore[union-attr]
    cells = [[visible(cell) for cell in row] for row in rows]
    options: dict[str, Any] = {"colalign": colalign} if colalign and cells else {}
    return tabulate(cells, [*map(visible, headers)], tablefmt, disable_numparse=True, **options)


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if _FORMULA.match(text) else text


def _text(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
