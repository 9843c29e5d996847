"""Loads the compiled library ``zfcuda._C``, or says in one sentence why it cannot be loaded.

Importing ``zfcuda._C`` registers every op in ``torch.ops.zfcuda``; nothing else imports it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any


def with_torch() -> None:
    """Load the library: at once where torch is there, otherwise when it is imported. Without torch
    an op is of no use, and torch is all that is slow in ``import zfcuda``.

    Raises:
        ImportError: as :func:`library`, also before torch is imported.
    """
    _step_aside()
    fits = _minor(_facts().TORCH_VERSION) == _minor(_torch_on_disk())
    if "torch" not in sys.modules and fits and _library_on_disk():
        sys.meta_path.insert(0, _TorchFinder())
    else:
        library()


def library() -> ModuleType:
    """Return the compiled module ``zfcuda._C``, loading it on the first call.

    Raises:
        ImportError: if there is no compiled library beside the Python files, or if it was built
            against another minor version of torch than the one that is running (torch's C++ ABI
            changes between minor versions: loading it anyway ends in an undefined symbol).
    """
    import torch

    if "zfcuda._C" not in sys.modules:
        facts = _facts()
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


class _TorchFinder:
    """Finds torch where others find it, and has the library loaded when torch is."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "torch":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            self._follow(spec.loader)
        return spec

    def _follow(self, loader: Any) -> None:
        def exec_module(module: ModuleType) -> None:
            del loader.exec_module  # its own again
            loader.exec_module(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            library()

        loader.exec_module = exec_module


def _torch_on_disk() -> str:
    """The version of the torch that would be imported; nothing where that cannot be read."""
    spec = PathFinder.find_spec("torch")
    try:
        text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")  # type: ignore[union-attr, arg-type]
    except (AttributeError, TypeError, OSError, ValueError):
        return ""
    found = re.search(r"^__version__ *= *['\"]([^'\"]+)", text, re.MULTILINE)
    return found[1] if found else ""


def _library_on_disk() -> bool:
    return PathFinder.find_spec("zfcuda._C", sys.modules["zfcuda"].__path__) is not None


def _facts() -> ModuleType:
    try:
        return import_module("zfcuda._build_facts")
    except ModuleNotFoundError:
        raise ImportError(_missing()) from None


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
