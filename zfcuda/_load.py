"""Loads the compiled library ``zfcuda._C``, or says in one sentence why it cannot be loaded.

Importing ``zfcuda._C`` registers every op in ``torch.ops.zfcuda``; nothing else imports it.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType

import torch


def library() -> ModuleType:
    """Return the compiled module ``zfcuda._C``, loading it on the first call.

    Raises:
        ImportError: if there is no compiled library beside the Python files, or if it was built
            against another minor version of torch than the one that is running (torch's C++ ABI
            changes between minor versions: loading it anyway ends in an undefined symbol).
    """
    if "zfcuda._C" not in sys.modules:
        _step_aside()
        try:
            facts = import_module("zfcuda._build_facts")
        except ModuleNotFoundError:
            raise ImportError(_missing()) from None
        if _minor(facts.TORCH_VERSION) != _minor(torch.__version__):
            raise ImportError(
                f"zfcuda was built against torch {facts.TORCH_VERSION}, but torch "
                f"{torch.__version__} is running: rebuild it with {_rebuild()}"
            )
        try:
            import_module("zfcuda._C")
        except ModuleNotFoundError as error:
            if error.name != "zfcuda._C":
                raise
            raise ImportError(_missing()) from None
    return sys.modules["zfcuda._C"]


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _is_compiled(folder: Path) -> bool:
    return (folder / "_build_facts.py").is_file()


def _step_aside() -> None:
    """Let an installed zfcuda serve where a clone's uncompiled ``./zfcuda`` shadows it.

    ``python -m pytest`` and ``python -m zfcuda`` put the current folder first on ``sys.path``, so
    in a clone they find the sources before the package that ``pip install .`` made of them.
    """
    package = sys.modules["zfcuda"]
    here = Path(__file__).resolve().parent
    if _is_compiled(here):
        return
    for entry in sys.path:
        folder = (Path(entry) / "zfcuda").resolve()
        if folder != here and _is_compiled(folder):
            package.__path__ = [str(folder)]
            return


def _missing() -> str:
    return (
        f"zfcuda was imported from {Path(__file__).resolve().parent}, which holds no compiled "
        f"library (_C{EXTENSION_SUFFIXES[0]}): build it with {_rebuild()}"
    )


def _rebuild() -> str:
    clone = Path(__file__).resolve().parent.parent
    if (clone / "setup.py").is_file():
        return f"`pip install -e {clone}`, or move out of that folder to use an installed zfcuda"
    return "`pip install --force-reinstall --no-deps .` in zfcuda's source folder"
