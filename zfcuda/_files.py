"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


_CHECKSUM = "checksum"  # the entry of a JSON file that tells of all others
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
    were killed. Nobody else may be writing there."""
    for path in Path(folder).rglob(".*"):
        if _TEMPORARY.fullmatch(path.name) and path.is_file():
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
    _write(path, save(plain, dict(metadata or {})))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """`content`, with its checksum, as a JSON file that appears whole or not at all."""
    sealed = {**content, _CHECKSUM: checksum(content)}
    _write(path, json.dumps(sealed, indent=1, allow_nan=False).encode())


def _write(path: Path, content: bytes) -> None:
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
