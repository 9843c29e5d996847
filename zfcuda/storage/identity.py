"""What results depend on besides their settings: a model's weights and code, versions, and what
convolutions and matrix products round the numbers to that they multiply.

For that torch has a switch for each of the two, on each kind of device, under an older and a newer
name (``torch.backends.cudnn.allow_tf32`` and ``torch.backends.cudnn.conv.fp32_precision``, say). By
default float32 convolutions are TF32 on NVIDIA GPUs that know it, and linear layers are not.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # as the default repr has it: another in every process


def weights_digest(model: nn.Module) -> str:
    """sha256 of the state dict: names, types, shapes and values, in its order."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):  # what a module of one's own keeps besides
            digest.update(f"{name} {_ADDRESS.sub('', repr(value))}".encode())
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(_bytes_of(value))
    return digest.hexdigest()


def architecture_digest(model: nn.Module) -> str:
    """sha256 of the model's printed form: kinds of modules, strides and the like, which no weight
    tells."""
    return hashlib.sha256(_ADDRESS.sub("", repr(model)).encode()).hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    """sha256 of type, shape and values."""
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def versions(*packages: str) -> dict[str, str]:
    """The installed versions of some packages; those that are not installed are left out.

    Of torch with its build, as 2.13.0+cu130: another build rounds differently.
    """
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # run from a source tree
            continue
    if "torch" in found:
        found["torch"] = str(torch.__version__)  # PyPI's own version is without the build
    return found


def same_versions(there: Any, here: Any) -> bool:
    """Whether two records of :func:`versions` are alike. What zfcuda 0.1.0 began goes on: it
    computed the same but for rounding. Its records may lack the build of torch, which then
    does not count."""
    if not (isinstance(there, dict) and isinstance(here, dict)):
        return bool(there == here)
    if there.get("zfcuda") == "0.1.0":
        there = {**there, "zfcuda": here.get("zfcuda")}
    old, new = str(there.get("torch")), str(here.get("torch"))
    release = new if "+" in old else new.partition("+")[0]
    return {**there, "torch": old} == {**here, "torch": release}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within, torch's random numbers on the CPU begin at ``seed``; afterwards they go on as if none
    had been drawn. Those of GPUs are left alone, which torch.manual_seed would all begin anew."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


# --- what products are made of --------------------------------------------------------------------

# What torch calls short types, and how; all others of its words are float32.
_NAMES = {"tf32": "tf32", "bf16": "bfloat16"}
# What torch.get_float32_matmul_precision says, in these words.
_WORDS = {"highest": "ieee", "high": "tf32", "medium": "bf16"}


@dataclass(frozen=True)
class Precision:
    """What the numbers that are multiplied are rounded to; sums are kept in float32 at least.

    Attributes:
        convolutions: "float32", "tf32" (10 bits of mantissa in place of 23), "bfloat16" (7),
            "float16" (10) or "float64".
        products: the same of linear layers and other matrix products.
    """

    convolutions: str
    products: str

    @property
    def eps(self) -> float:
        """The machine epsilon of the shorter of the two."""
        return max(map(_eps, (self.convolutions, self.products)))

    @property
    def reduced(self) -> bool:
        """Whether some numbers have fewer bits than float32's."""
        return self.eps > torch.finfo(torch.float32).eps


def precision(device: torch.device, dtype: torch.dtype = torch.float32) -> Precision:
    """What holds now for maps and weights of this type on a device, whichever of its names torch
    was told it by."""
    cast = _autocast(device.type)
    if cast is not None and dtype != torch.float64:
        dtype = cast
    if dtype != torch.float32:
        return Precision(_name(dtype), _name(dtype))
    known = _known(device)
    return Precision(*(effective(told, device.type, known) for told in _told(device.type)))


def effective(told: str, kind: str, known: Collection[str]) -> str:
    """What float32 numbers are rounded to where torch was told one of its words, "ieee", "tf32",
    "bf16" or "none", on a ``kind`` of device that knows these short types."""
    if kind == "cuda" and told == "bf16":  # what "medium" means there
        told = "tf32"
    name = _NAMES.get(told, "float32")
    return name if name in known else "float32"


def precision_record(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """The same for a run's settings, besides autocast's type."""
    now = precision(device, dtype)
    autocast = _name(_autocast(device.type) or "off")
    return {"autocast": autocast, "convolutions": now.convolutions, "products": now.products}


def as_recorded_now(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, Any]:
    """A run's settings ``there`` as they would be noted now, where they are of an earlier zfcuda,
    which noted torch's word for float32 products. Of convolutions it noted nothing: they are taken
    to be those of ``here``."""
    word = _WORDS.get(str(there.get("float32 products")))
    if word is None or "products" not in here:
        return {**there}
    found = {key: value for key, value in there.items() if key != "float32 products"}
    found |= {key: here[key] for key in ("convolutions", "products")}
    image = there.get("image")  # where the runs of the strongest activations say the type
    dtypes = [there.get("dtype"), *(image if isinstance(image, list) else ())]
    if there.get("autocast") == "off" and "float32" in dtypes:
        kind = "cuda" if there.get("device") == "cuda" else "cpu"
        found["products"] = effective(word, kind, _known(torch.device(kind)))
    return found


def _eps(name: str) -> float:
    return 2**-10 if name == "tf32" else torch.finfo(getattr(torch, name)).eps


def _name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


def _autocast(kind: str) -> torch.dtype | None:
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return None


def _told(kind: str) -> tuple[str, str]:
    """torch's words for float32 convolutions and products. Its newer names can always be read, and
    know what was set by the older ones, which raise where both were used."""
    backends = torch.backends
    if kind == "cuda":
        products = backends.cuda.matmul.fp32_precision
        # Without cuDNN convolutions are matrix products.
        return backends.cudnn.conv.fp32_precision if backends.cudnn.enabled else products, products
    if kind == "cpu" and backends.mkldnn.is_available() and backends.mkldnn.enabled:
        return backends.mkldnn.conv.fp32_precision, backends.mkldnn.matmul.fp32_precision
    return "none", "none"


def _known(device: torch.device) -> frozenset[str]:
    """The short types that products of float32 numbers can be made of on a device."""
    if device.type == "cuda":
        # One that is not there, as in a record of another machine, is taken for a new one.
        there = torch.cuda.is_available()
        major = torch.cuda.get_device_capability(device)[0] if there else 8
        forbidden = os.environ.get("NVIDIA_TF32_OVERRIDE") == "0"
        return frozenset() if major < 8 or forbidden else frozenset({"tf32"})
    return _known_to_this_cpu() if device.type == "cpu" else frozenset()


@cache
def _known_to_this_cpu() -> frozenset[str]:
    """oneDNN multiplies shorter numbers than it is given on x86 with AMX only, and on Arm."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return frozenset({"bfloat16"})
    tiles = torch.cpu._is_amx_tile_supported()
    halves = torch.cpu._is_amx_fp16_supported()
    return frozenset({"bfloat16"} if tiles else ()) | frozenset({"tf32"} if halves else ())
