"""What results demand of their tensors."""

from __future__ import annotations

from torch import Tensor


def expect_shape(name: str, tensor: Tensor, *shape: int | None) -> None:
    """Raise unless ``tensor``, called ``name``, has this shape (None: any length).

    Raises:
        ValueError: it has another; both are named.
    """
    fits = tensor.dim() == len(shape) and all(
        wanted is None or length == wanted
        for length, wanted in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("*" if length is None else str(length) for length in shape)
        raise ValueError(f"{name} must have shape [{wanted}], got {list(tensor.shape)}")
