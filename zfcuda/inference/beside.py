"""Whether what a model says of an image depends on the images beside it, as where it takes a
statistic over its batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from zfcuda.inference.checks import concatenated, settings_of
from zfcuda.storage.identity import precision

_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5}
# How far rounding alone may carry the answers of a network that amplifies it.
_AMPLIFIED = 1e-3

Run = Callable[[Tensor], Sequence[Tensor]]
"""A pass over images [n,C,H,W], which it may overwrite: tensors [n,...]."""

# By model, what was found not to depend on the images beside it.
_alone: WeakKeyDictionary[nn.Module, set[Any]] = WeakKeyDictionary()


def agree(
    some: Tensor, others: Tensor, dtypes: Collection[torch.dtype] = (), least: float = 0.0
) -> bool:
    """Whether answers are the same but for rounding, which differs with the number of images.

    Args:
        dtypes: of what they were computed from: a model may round to less than its answers hold.
        least: of their norm, what they may differ by in any case.
    """
    a, b = (t.double().nan_to_num(0, 0, 0) for t in (some, others))
    rounded = [dtype for dtype in (some.dtype, *dtypes) if dtype.is_floating_point]
    reduced = not rounded or any(precision(some.device, dtype).reduced for dtype in rounded)
    tolerance = 1e-2 if reduced else max(_TOLERANCES.get(dtype, 1e-2) for dtype in rounded)
    return bool((a - b).norm() <= max(tolerance, least) * torch.maximum(a.norm(), b.norm()))


def of_another_look(image: Tensor) -> Tensor:
    """An image like this one [1,C,H,W] with another mean, scale and extremes."""
    return 3 * image + 1


def rounds(
    alone: Tensor, beside: Tensor, again: Callable[[], Tensor], dtypes: Collection[torch.dtype] = ()
) -> bool:
    """Whether an image's answers alone and ``beside`` others differ by rounding only.

    A network that amplifies rounding does so for another number of images, whichever these are:
    ``again`` tells what it says beside other ones, as many.
    """
    if agree(beside, alone, dtypes):
        return True
    return agree(beside, alone, dtypes, _AMPLIFIED) and agree(again(), beside, dtypes)


def stands_alone(
    model: nn.Module,
    layers: Sequence[str],
    run: Run,
    image: Tensor,
    together: int,
    dtypes: Collection[torch.dtype] = (),
    stacklevel: int = 2,
    alone: Sequence[Tensor] = (),
) -> bool:
    """Whether a model, and these layers of it, say of ``image`` [1,C,H,W] the same whatever is
    beside it; asked once for images like it, and for as many as two beside two.

    Args:
        run: their answers.
        together: images that would go through the model at a time.
        dtypes: see :func:`agree`.
        alone: the answers to the image itself, where they are known.

    Warns:
        UserWarning: it does not, and is to be given one image at a time.
    """
    same = min(2, together - 1)
    known = _alone.setdefault(model, set())
    kind = (same, *layers, image.shape[1:], image.dtype, image.device, settings_of(model))
    if same < 1 or kind in known:
        return True
    try:
        stands = _stands_alone(run, image, alone or run(image.clone()), same, dtypes)
    except Exception:  # no picture for this model, or two are too many: then it will tell
        return True
    if stands:
        known.add(kind)
    else:
        warnings.warn(
            "the model answers otherwise for several images together than for each alone; it is "
            "given one at a time",
            stacklevel=stacklevel + 1,
        )
    return stands


def _stands_alone(
    run: Run, image: Tensor, alone: Sequence[Tensor], same: int, dtypes: Collection[torch.dtype]
) -> bool:
    def beside(other: Tensor) -> list[Tensor]:
        return [found[:same] for found in run(concatenated([image] * same + [other]))]

    others: list[Tensor] = []

    def beside_another(place: int) -> Tensor:
        others.extend([] if others else beside(-2 * image.flip(3)))
        return others[place]

    both = zip(alone, beside(of_another_look(image)), strict=True)
    return all(
        rounds(own.expand_as(found), found, partial(beside_another, place), dtypes)
        for place, (own, found) in enumerate(both)
    )
