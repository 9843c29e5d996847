"""What the background contributes to the decision and to the projections (the talk's figures 3,
4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from zfcuda.experiments.deconvnet.projecting import projections
from zfcuda.experiments.predictions import predict
from zfcuda.inference.checks import (
    check_input,
    choose_target,
    concatenated,
    fill_setting,
    plain,
    to_result,
)
from zfcuda.inference.layers import Layers
from zfcuda.results.base import Outputs
from zfcuda.results.predictions import BackgroundResult


@torch.inference_mode(False)  # nothing made here is an inference tensor
def background_effect(
    model: nn.Module,
    x: Tensor,
    mask: Tensor,
    layers: Layers,
    target: int | None = None,
    fills: Mapping[str, float | Sequence[float] | Tensor] | None = None,
    max_memory: int | None = None,
    progress: bool = False,
    outputs: Outputs | None = None,
) -> BackgroundResult:
    """One object on its background, on plain colours and cut out: predictions and projections.

    The variants are "original", one for each of ``fills``, and "cut-out", whose background is 0 in
    network input space, the mean colour of a model with mean-subtracted input. Each variant's
    strongest activation of its strongest map is projected (:func:`zfcuda.deconv`), so that a change
    of the strongest unit counts as a change of what the layer sees.

    Args:
        model, max_memory, outputs: as :func:`zfcuda.predict`.
        x: [1,C,H,W], one image, on the model's device and of its dtype.
        mask: [H,W], bool or in 0..1, 1 on the object (an alpha channel).
        layers: names of ``model.named_modules()``, or the modules, to project.
        target: the class the probabilities are about; None takes the original's prediction.
        fills: name of a background -> its colour in network input space, a number, one per channel
            [C] or a whole image [C,H,W]; :meth:`Preprocessing.display_value` makes one of RGB.
        progress: show a progress bar.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or out of range.
    """
    x = check_input(model, x, one=True)
    if not isinstance(mask, Tensor) or mask.shape != x.shape[2:]:
        got = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            f"mask must be a tensor of the image's size {list(x.shape[2:])}, got {got}"
        )
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise ValueError(
            f"mask must be between 0 and 1, got {mask.min().item()} to {mask.max().item()}"
        )
    colours = dict(fills or {})
    reserved = {"original", "cut-out"} & colours.keys()
    if reserved:
        raise ValueError(f"fills must not be named {sorted(reserved)}: these variants always exist")

    object_part = plain(mask).detach().to(x.device, x.dtype)
    images = [x.detach()]
    for colour in [*colours.values(), 0.0]:
        value = torch.as_tensor(fill_setting(colour, x, with_image=True)).to(images[0])
        background = value[:, None, None] if value.dim() == 1 else value
        images.append(torch.lerp(background.expand_as(x), images[0], object_part))
    variants = concatenated(images)

    said = predict(model, variants, max_memory, outputs)
    seen = projections(model, variants, layers, max_memory=max_memory, progress=progress)
    return BackgroundResult(
        variants=("original", *colours, "cut-out"),
        images=seen.images,
        logits=said.logits,
        target=int(choose_target(target, said.logits[:1])),
        projections=seen.projections,
        projection_change={layer: _change(seen.projections[layer]) for layer in seen.layers},
        units=seen.units,
        activations=seen.activations,
        mask=to_result(object_part).clone(),
        on_object={
            layer: _on_object(seen.projections[layer], to_result(object_part))
            for layer in seen.layers
        },
        outputs=said.outputs,
        sizes=seen.sizes,
        precision=seen.precision,
    )


def _change(signals: Tensor) -> Tensor:
    """[V], norm of each signal's difference to the first over the first's norm (0/0 is NaN)."""
    distance = torch.linalg.vector_norm(signals - signals[:1], dim=(1, 2, 3))
    return distance / torch.linalg.vector_norm(signals[0])


def _on_object(signals: Tensor, mask: Tensor) -> Tensor:
    """[V], share of each signal's sum of squares that lies where the mask is (0/0 is NaN)."""
    energy = signals.double().square().sum(1)
    return ((energy * mask).sum((1, 2)) / energy.sum((1, 2))).to(signals.dtype)
