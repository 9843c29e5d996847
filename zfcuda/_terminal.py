"""How a command of this project talks to its terminal: errors in one line, clean ends."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from typing import Any, NoReturn

# What a wrong file, name or number raises; anything else is a bug and keeps its traceback.
USER_ERRORS = (ValueError, TypeError, KeyError, IndexError, OSError, ImportError, RuntimeError)


def one_line(error: BaseException) -> str:
    """What went wrong as one line: a KeyError's own text is the repr of its message."""
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], str):
        text = error.args[0]
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


class Parser(argparse.ArgumentParser):
    """Errors in one line, as everywhere else, instead of usage and error."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


@contextlib.contextmanager
def guarded(program: str, traceback: bool = False) -> Iterator[list[int]]:
    """Turn what ends a command early into one line on standard error and an exit status.

    Yields a list whose only element becomes the status: 2 for a user's error, 130 for Ctrl-C,
    143 for SIGTERM (which is turned into an exception, so that temporary files are removed).
    Warnings are one line each as well.
    """
    status = [0]
    with _terminable(), _any_name_on(sys.stdout), warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"{program}: {message}", file=sys.stderr)
        try:
            yield status
            sys.stdout.flush()
        except KeyboardInterrupt as stop:
            status[0] = 143 if stop.args == (signal.SIGTERM,) else 130
            print(f"{program}: interrupted", file=sys.stderr)
        except BrokenPipeError:  # as in `zfcuda info | head -1`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except USER_ERRORS as error:
            if traceback:
                raise
            status[0] = 2
            print(f"{program}: {one_line(error)}", file=sys.stderr)


@contextlib.contextmanager
def _any_name_on(stream: Any) -> Iterator[None]:
    """Escape what the stream cannot write, as standard error does: file names may hold anything,
    and a file that was written must not become an error when its name is printed."""
    before = getattr(stream, "errors", None)
    if before is None or not hasattr(stream, "reconfigure"):
        yield
        return
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        stream.reconfigure(errors=before)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    def stop(number: int, _frame: object) -> NoReturn:
        raise KeyboardInterrupt(number)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread, which alone may set handlers
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
