"""The folder of a run that can be stopped at any moment and gone on with: one run at a time, and
what all of its results depend on in a JSON file; other settings are refused."""

from __future__ import annotations

import errno
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.util import register_after_fork
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor

from zfcuda.storage.files import (
    LOCK,
    absent,
    checksum,
    read_json,
    remove_leftovers,
    remove_unused,
    visible,
    write_json,
)
from zfcuda.storage.identity import as_recorded_now, same_versions, tensor_digest
from zfcuda.storage.ranks import Shard

# --- what it is a run of -------------------------------------------------------------------------


@contextmanager
def run_folder(
    path: Path,
    settings: Mapping[str, Any],
    more: Mapping[str, Any] | None = None,
    shard: Shard | None = None,
    *,
    results: str = "",
    names: Mapping[str, str] | None = None,
    then: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda there: {},
    option: str = "--out",
) -> Iterator[dict[str, Any]]:
    """Begin a run, or go on with it: its folder is this run's alone until all ranks leave. Yields
    what :func:`read` gives of its file.

    Args:
        path: of the JSON file that says what the folder is a run of.
        settings: all that results depend on; anything that JSON can say, tensors besides.
        more: what a file that is begun says besides; of its "about" what the "model" and the "data"
            are called.
        shard: this process among those of the run; by default it is alone.
        results: a pattern of results, which must not be there without the file.
        names: what settings are called elsewhere, where this file has names of its own.
        then: from the settings there, those of here that are compared in another form.
        option: of the command line that names the folder.

    Raises:
        ValueError: at every rank: the folder holds a run with other settings, with what differs;
            one that is under way; or one of which nobody can tell what it is.
        RuntimeError: a rank ended before.
        OSError: it cannot be written.
    """
    folder, shard = path.parent, shard or Shard()
    with claimed(folder, shard, path.name):
        if shard.first:
            remove_leftovers(folder)
            if not path.is_file() and not (results and any(folder.glob(results))):
                write(path, settings, more)
        shard.wait()
        if not path.is_file():
            found = min(folder.glob(results))
            raise ValueError(
                f"'{folder}' holds {found.name} of a run, but not its {path.name}: nobody can tell "
                "what they are; name another folder"
            )
        begun = read(path)
        here = _plain({**settings, **then(begun["settings"])})
        about = (more or {}).get("about") or {}
        own = _in_words(begun["settings"], here, begun["about"], about, names or {})
        for differences in shard.collect(own):  # one rank's own, such as its GPU's precision, too
            if differences:
                raise other_run(folder, differences, option)
        yield begun


def write(path: Path, settings: Mapping[str, Any], more: Mapping[str, Any] | None = None) -> None:
    """Begin a run, for this process's number of threads."""
    own = _plain(settings)
    content = {"sha256": checksum(own), "settings": own, "threads": torch.get_num_threads()}
    write_json(path, {**content, **(more or {})})


def read(path: Path) -> dict[str, Any]:
    """What a run's file says: at least "settings"; "threads", how many the process had that began
    it (where zfcuda 0.1.0 did not say so, this one's); and "about".

    Raises:
        ValueError: it is none.
    """
    try:
        content = read_json(path)
        return {
            **content,
            "settings": {**content["settings"]},
            "threads": int(content.get("threads", torch.get_num_threads())),
            "about": {**content.get("about", {})},
        }
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ValueError(
            f"'{path}' cannot be read as the settings of a run ({error}): name another folder"
        ) from error


def other_run(folder: Path, differences: Sequence[str], option: str = "--out") -> ValueError:
    """The error that refuses a folder whose run differs in these."""
    shown = "; ".join(differences[:_SHOWN]) + ("; …" if len(differences) > _SHOWN else "")
    return ValueError(
        f"'{folder}' holds a run with other settings: {shown}. Go on with the settings it was "
        f"begun with, or name another folder ({option}), or delete this one"
    )


