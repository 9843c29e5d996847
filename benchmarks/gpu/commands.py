"""Processes that end in time, with all that they started, and when this one is told to end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GRACE = 5.0  # seconds that a process which is interrupted has to write what it got to
_PR_SET_CHILD_SUBREAPER = 36  # of prctl
_signals: list[str] = []  # that this process was told to end by


class NotRun(Exception):
    """The machine has no such tool, or refuses it."""


class TooLong(RuntimeError):
    """A command did not end in its time, or could not be given it."""


def heed_signals() -> None:
    """From now on SIGTERM and SIGINT end the command under way and are :func:`stopped`'s answer."""
    # What lost its parent becomes this process's child, so that it is found when all has to end.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _: _signals.append(signal.Signals(got).name))


def stopped() -> str:
    """The signal that told this process to end; empty where none did."""
    return _signals[0] if _signals else ""


def call(
    command: Sequence[str], log: Path, seconds: float, environment: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """The command's exit status and its output, which ``log`` keeps. It runs in the clone, whose
    zfcuda it finds before any other.

    Raises:
        TooLong: after ``seconds``, or a signal; it had :data:`GRACE` of them to write what it got
            to, and nothing that it started is left.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            process_group=0,  # what interrupts it interrupts what it waits for
        )
        try:
            status = _wait(process, seconds)
        finally:
            process.kill()
            process.wait()
            _end_descendants()
    return status, log.read_text(errors="replace")


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int:
    grace = min(GRACE, seconds / 4)
    end = time.monotonic() + seconds - grace
    while not stopped() and time.monotonic() < end:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(0.1)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    raise TooLong(f"stopped by {stopped()}" if stopped() else f"stopped after {seconds:.0f} s")


def _end_descendants() -> None:
    """Kill whatever this process's commands started, in process groups of its own as well, as
    ninja starts compilers."""
    end = time.monotonic() + 2
    while (pids := _descendants()) and time.monotonic() < end:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.01)


def _descendants() -> list[int]:
    parents = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            parents[int(file.parent.name)] = int(file.read_text().rpartition(")")[2].split()[1])
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found - {os.getpid()})


def tool(name: str) -> str:
    """Where a tool of the CUDA toolkit lies.

    Raises:
        NotRun: nowhere.
    """
    path = shutil.which(name) or shutil.which(f"/usr/local/cuda/bin/{name}")
    if path is None:
        raise NotRun(f"there is no {name} here")
    return path
