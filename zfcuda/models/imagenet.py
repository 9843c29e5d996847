"""ImageNet's classes."""

from __future__ import annotations

from importlib import resources

__all__ = ["CLASSES", "class_names"]

CLASSES = 1000


def class_names() -> tuple[str, ...]:
    """Their names in label order, as torchvision has them."""
    names = resources.files("zfcuda.models").joinpath("imagenet_classes.txt")
    return tuple(names.read_text(encoding="utf-8").splitlines())
