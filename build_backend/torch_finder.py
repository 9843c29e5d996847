"""Which torch to build against, and which ones the built package then requires."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import probe
from notice import say

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["zfcuda"]
LOWEST, TOO_NEW = re.findall(r"\d+\.\d+", SETTINGS["torch"])  # of ">=2.11,<2.16"


@dataclass(frozen=True)
class FoundTorch:
    version: str
    cuda: str | None  # its CUDA's version; None for a CPU build
    path: tuple[str, ...]  # what sys.path needs for it, in its interpreter's order
    fetched: bool = False  # it is in the build's passing environment only


def find() -> FoundTorch | None:
    """The torch to build against: this process's own, the user's, or the active environment's."""
    users = _users()
    if own := probe.torch_here():
        return FoundTorch(own["version"], own["cuda"], (), fetched=users is None)
    return users


def _users() -> FoundTorch | None:
    candidates = [sys.executable]
    if active := os.environ.get("VIRTUAL_ENV"):  # `python -m build` isolates with a venv of its own
        candidates.append(os.path.join(active, "bin", "python"))
    return next((found for python in candidates if (found := ask(python))), None)


def ask(interpreter: str | Path) -> FoundTorch | None:
    """The torch that ``interpreter`` imports, if it has one that this Python can load."""
    # -E: pip points PYTHONPATH at its overlay; without it the user's own environment shows.
    # -P: build_backend/ is not a place to find torch.
    command = [str(interpreter), "-E", "-P", probe.__file__]
    answer: dict[str, Any] | None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        answer = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired, json.JSONDecodeError):
        return None
    if answer is None or answer["tag"] != sys.implementation.cache_tag:
        return None
    path = tuple(entry for entry in answer["path"] if entry)
    return FoundTorch(answer["version"], answer["cuda"], path)


def build_requirements() -> list[str]:
    """What the isolated environment still needs: nothing, or a torch where the user has none."""
    if found := find():
        refuse_old(found.version)
        return []
    say(
        f"zfcuda: no torch is installed, so {_tested()} is fetched to build against: "
        "install torch first, or set ZFCUDA_TORCH_REQUIREMENT, to choose another"
    )
    return [_tested()]


def make_importable() -> None:
    """Put the torch to build against behind everything that is already on ``sys.path``."""
    if found := find():
        sys.path.extend(entry for entry in found.path if entry not in sys.path)


def refuse_old(torch_version: str) -> None:
    """Stop at a torch below the tested range: the code would not compile."""
    if _minor(torch_version) < _minor(LOWEST):
        raise SystemExit(
            f"zfcuda needs torch {LOWEST} or later, but torch {torch_version} is installed: "
            f"upgrade it (`pip install 'torch{SETTINGS['torch']}'`) and build again"
        )


def warn_of_new(torch_version: str) -> None:
    """Say once that a torch is above the tested range; it probably works."""
    if _minor(torch_version) >= _minor(TOO_NEW):
        say(f"zfcuda: torch {torch_version} is newer than the tested range {SETTINGS['torch']}")


def runtime_requirements() -> list[str]:
    """The dependencies. The ops run under any torch from the oldest on; where pip fetched one to
    build against, the same is asked for again, so that it does not bring a second, newer one."""
    found = None if "sdist" in sys.argv else find()
    passing = found is None or found.fetched
    torch = _tested() if passing and "sdist" not in sys.argv else f"torch>={LOWEST}"
    return [torch, *SETTINGS["dependencies"]]


def _tested() -> str:
    return os.environ.get("ZFCUDA_TORCH_REQUIREMENT") or f"torch{SETTINGS['torch']}"


def _minor(torch_version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in torch_version.split(".")[:2])
