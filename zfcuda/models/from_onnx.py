"""Networks in ONNX files; their reader, which needs the package onnx, is imported only when a spec
asks for one."""

from __future__ import annotations

from torch import nn

from zfcuda.data.preprocessing import Preprocessing
from zfcuda.models.from_files import IMAGENET_CLASSES, imagenet_names
from zfcuda.models.specs import Spec


def load(spec: Spec) -> nn.Module:
    """The network; its images' size, where the file leaves it open, is the spec's."""
    if not spec.file.is_file():
        raise FileNotFoundError(f"ONNX file '{spec.file}' does not exist")
    from zfcuda.models import onnx

    size = spec.preprocessing.get("size", Preprocessing().size)
    return onnx.load(spec.file, size=size if isinstance(size, tuple) else (size, size))


def preprocessing(spec: Spec) -> Preprocessing:
    """The usual one: the files do not say it."""
    return Preprocessing()


def class_names(spec: Spec, model: nn.Module | None) -> tuple[str, ...] | None:
    """ImageNet's where the last layer of `model` has as many outputs: the files do not say them."""
    *_, last = (None, *(model.state_dict().values() if model else ()))
    return imagenet_names() if last is not None and len(last) == IMAGENET_CLASSES else None