_SHOWN = 6  # differences that an error names
_MODEL = {"weights": "the model's weights", "architecture": "the model's layers"}
_IMAGES = {"images": "the images' names and labels", "inputs": "the images' contents"}
_HASHED = _MODEL | _IMAGES
_NAMES = _HASHED | {"count": "number of images"}
_FOLLOWING = {"image", "images together", "outputs"}  # from other settings, which are told instead
# What may be a default that another network has, or be made by its preprocessing.
_OF_NETWORK = {*_MODEL, *_FOLLOWING, "inputs", "size", "stride", "fill", "transformations"}
_UNSAID = {"outputs": "logits", "drawn": ""}  # of runs begun before there was anything to say


def _plain(value: Any) -> Any:
    """As it comes back from a JSON file; tensors as lists, pictures as their hashes, and NumPy's
    numbers as Python's."""

    def of_other(other: Tensor | np.generic) -> Any:
        large = isinstance(other, Tensor) and other.dim() >= 2
        return tensor_digest(other) if large else other.tolist()

    return json.loads(json.dumps(value, default=of_other))


def _in_words(
    there: Mapping[str, Any],
    here: Mapping[str, Any],
    said: Mapping[str, Any],
    says: Mapping[str, Any],
    names: Mapping[str, str],
) -> list[str]:
    """What is not the same in two settings, as far as somebody chose it: by the model's and the
    data's names where these differ, and with hashes only where there is nothing else to tell."""
    there, here = (
        _UNSAID | {names.get(key, key): value for key, value in one.items()}
        for one in (there, here)
    )
    there = as_recorded_now(there, here)
    if same_versions(there.get("versions"), here.get("versions")):
        here["versions"] = there.get("versions")
    different = {key for key in there.keys() | here.keys() if there.get(key) != here.get(key)}
    sentences = []
    for name, of_it, explained in (
        ("model", {*_MODEL, "image"}, _OF_NETWORK),
        ("data", {*_IMAGES, "count"}, {*_IMAGES, "count"}),
    ):
        old, new = said.get(name), says.get(name)
        if different & of_it and None not in (old, new) and old != new:
            sentences.append(f"{name} {old} there, {new} here")
            different -= explained
    if "count" in different:
        different -= {*_IMAGES}
    chosen = different - {*_HASHED} - _FOLLOWING
    if sentences or chosen:
        plain = [*_differences(there, here, sorted(chosen))]
        return [*sentences, *plain, *(_HASHED[key] for key in sorted(different & {*_HASHED}))]
    return [*_differences(there, here, sorted(different - _FOLLOWING or different))]


def _differences(
    there: dict[str, Any], here: dict[str, Any], keys: Sequence[str], within: str = ""
) -> Iterator[str]:
    for key in keys:
        old, new = there.get(key), here.get(key)
        name = f"{within} {_NAMES.get(key, key)}".strip()
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, sorted({*old, *new}), name)
        elif old != new:
            yield f"{name} {_short(old)} there, {_short(new)} here"


def _short(value: Any) -> str:
    if value in (None, [], ""):
        return "none"
    text = value if isinstance(value, str) else json.dumps(value)
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        text = ", ".join(value)
    elif isinstance(value, list) and len(value) == 2 and all(isinstance(v, int) for v in value):
        text = "×".join(map(str, value))
    return text if len(text) <= 24 else f"{text[:12]}…"


# --- one run at a time ---------------------------------------------------------------------------

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
        if shard.share(lock is None):
            raise ValueError(
                f"another run is at work in '{folder}': wait until it is done, or name another "
                "folder"
            )
        yield
        shard.wait()
    except BaseException:
        if lock is not None and shard.world == 1 and not begun:
            remove_unused(folder, (first, LOCK), made)
        raise
    finally:
        if lock is not None:
            lock.close()


def require_there(folder: Path) -> None:
    """Raise FileNotFoundError if a folder that this run has claimed is not where it was.

    To be called before files are written there: they would make the folder again, and nobody could
    tell later what they are.
    """
    if not (folder / LOCK).exists():
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
            number = os.open(folder / LOCK, flags, 0o666)
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
        return os.path.samestat(os.fstat(file.fileno()), os.lstat(folder / LOCK))
    except FileNotFoundError:
        return False
