"""A folder for one run at a time: two in one would take each other's unfinished files for waste."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.util import register_after_fork
from pathlib import Path
from typing import TextIO

import torch

from zfcuda._distributed import Shard
from zfcuda._files import absent, remove_unused
from zfcuda._text import visible

__all__ = ["claimed", "require_there"]

_FILE = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # as of some network file systems


@contextmanager
def claimed(folder: Path, shard: Shard, first: str = "") -> Iterator[None]:
    """Keep other runs out of a folder, which is made if it is not there, until all ranks leave.

    A run of one process that fails before anything is done leaves nothing: neither a folder that it
    made, nor ``first``, the file that says what the run is, which would keep the next one out.

    The ranks of one run are one: the first holds the lock for all of them, and all are told when
    another run has it. The lock ends with its process, however that ends.

    Raises:
        ValueError: at every rank, another run is at work there.
        RuntimeError: a rank ended before.
        OSError: the folder cannot be written.
    """
    made = absent(folder)
    begun = (folder / first).is_file()
    lock = _lock(folder) if shard.first else None
    try:
        if shard.share(torch.tensor([float(lock is None)])):
            raise ValueError(
                f"another run is at work in '{folder}': wait until it is done, or name another "
                "folder"
            )
        yield
        shard.wait()
    except BaseException:
        if lock is not None and shard.world == 1 and not begun:
            remove_unused(folder, (first, _FILE), made)
        raise
    finally:
        if lock is not None:
            lock.close()


def require_there(folder: Path) -> None:
    """Raise FileNotFoundError if a folder that this run has claimed is not where it was.

    To be called before files are written there: they would make the folder again, and nobody could
    tell later what they are.
    """
    if not (folder / _FILE).exists():
        raise FileNotFoundError(
            f"'{folder}' was deleted or renamed during the run: start it again; with the folder's "
            "new name to go on with it"
        )


def _lock(folder: Path) -> TextIO | None:
    """The folder's lock as an open file; None if it is held already.

    Warns:
        UserWarning: the file system has no locks.
    """
    import fcntl  # not on every system

    file = _opened(folder)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        warnings.warn(
            f"'{visible(folder)}' cannot be locked ({error.strerror}): take care that no other "
            "run is at work there",
            stacklevel=2,
        )
        return file
    if not _lies_in(folder, file):
        # A run that failed removed it, or its folder, after it was opened here: who comes next
        # would lock another file.
        file.close()
        return _lock(folder)
    return file


def _opened(folder: Path) -> TextIO:
    """The folder's lock file, which is made, as the folder is, if it is not there."""
    # What lies there is neither emptied nor, should it be a link, followed.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            number = os.open(folder / _FILE, flags, 0o666)
            break
        except FileNotFoundError:
            if folder.is_dir():
                raise
    file = open(number, "r+")  # noqa: SIM115
    # Workers inherit it, and live on for seconds when this process is killed.
    register_after_fork(file, lambda own: own.close())
    return file


def _lies_in(folder: Path, file: TextIO) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.lstat(folder / _FILE))
    except FileNotFoundError:
        return False
