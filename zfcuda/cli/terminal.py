"""How a command of this project reads its command line, and how it ends: errors as one line."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NoReturn

from zfcuda.storage.files import visible
from zfcuda.storage.terminal import remark

# What a wrong file, name or number raises; anything else is a bug and keeps its traceback.
USER_ERRORS = (ValueError, TypeError, KeyError, IndexError, OSError, ImportError, RuntimeError)


def one_line(error: BaseException) -> str:
    """What went wrong as one line: a KeyError's own text is the repr of its message."""
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], str):
        text = error.args[0]
    else:
        text = str(error) or type(error).__name__
    return visible(" ".join(text.split()))


@contextlib.contextmanager
def resumable() -> Iterator[None]:
    """Around what a command that is interrupted there goes on with, when it is given again."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note("the same command goes on where this one was")
        raise


def interrupted(program: str, stop: KeyboardInterrupt) -> int:
    """Say so in a line; the exit status, 143 for SIGTERM and 130 for Ctrl-C."""
    notes = dict.fromkeys(getattr(stop, "__notes__", ()))
    remark("; ".join(["interrupted", *notes]), program)
    return 143 if stop.args == (signal.SIGTERM,) else 130


class Parser(argparse.ArgumentParser):
    """Errors in one line that says what was probably meant, instead of usage and error."""

    _given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._given = [*(sys.argv[1:] if args is None else args)]
        return super().parse_known_args(self._given, namespace)

    def _explained(self, message: str) -> str:
        if wrong := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            known = re.findall(r"[^', ]+", wrong[2])
            if close := difflib.get_close_matches(wrong[1], known, n=2):
                start, end = wrong.span(2)
                hint = f"did you mean {' or '.join(close)}? All are {message[start:end]}"
                return f"{message[: wrong.start(2) - len(' (choose from ')]}; {hint}"
        if short := re.fullmatch(
            r"argument (\S+): expected (?:one|at least one) argument", message
        ):
            flags = short[1].split("/")
            for flag, value in pairwise(self._given):
                named = flag in flags or (len(flag) > 2 and flags[0].startswith(flag))
                if named and value[:1] == "-" and value not in self._option_string_actions:
                    return f"{message}; one that begins with a minus is joined by =: {flag}={value}"
        return message

    def error(self, message: str) -> NoReturn:
        message = visible(self._explained(message))
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


@contextlib.contextmanager
def guarded(program: str, traceback: bool = False) -> Iterator[list[int]]:
    """Turn what ends a command early into one line on standard error and an exit status.

    Yields a list whose only element becomes the status: 2 for a user's error, 130 for Ctrl-C,
    143 for SIGTERM (which is turned into an exception, so that temporary files are removed).
    An error after one of these is taken for its consequence: libraries turn the exception into
    others. Warnings are one line each as well.
    """
    status = [0]
    with _stoppable() as stops, _any_name_on(sys.stdout), warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: remark(message, program)
        try:
            yield status
            sys.stdout.flush()
        except KeyboardInterrupt as stop:
            status[0] = interrupted(program, stop)
        except BrokenPipeError:  # as in `zfcuda info | head -1`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except Exception as error:
            if traceback or not (stops or isinstance(error, USER_ERRORS)):
                raise
            status[0] = interrupted(program, stops[0]) if stops else 2
            if not stops:
                remark(one_line(error), program)


@contextlib.contextmanager
def _any_name_on(stream: Any) -> Iterator[None]:
    """Escape what the stream cannot write, as standard error does: file names may hold anything,
    and a file that was written must not become an error when its name is printed."""
    before = stream.errors if hasattr(stream, "reconfigure") else None
    if before:
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        if before:
            stream.reconfigure(errors=before)


@contextlib.contextmanager
def _stoppable() -> Iterator[list[KeyboardInterrupt]]:
    """Have Ctrl-C and SIGTERM raise KeyboardInterrupt; yields those that were raised. A Ctrl-C that
    is ignored, as by a shell's background jobs, or handled by others, is left to them."""
    stops: list[KeyboardInterrupt] = []

    def stop(number: int, _frame: object) -> NoReturn:
        stops.append(KeyboardInterrupt(*([number] if number == signal.SIGTERM else [])))
        raise stops[-1]

    own = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        own.append(signal.SIGINT)
    may = threading.current_thread() is threading.main_thread()  # set handlers
    before = {number: signal.signal(number, stop) for number in own if may}
    try:
        yield stops
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
