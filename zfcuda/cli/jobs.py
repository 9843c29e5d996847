"""One experiment on one image, written as pictures and numbers: for demo, commands and scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

import zfcuda
from zfcuda import figures
from zfcuda.cli.network import Network
from zfcuda.report.entries import Entry
from zfcuda.report.writing import Provenance, save_numbers, write
from zfcuda.results.base import called, in_words
from zfcuda.storage.files import subject

if TYPE_CHECKING:
    from zfcuda.results.occlusion import OcclusionResult


def angles(text: str) -> list[float]:
    """Angles in degrees from "START:STOP:STEP" (both ends included) or "A,B,C".

    Raises:
        ValueError: anything else, a step that is not above 0, or more than 3,600 angles.
    """
    wrong = ValueError(
        f"angles {text!r}: expected START:STOP:STEP (as 0:360:5) or A,B,C in degrees"
    )
    try:
        if ":" not in text:
            return [float(part) for part in text.split(",")]
        start, stop, step = (float(part) for part in text.split(":"))
    except ValueError:
        raise wrong from None
    if not (step > 0 and stop >= start and (stop - start) / step < 3600):
        raise wrong
    return [start + step * i for i in range(int((stop - start) / step + 1e-9) + 1)]


# ------------------------------------------------------------------------------ the experiments


def predict(
    network: Network, x: Tensor, name: str, stem: Path, provenance: Provenance | None = None
) -> Entry:
    """The top-5 panel of one input."""
    provenance = provenance or Provenance("predict", {"image": name}, network.facts())
    result = zfcuda.predict(
        network.model, x, outputs=network.outputs, class_names=network.class_names
    )
    probabilities, labels = (
        found[0].tolist() for found in result.top(min(5, len(result.logits[0])))
    )
    figure = figures.prediction(
        result,
        images=network.display(x),
        class_names=network.class_names,
        title=_title(network, name, "prediction"),
    )
    count = result.logits.shape[1]
    found = [f"{network.name(i)} {p:.3f}" for i, p in zip(labels, probabilities, strict=True)]
    if count == 1:
        score = called(result.outputs, network.name(0, 1))
        text = f"{score[:1].upper()}{score[1:]} {probabilities[0]:.3f}."
    elif result.outputs == "value":
        text = f"The largest values: {', '.join(found)}."
    else:
        text = f"The most probable classes: {', '.join(found)}."
    text += in_words(result.outputs)
    return write("Prediction", text, result, figure, stem, provenance, "talk figure 3")


def project(
    network: Network,
    x: Tensor,
    name: str,
    stem: Path,
    layers: Sequence[str],
    progress: bool = False,
    provenance: Provenance | None = None,
    **settings: Any,
) -> Entry:
    """Deconvnet projections of `layers`; `settings` go to `zfcuda.projections`."""
    from zfcuda.experiments.deconvnet.projecting import projections

    provenance = provenance or _made("deconv", network, name, settings, layer=layers)
    result = projections(network.model, x, list(layers), progress=progress, **settings)
    k = len(result.columns)
    result = replace(result, columns=(name,) if k == 1 else tuple(_ordinal(i) for i in range(k)))
    figure = figures.projection_grid(
        result,
        images=network.display(result.images),
        projections=network.signals(result.projections),
        class_names=network.class_names,
        title=_title(network, name, "projections", layers, settings.get("channel")),
    )
    chosen = settings.get("channel") is not None or settings.get("position", "max") != "max"
    text = (
        f"What the {'chosen' if chosen else 'strongest'} {'unit' if k == 1 else 'units'} of each "
        "layer responded to, projected back to the input. Mid grey is no signal, squares mark what "
        "a unit sees; small ones are shown enlarged, above their image patch."
    )
    return write("Projections", text, result, figure, stem, provenance, "talk figure 2")


def background(
    network: Network,
    x: Tensor,
    mask: Tensor,
    name: str,
    stem: Path,
    layers: Sequence[str],
    colours: Mapping[str, tuple[float, float, float]],
    provenance: Provenance | None = None,
    target: int | None = None,
) -> Entry:
    """The object on its background, on plain colours (RGB in 0..1) and cut out."""
    provenance = provenance or _made("background", network, name, colours, layer=layers)
    fills = {name: network.preprocessing.display_value(rgb) for name, rgb in colours.items()}
    result = zfcuda.background_effect(
        network.model, x, mask, list(layers), target, fills, outputs=network.outputs
    )
    figure = figures.background_effect(
        result,
        images=network.display(result.images),
        projections=network.signals(result.projections),
        class_names=network.class_names,
        title=_title(network, name, "the background's effect", layers),
    )
    text = (
        "The same object on its own background, on plain colours and cut out (on the mean "
        "colour): what the network says, and what the strongest unit of each layer responds to. "
        "Squares mark what a unit sees; small ones are shown enlarged, above their image patch. "
        "“moved” is the length of a projection's change as a share of the original's length, “on "
        "object” the share of its energy (sum of squares) that lies on the object."
        + in_words(result.outputs)
    )
    return write(
        "What the background contributes",
        text,
        result,
        figure,
        stem,
        provenance,
        "talk figures 3 and 4",
    )


def occlude(
    network: Network,
    x: Tensor,
    name: str,
    stem: Path,
    layer: str | None = None,
    progress: bool = False,
    provenance: Provenance | None = None,
    **settings: Any,
) -> Entry:
    """The occlusion row; `settings` go to `zfcuda.occlusion`."""
    from zfcuda.experiments.deconvnet.projecting import projections

    provenance = provenance or _made("occlude", network, name, settings, layer=layer)
    layers = [layer] if layer else []
    result = zfcuda.occlusion(
        network.model, x, layers=layers, progress=progress, outputs=network.outputs, **settings
    )
    signals, numbers, channel = None, (), None
    if layer:
        # The occlusion's own map, so that the row shows one map throughout.
        channel = int(result.layers[layer].channels[0])
        projected = projections(network.model, x, layers, channel=channel)
        signals = network.signals(projected.projections)
        numbers = save_numbers(projected, stem.with_name(f"{stem.name}-projection"), provenance)
    figure = figures.occlusion_row(
        result,
        images=network.display(x),
        projections=signals,
        class_names=network.class_names,
        title=_title(network, name, "occlusion", layer, channel),
    )
    text = _said_of_occlusion(result, network) + in_words(result.outputs)
    return write(
        "Occlusion",
        text,
        result,
        figure,
        stem,
        provenance,
        "talk figure 5, paper figure 7",
        numbers,
    )


def rotate(
    network: Network,
    x: Tensor,
    name: str,
    stem: Path,
    degrees: Sequence[float],
    layers: Sequence[str] = (),
    progress: bool = False,
    provenance: Provenance | None = None,
    **settings: Any,
) -> Entry:
    """The rotation curve; `settings` go to `zfcuda.rotation`."""
    from zfcuda.experiments.invariance.experiment import rotation_matrices

    provenance = provenance or _made(
        "rotate", network, name, settings, angles=degrees, layer=layers
    )
    result = zfcuda.rotation(
        network.model, x, list(degrees), layers=list(layers), progress=progress,
        outputs=network.outputs, **settings,
    )  # fmt: skip
    shown = [degrees[i] for i in _spread(len(degrees), 8)]
    thumbnails = zfcuda.ops.warp_affine(x, rotation_matrices(shown, x.shape[2:]), result.fill)[0]
    figure = figures.invariance_curve(
        result,
        images=network.display(thumbnails),
        image_values=shown,
        class_names=network.class_names,
        title=_title(network, name, "rotation", layers),
    )
    shown = [
        called(result.outputs, network.name(int(result.target[0]), result.base_logits.shape[1]))
    ]
    if result.base_logits.shape[1] > 1:
        shown.append("the largest value" if result.outputs == "value" else "the predicted label")
    if layers:
        features = ", ".join(layers)
        shown.append(f"the distance of the features at {features} to those of the upright image")
    text = _list(shown)
    text = f"{text[:1].upper()}{text[1:]}, against the angle." + in_words(result.outputs)
    return write(
        "Rotation", text, result, figure, stem, provenance, "talk figure 6, paper figure 5"
    )


def _title(
    network: Network, name: str, what: str, layers: Sequence[str] | None = None, channel: Any = None
) -> str:
    """What a figure is of: the image, the experiment, the model, and what of it."""
    layers = layers if layers is None or isinstance(layers, str) else [*layers]
    return f"{name}: {what}, {subject(network.spec, layers, channel)}"


def _made(
    command: str, network: Network, name: str, settings: Mapping[str, object], **more: object
) -> Provenance:
    """The provenance of a job that no command line asked for."""
    return Provenance(command, {"image": name, **more, **settings}, network.facts())


def _said_of_occlusion(result: OcclusionResult, network: Network) -> str:
    """What was done to the one image, and what came out of what was watched."""
    (height, width), (down, right) = result.size, result.stride
    target = int(result.target[0])
    found = [
        _against(
            called(result.outputs, network.name(target, result.base_logits.shape[1])),
            result.base_probabilities[0, target],
            result.target_probability[0],
        )
    ]
    if result.base_logits.shape[1] > 1 and result.outputs != "value":
        changed = int((~result.unchanged[0]).sum())
        found.append(
            f"the most probable label changes at {changed:,} position{'s' * (changed > 1)}"
            if changed
            else "the most probable label stays"
        )
    found += [
        _against(
            f"the sum of the strongest map of {layer} ({int(sums.channels[0])})",
            sums.base[0],
            sums.sums[0],
        )
        for layer, sums in result.layers.items()
    ]
    said = "; ".join(found)
    return (
        f"An occluder of {height}×{width} pixels is moved over the image in steps of "
        f"{down}×{right} ({result.grid[0]}×{result.grid[1]} positions): {said}."
    )


def _against(name: str, base: Tensor, values: Tensor) -> str:
    """A score without occluder, and its range with it, as far as it is a number."""
    known = values[values.isfinite()]
    if not len(known):
        return f"{name} is {float(base):.3g} without it and never a number with it"
    low, high = float(known.min()), float(known.max())
    with_it = f"{low:.3g} to {high:.3g}" if f"{low:.3g}" != f"{high:.3g}" else f"{low:.3g}"
    return f"{name} is {float(base):.3g} without it and {with_it} with it"


def _list(parts: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(parts[:-1]), parts[-1]) if part)


def _ordinal(index: int) -> str:
    return "strongest" if index == 0 else f"no. {index + 1}"


def _spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` indices of `count`, evenly spread, the last left out (360° is 0° again)."""
    wanted = min(count, wanted)
    return [i * (count - 1) // wanted if count > wanted else i for i in range(wanted)]
