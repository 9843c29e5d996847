"""Which torch to build against, and which one the built package then requires."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from notice import say

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["zfcuda"]
LOWEST, TOO_NEW = re.findall(r"\d+\.\d+", SETTINGS["torch"])  # of ">=2.11,<2.14"

# Asked of an interpreter, this prints which torch it would import, without the cost of doing so.
PROBE = """
import json, sys
from importlib.metadata import version
from importlib.util import find_spec
spec = find_spec("torch")
if spec is not None and spec.origin is not None:
    tag = sys.implementation.cache_tag
    print(json.dumps({"version": version("torch"), "path": sys.path, "tag": tag}))
"""


@dataclass(frozen=True)
class FoundTorch:
    version: str
    path: tuple[str, ...]  # what sys.path needs for it, in its interpreter's order


def probe(interpreter: str | Path) -> FoundTorch | None:
    """The torch that ``interpreter`` imports, if it has one that this Python can load."""
    # -E: pip points PYTHONPATH at its overlay; without it the user's own environment shows.
    # The folder "" (-c puts it first) is the source tree, never a place to find torch.
    command = [str(interpreter), "-E", "-c", PROBE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
        answer = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired, json.JSONDecodeError):
        return None
    if answer["tag"] != sys.implementation.cache_tag:
        return None
    return FoundTorch(answer["version"], tuple(entry for entry in answer["path"] if entry))


def find() -> FoundTorch | None:
    """The torch to build against: this process's own, the user's, or the active environment's."""
    if find_spec("torch") is not None:
        try:
            return FoundTorch(version("torch"), ())
        except PackageNotFoundError:  # a folder that happens to be called torch
            pass
    candidates = [sys.executable]
    if active := os.environ.get("VIRTUAL_ENV"):  # `python -m build` isolates with a venv of its own
        candidates.append(os.path.join(active, "bin", "python"))
    return next((found for python in candidates if (found := probe(python))), None)


def build_requirements() -> list[str]:
    """What the isolated environment still needs: nothing, or a torch where the user has none."""
    if found := find():
        refuse_old(found.version)
        return []
    requirement = os.environ.get("ZFCUDA_TORCH_REQUIREMENT") or f"torch{SETTINGS['torch']}"
    say(
        f"zfcuda: no torch is installed, so {requirement} is fetched to build against: "
        "install torch first, or set ZFCUDA_TORCH_REQUIREMENT, to choose another"
    )
    return [requirement]


def make_importable() -> None:
    """Put the torch to build against behind everything that is already on ``sys.path``."""
    if found := find():
        sys.path.extend(entry for entry in found.path if entry not in sys.path)


def refuse_old(torch_version: str) -> None:
    """Stop at a torch below the tested range: the code would not compile."""
    if _numbers(torch_version) < _numbers(LOWEST):
        raise SystemExit(
            f"zfcuda needs torch {SETTINGS['torch']}, but torch {torch_version} is installed: "
            f"upgrade it (`pip install 'torch{SETTINGS['torch']}'`) and build again"
        )


def warn_of_new(torch_version: str) -> None:
    """Say once that a torch is above the tested range; it probably works."""
    if _numbers(torch_version) >= _numbers(TOO_NEW):
        say(f"zfcuda: torch {torch_version} is newer than the tested range {SETTINGS['torch']}")


def minor(torch_version: str) -> str:
    """``"2.13"`` of ``"2.13.0+cpu"``: torch's C++ ABI is stable within it, not beyond."""
    return ".".join(torch_version.split(".")[:2])


def _numbers(torch_version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in minor(torch_version).split("."))


def runtime_requirements() -> list[str]:
    """The dependencies, with torch pinned to the minor version that was built against."""
    found = None if "sdist" in sys.argv else find()
    torch = f"torch=={minor(found.version)}.*" if found else f"torch{SETTINGS['torch']}"
    return [torch, *SETTINGS["dependencies"]]
