"""What did this unit see? Deconvnet projections, occlusion maps and invariance curves for CNNs.

After Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks" (ECCV 2014)::

    import zfcuda

    model = zfcuda.models.load("squeezenet1_1")
    x = zfcuda.models.preprocessing("squeezenet1_1").to_input(zfcuda.data.read_image("cat.jpg"))

    zfcuda.deconv(model, x, "features.6")     # what the strongest unit of a layer saw
    zfcuda.occlusion(model, x).plot()         # which part of the image carries the decision
    zfcuda.rotation(model, x).plot()          # how far the answer survives turning the image

Importing the package loads the compiled ops, with torch where that is imported later; everything
else is imported when it is first used.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any

__version__ = "0.2.0"

# The stub beside this file lists the public names: "from MODULE import NAME as NAME".
_STUB = Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")
_HOMES = {name: home for home, name in re.findall(r"^from (\S+) import (\w+) as", _STUB, re.M)}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        home = _HOMES[name]
        return (
            import_module(f"zfcuda.{name}")
            if home == "zfcuda"
            else getattr(import_module(home), name)
        )
    if name in _MOVED:  # not by import_module, which the warning would be told of
        old = _spec_of(f"zfcuda.{name}", stacklevel=3)
        module = globals()[name] = sys.modules.setdefault(old.name, module_from_spec(old))
        return module
    raise AttributeError(f"module 'zfcuda' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


# --- where modules were in zfcuda 0.1 -------------------------------------------------------------

# By the old name the new ones, where one that is asked for is looked up in turn. Until 0.3.
_MOVED = {
    "ablations": "experiments.ablations results.training",
    "backgrounds": "experiments.backgrounds",
    "backward_cone": "cones.observing cones.descent",
    "commands": "cli.commands",
    "compat.onnx": "models.onnx",
    "cone": "cones.boxes",
    "convolving": "cones.steps graph.pixelwise",
    "correspondences": "experiments.correspondences results.correspondence",
    "datasets": "data data.examples data.fashion",
    "deconvnet": "experiments.deconvnet.projecting experiments.deconvnet.request",
    "demo": "cli.demo",
    "diagrams": "experiments.diagrams results.diagram",
    "feature_evolution": "experiments.evolution results.maxima",
    "figures.ablation": "figures.training",
    "figures.background": "figures.projection",
    "figures.evolution": "figures.maxima",
    "figures.invariance_study": "figures.invariance",
    "figures.invariance_summary": "figures.invariance",
    "figures.occlusion_summary": "figures.occlusion",
    "figures.patches": "figures.projection",
    "figures.probe": "figures.training",
    "figures.uncertainty": "figures.prediction",
    "filters": "experiments.filters results.filters",
    "forward_cone": "cones.forward",
    "gallery": "report.gallery",
    "incremental": "cones.occluding",
    "info": "cli.info",
    "interception": "inference.interception inference.deconvnet_rules",
    "invariance": "experiments.invariance.experiment",
    "maps_page": "report.maps_page",
    "maxima": "experiments.maxima.finding experiments.maxima.recording "
    "results.maxima results.stored",
    "models.metadata": "models.weights",
    "models.shipped": "models.from_files",
    "ops.arguments": "ops.library",
    "ops.maxima": "ops.spatial_max",
    "ops.normalisation": "ops.local_response_norm",
    "ops.occlusion": "ops.occlude",
    "ops.pooling": "ops.max_pool2d",
    "ops.unpooling": "ops.max_unpool2d",
    "ops.warping": "ops.warp_affine",
    "planning": "cones.planning",
    "predictions": "experiments.predictions",
    "probing": "experiments.probing results.training",
    "receptive": "cones.receptive",
    "reference": "ops.reference",
    "report.entries": "report.page",
    "results.background": "results.predictions",
    "results.checks": "results.base",
    "results.invariance_study": "results.invariance",
    "results.packing": "results.base",
    "results.patches": "results.projections",
    "results.scores": "results.base",
    "rules": "graph.rules graph.nodes",
    "runs": "experiments.invariance.over experiments.occlusion.over",
    "sensitivity": "experiments.occlusion.experiment experiments.occlusion.engines",
    "steps": "cones.steps",
    "training.filters": "training.recipe",
    "training.result": "results.training",
    "uncertainty": "experiments.predictions results.predictions",
}


class _Moved(ModuleType):
    """A module under its old name."""

    def __getattr__(self, name: str) -> Any:
        dunder = name.startswith("__") and name != "__all__"  # __path__ would be another's
        for place in () if dunder else _places(self.__name__):
            module = import_module(place)
            if hasattr(module, name):
                return getattr(module, name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Of a figure's module: its import takes the place of the function in zfcuda.figures."""
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **kwargs)


