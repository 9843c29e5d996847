"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
    # Of a long name the beginning, so that this one is no longer than the file system takes.
    temporary = path.with_name(f".{path.stem[:50]}.{secrets.token_hex(4)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)  # fails now rather than after the work of the body
    except OSError as error:
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
