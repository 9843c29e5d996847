"""Many commands one after another, each done once: for the scripts.

A job is a command, its settings and the folder that it writes into. When it is done, its settings'
hash is written there last; a later run with the same settings finds it and goes on to the next job.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zfcuda import cli
from zfcuda.cli.terminal import USER_ERRORS, one_line, resumable
from zfcuda.storage.files import digest as digest_of
from zfcuda.storage.files import read_json, visible, write_json
from zfcuda.storage.terminal import progress

RECORD = "done.json"


@dataclass(frozen=True)
class Job:
    """One command of `zfcuda`."""

    folder: Path  # where it writes
    command: str
    # Of the command's options those that are not left as they are, by name.
    settings: Mapping[str, Any] = field(default_factory=dict)
    # What it depends on: files by content, folders by names and sizes.
    reads: tuple[Path, ...] = ()

    def words(self) -> list[str]:
        """The command line that does the same, as records have named a job since 0.1.0."""
        words = [self.command, *(["--pdf"] if self.settings.get("pdf") else [])]
        for name, value in self.settings.items():
            flag = f"-{name}" if len(name) == 1 else f"--{name}"
            if name == "layer":
                words += [word for layer in _listed(value) for word in (flag, layer)]
            elif name == "angles":  # may begin with a minus
                words.append(f"{flag}={value}")
            elif name != "pdf":
                words += [flag, *([] if value is True else map(str, _listed(value)))]
        return words

    def digest(self, identity: str) -> str:
        """The hash of everything its results depend on."""
        # Not whether there are PDFs beside the pictures: 0.1.0 always made them.
        words = [word for word in self.words() if word != "--pdf"]
        digest = hashlib.sha256(json.dumps([identity, *words]).encode())
        for path in self.reads:
            if path.is_dir():
                for file in sorted(path.rglob("*")):
                    digest.update(os.fsencode(f"{file.relative_to(path)} {file.lstat().st_size}\n"))
            else:
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()


@dataclass
class Outcome:
    """What became of the jobs."""

    done: int = 0  # run
    skipped: int = 0  # done before
    replaced: int = 0  # of those that were run: in place of what other settings had made
    failed: list[tuple[Job, str]] = field(default_factory=list)  # each with the reason

    def __str__(self) -> str:
        text = f"{self.done} done, {self.skipped} skipped, {len(self.failed)} failed"
        more = f"; {self.replaced} in place of what other settings had made"
        return text + (more if self.replaced else "")


def run(jobs: Sequence[Job], identity: str, unit: str = "job", quiet: bool = False) -> Outcome:
    """Run what is not done yet. A job that fails stops no other; Ctrl-C stops all, and keeps what
    is done. All jobs depend on `identity`, as version and weights, besides their own settings."""
    outcome = Outcome()
    with resumable(), progress(jobs, unit=unit, disable=quiet) as bar:
        for job in bar:
            bar.set_postfix_str(visible(f"{job.folder.name}: {job.command}"))
            try:
                digest = job.digest(identity)
                if _is_done(job, digest):
                    outcome.skipped += 1
                    continue
                outcome.replaced += _do(job, digest)
                outcome.done += 1
            except USER_ERRORS as error:
                outcome.failed.append((job, one_line(error)))
    return outcome


def _do(job: Job, digest: str) -> bool:
    """Run it; whether it replaced what other settings had made."""
    before, (settings, old) = _times(job.folder), _recorded(job)
    if settings:  # cut short, what lies there would be partly of these, partly of those settings
        _record(job, "", old)
    with contextlib.redirect_stdout(io.StringIO()):  # the names of its files
        cli.call(job.command, job.folder, **job.settings)
    new = {name for name, time in _times(job.folder).items() if before.get(name) != time}
    for name in old:  # of other settings: not to be taken for these
        if name not in new and Path(name).name == name:
            (job.folder / name).unlink(missing_ok=True)
    _record(job, digest, sorted(new))
    return settings not in ("", digest)


def _record(job: Job, settings: str, files: Sequence[str]) -> None:
    content = {"settings": settings, "command": job.words(), "files": list(files)}
    there = [name for name in files if settings and (job.folder / name).is_file()]
    content["sha256"] = {name: digest_of(job.folder / name) for name in there}
    write_json(job.folder / RECORD, content)


def _is_done(job: Job, digest: str) -> bool:
    """Whether its files are there, as they were written (0.1.0 noted no hashes)."""
    settings, files = _recorded(job)
    if settings != digest or not all((job.folder / name).is_file() for name in files):
        return False
    if job.settings.get("pdf") and not any(name.endswith(".pdf") for name in files):
        return False
    sums = read_json(job.folder / RECORD).get("sha256") or {}
    return all(digest_of(job.folder / name) == sums.get(name) for name in files if sums)


def _recorded(job: Job) -> tuple[str, list[str]]:
    """The settings' hash and the files of what was done in the folder, if anything was."""
    try:
        record = read_json(job.folder / RECORD)
        return str(record["settings"]), [str(name) for name in record["files"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # none yet, or not ours
        return "", []


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _times(folder: Path) -> dict[str, int]:
    """When each file was written; hidden ones and the record do not count."""
    files = folder.iterdir() if folder.is_dir() else ()
    return {
        path.name: path.stat().st_mtime_ns
        for path in files
        if path.is_file() and path.name != RECORD and not path.name.startswith(".")
    }
