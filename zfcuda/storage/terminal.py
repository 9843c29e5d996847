"""What is said on a terminal: findings on standard output, everything else on standard error.

Names from files may hold what a terminal takes for orders, so that nothing is printed otherwise.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from zfcuda.storage.files import visible

if TYPE_CHECKING:
    from tqdm import tqdm


@contextmanager
def extra(needs: str, name: str = "demo", more: str = "") -> Iterator[None]:
    """Around the import of an optional package: says which extra of zfcuda brings it."""
    try:
        yield
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f'{needs}; install it with: pip install "zfcuda[{name}]"{more}'
        ) from None


def say(*lines: object) -> None:
    """What a command found: each argument a line on standard output."""
    for line in lines:
        print(visible(line))


def remark(text: object, program: str = "zfcuda") -> None:
    """What is worth knowing besides, a line on standard error."""
    print(f"{program}: {visible(text)}", file=sys.stderr)


def skipped(sentences: Sequence[object], more: str = "", shown: int = 5) -> None:
    """The first of the images that could not be read, and how many others there are; `more` says
    where those are."""
    for sentence in sentences[:shown]:
        remark(f"skipped: {sentence}")
    if len(sentences) > shown:
        remark(f"skipped: {len(sentences) - shown} more{more}")


def progress(over: Iterable[Any] | None = None, desc: str = "", **settings: Any) -> tqdm:
    """A progress bar on standard error, in a notebook one of its own; `settings` are tqdm's."""
    return _bar()(over, visible(desc) or None, **settings)


@cache
def _bar() -> type[tqdm]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without ipywidgets a notebook has the terminal's bar
        from tqdm.auto import tqdm
    return tqdm
