"""One experiment on one image, written as a picture and its numbers: for demo, cli and scripts."""

from __future__ import annotations

import difflib
import io
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

import zfcuda
from zfcuda import figures, info
from zfcuda._files import atomic_path
from zfcuda.data import Preprocessing
from zfcuda.report import Entry
from zfcuda.results import Result


@dataclass(frozen=True)
class Network:
    """A loaded model and what is needed to talk to it."""

    spec: str
    model: nn.Module
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None
    device: torch.device

    @classmethod
    def load(cls, spec: str, device: str = "auto") -> Network:
        """Load `spec` (see `zfcuda.models.load`) onto `device`: auto, cpu or cuda[:N]."""
        where = pick_device(device)
        model = zfcuda.models.load(spec).to(where)
        models = zfcuda.models
        return cls(spec, model, models.preprocessing(spec), models.class_names(spec), where)

    def input(self, image: Image.Image) -> Tensor:
        """The network's input for a picture, on the model's device."""
        return self.preprocessing.to_input(image).to(self.device)

    def display(self, x: Tensor) -> Any:
        """Network inputs as RGB pictures."""
        return self.preprocessing.to_display(x)

    def signals(self, projections: Mapping[str, Tensor]) -> dict[str, Any]:
        """Projections as RGB pictures, zero at mid grey."""
        show = self.preprocessing.signal_to_display
        return {layer: show(signal) for layer, signal in projections.items()}

    def name(self, label: int) -> str:
        """A class's name, or "class 7" where there is none."""
        known = self.class_names is not None and label < len(self.class_names)
        return self.class_names[label] if known else f"class {label}"

    def fill(self, colour: str) -> Tensor | float:
        """The network-input value of a colour: any that matplotlib knows, or "mean" (zero)."""
        if colour == "mean":
            return 0.0
        try:
            return self.preprocessing.display_value(to_rgb(colour))
        except ValueError:
            raise ValueError(
                f"fill {colour!r}: expected a colour (grey, black, #ff8000, 0.5) or mean"
            ) from None

    def label(self, text: str | None) -> int | None:
        """A label from its number or its class name; None stays None."""
        if text is None or re.fullmatch(r"[+-]?[0-9]+", text):
            return None if text is None else int(text)
        names = [name.casefold() for name in self.class_names or ()]
        if text.casefold() in names:
            return names.index(text.casefold())
        close = difflib.get_close_matches(text.casefold(), names, n=3)
        hint = ", ".join(repr(self.name(names.index(name))) for name in close)
        raise ValueError(
            f"target {text!r} is neither the number nor the name of a class"
            + (f"; did you mean {hint}?" if hint else "")
        )

    def layers(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """(name, kind, output shape) of every layer that gives one tensor, in order of execution.

        Found by one forward pass over an empty picture; a layer used twice is listed once.
        """
        rows: dict[str, tuple[str, str, tuple[int, ...]]] = {}

        def record(name: str, module: nn.Module, output: object) -> None:
            if name and isinstance(output, Tensor):
                rows.setdefault(name, (name, type(module).__name__, tuple(output.shape)))

        hooks = [
            module.register_forward_hook(lambda m, _, out, name=name: record(name, m, out))
            for name, module in self.model.named_modules()
        ]
        side = self.preprocessing.size
        try:
            with torch.no_grad():
                self.model(torch.zeros(1, 3, side, side, device=self.device))
        finally:
            for hook in hooks:
                hook.remove()
        return list(rows.values())


def pick_device(name: str) -> torch.device:
    """The device that `name` (auto, cpu, cuda, cuda:N) means here.

    Raises:
        ValueError: the name is unknown, or the device cannot be used, with the reason.
    """
    if name == "cpu":
        return torch.device("cpu")
    usable, reason = _cuda_verdict()
    if name == "auto":
        return torch.device("cuda" if usable else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type != "cuda":
        raise ValueError(f"device {name!r}: expected auto, cpu, cuda or cuda:N")
    if not usable:
        raise ValueError(f"device {name!r} cannot be used: {reason}")
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise ValueError(f"device {name!r}: there are {torch.cuda.device_count()} CUDA devices")
    return device


def _cuda_verdict() -> tuple[bool, str]:
    if not torch.cuda.is_available():
        return False, "torch sees no CUDA device"
    facts = info.collect()
    return facts.cuda, facts.cuda_verdict


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


def writable_folder(path: str | os.PathLike[str]) -> Path:
    """Make the folder `path` and try a file in it, so that a long job cannot fail at its end.

    Raises:
        ValueError: it cannot be made or written, with the system's reason.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(
            f"output folder '{path}' cannot be written ({error.strerror}); expected one that can, "
            "with --out"
        ) from error
    return path


# ------------------------------------------------------------------------------ the experiments


def predict(network: Network, x: Tensor, name: str, stem: Path) -> Entry:
    """The top-5 panel of one input."""
    result = zfcuda.predict(network.model, x)
    probabilities, labels = result.top(1)
    label, probability = int(labels[0, 0]), float(probabilities[0, 0])
    figure = figures.prediction(
        result,
        images=network.display(x),
        class_names=network.class_names,
        title=f"{name}: prediction",
    )
    text = f"{network.name(label)} with probability {probability:.3f}."
    return _write("Prediction", text, result, figure, stem)


def project(
    network: Network,
    x: Tensor,
    name: str,
    stem: Path,
    layers: Sequence[str],
    progress: bool = False,
    **settings: Any,
) -> Entry:
    """Deconvnet projections of `layers`; `settings` go to `zfcuda.deconvnet.projections`."""
    from zfcuda.deconvnet import projections

    result = projections(network.model, x, list(layers), progress=progress, **settings)
    k = len(result.columns)
    result = replace(result, columns=(name,) if k == 1 else tuple(_ordinal(i) for i in range(k)))
    figure = figures.projection_grid(
        result,
        images=network.display(result.images),
        projections=network.signals(result.projections),
        title=f"{name}: projections",
    )
    text = (
        "What the strongest units of each layer respond to, projected back to the input. Mid grey "
        "is no signal, squares mark what a unit sees; small ones are shown enlarged, above their "
        "image patch."
    )
    return _write("Projections", text, result, figure, stem)


def background(
    network: Network,
    x: Tensor,
    mask: Tensor,
    name: str,
    stem: Path,
    layers: Sequence[str],
    colours: Mapping[str, tuple[float, float, float]],
) -> Entry:
    """The object on its background, on plain colours (RGB in 0..1) and cut out."""
    fills = {name: network.preprocessing.display_value(rgb) for name, rgb in colours.items()}
    result = zfcuda.background_effect(network.model, x, mask, list(layers), fills=fills)
    figure = figures.background_effect(
        result,
        images=network.display(result.images),
        projections=network.signals(result.projections),
        class_names=network.class_names,
        title=f"{name}: the background's effect",
    )
    text = (
        "The same object on its own background, on plain colours and cut out (on the mean "
        "colour): what the network says, and what the strongest unit of each layer responds to. "
        "Squares mark what a unit sees; small ones are shown enlarged, above their image patch. "
        "“moved” is the length of a projection's change as a share of the original's length."
    )
    return _write("What the background contributes", text, result, figure, stem)


def occlude(
    network: Network,
    x: Tensor,
    name: str,
    stem: Path,
    layer: str | None = None,
    progress: bool = False,
    **settings: Any,
) -> Entry:
    """The occlusion row; `settings` go to `zfcuda.occlusion`."""
    from zfcuda.deconvnet import projections

    layers = [layer] if layer else []
    result = zfcuda.occlusion(network.model, x, layers=layers, progress=progress, **settings)
    signals, numbers = None, []
    if layer:
        # The occlusion's own map, so that the row shows one map throughout.
        channel = int(result.layers[layer].channels[0])
        projected = projections(network.model, x, layers, channel=channel)
        signals = network.signals(projected.projections)
        numbers = _numbers(projected, stem.with_name(f"{stem.name}-projection"))
    figure = figures.occlusion_row(
        result,
        images=network.display(x),
        projections=signals,
        class_names=network.class_names,
        title=f"{name}: occlusion",
    )
    target = network.name(int(result.target[0]))
    text = (
        f"A plain square is moved over the image ({result.grid[0]}×{result.grid[1]} positions). "
        f"Where it hides what matters, P({target}) falls, the most probable label changes and the "
        "strongest map falls silent."
    )
    return _write("Occlusion", text, result, figure, stem, numbers)


def rotate(
    network: Network,
    x: Tensor,
    name: str,
    stem: Path,
    degrees: Sequence[float],
    layers: Sequence[str] = (),
    progress: bool = False,
    **settings: Any,
) -> Entry:
    """The rotation curve; `settings` go to `zfcuda.rotation`."""
    from zfcuda.invariance import rotation_matrices

    result = zfcuda.rotation(
        network.model, x, list(degrees), layers=list(layers), progress=progress, **settings
    )
    shown = [degrees[i] for i in _spread(len(degrees), 8)]
    thumbnails = zfcuda.ops.warp_affine(x, rotation_matrices(shown, x.shape[2:]), result.fill)[0]
    figure = figures.invariance_curve(
        result,
        images=network.display(thumbnails),
        image_values=shown,
        class_names=network.class_names,
        title=f"{name}: rotation",
    )
    text = (
        f"P({network.name(int(result.target[0]))}), the predicted label and the distance of the "
        "features to those of the upright image, against the angle."
    )
    return _write("Rotation", text, result, figure, stem)


def _ordinal(index: int) -> str:
    return "strongest" if index == 0 else f"no. {index + 1}"


def _spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` indices of `count`, evenly spread, the last left out (360° is 0° again)."""
    wanted = min(count, wanted)
    return [i * (count - 1) // wanted if count > wanted else i for i in range(wanted)]


# --------------------------------------------------------------------------------------- files


def _numbers(result: Result, stem: Path) -> list[Path]:
    result.save(stem)
    return [stem.with_name(f"{stem.name}{suffix}") for suffix in (".npz", ".json")]


def _write(
    title: str,
    text: str,
    result: Result,
    figure: Figure,
    stem: Path,
    more_numbers: Sequence[Path] = (),
) -> Entry:
    """Save numbers, then the picture, under `stem`: so no picture lacks its numbers."""
    numbers = [*_numbers(result, stem), *more_numbers]
    png = stem.with_name(f"{stem.name}.png")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    with atomic_path(png) as temporary:
        Path(temporary).write_bytes(buffer.getvalue())
    return Entry(title, png, tuple(numbers), text)