class _MovedFinder:
    """Finds modules by their old names, and says so."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return _spec_of(name, stacklevel=3) if _places(name) else None

    @staticmethod
    def create_module(spec: ModuleSpec) -> ModuleType:
        return _Moved(spec.name)

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        """All is elsewhere."""


def _spec_of(old: str, stacklevel: int) -> ModuleSpec:
    now = " and ".join(_places(old))
    warnings.warn(f"{old} is {now} now", DeprecationWarning, stacklevel=stacklevel)
    return ModuleSpec(old, _MovedFinder, is_package=True)  # type: ignore[arg-type]


def _places(old: str) -> list[str]:
    """Where the names of an old module are, or of the package that it was in."""
    name = old.removeprefix("zfcuda.")
    if name == old:  # somebody else's
        return []
    while name and name not in _MOVED:
        name = name.rpartition(".")[0]
    return [f"zfcuda.{place}" for place in _MOVED[name].split()] if name else []


sys.meta_path.append(_MovedFinder)  # type: ignore[arg-type]


# --- the compiled library -------------------------------------------------------------------------


def _with_torch() -> None:
    """Load the library: at once where torch is there, otherwise when it is imported. Without torch
    an op is of no use, and torch is all that is slow in ``import zfcuda``."""
    _step_aside()
    on_disk = _torch_on_disk()
    runs = _is_compiled(_folder()) and on_disk and not _too_old(on_disk)
    if runs and "torch" not in sys.modules:
        sys.meta_path.insert(0, _TorchFinder())
    else:
        load_library()


def load_library() -> None:
    """Register the ops as ``torch.ops.zfcuda``, unless they are.

    The library uses torch's stable ABI only, and no Python: one build runs under every torch since
    the oldest that was tested, and under every Python.

    Raises:
        ImportError: if there is no compiled library beside the Python files, if the torch that is
            running is too old for it, or if it does not load here (one of another platform).
    """
    import torch

    library = _folder() / "_ops.so"
    if not _is_compiled(library.parent):
        raise ImportError(_missing())
    if _too_old(torch.__version__):
        oldest = ".".join(map(str, _oldest_torch()))
        raise ImportError(
            f"zfcuda needs torch {oldest} or later, but torch {torch.__version__} is running: "
            f"upgrade it with `pip install 'torch>={oldest}'`"
        )
    if str(library) in torch.ops.loaded_libraries:
        return
    try:
        torch.ops.load_library(library)
    except OSError as error:
        raise ImportError(
            f"zfcuda's compiled library does not load here ({error.__cause__ or error}): "
            f"build it with {_rebuild()}"
        ) from None


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
            load_library()

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


def _too_old(torch_version: str) -> bool:
    return _minor(torch_version) < _oldest_torch()


def _oldest_torch() -> tuple[int, ...]:
    return _minor(import_module("zfcuda._build_facts").TORCH_TESTED)


def _minor(text: str) -> tuple[int, ...]:
    """(2, 13) of "2.13.0+cpu"; of a range, where it begins."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def _folder() -> Path:
    return Path(sys.modules["zfcuda"].__path__[0]).resolve()


def _is_compiled(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("_ops.so", "_build_facts.py"))


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
        f"library (_ops.so): build it with {_rebuild()}"
    )


def _rebuild() -> str:
    clone = Path(__file__).resolve().parent.parent
    if (clone / "setup.py").is_file():
        return f"`pip install -e {clone}`, or move out of that folder to use an installed zfcuda"
    return "`pip install --force-reinstall --no-deps .` in zfcuda's source folder"


_with_torch()
