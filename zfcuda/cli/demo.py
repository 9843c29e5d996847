"""`zfcuda demo`: two photographs and a garment, two trained networks, the talk's figures 3 to 6."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

import torch
from PIL import Image, ImageDraw
from torch import Tensor

import zfcuda
from zfcuda import figures, report
from zfcuda.cli.command import Finding, write
from zfcuda.cli.commands import background, deconv, occlude, predict, rotate
from zfcuda.cli.network import Network
from zfcuda.data.fashion import garments
from zfcuda.models import from_files
from zfcuda.report.writing import Provenance, writable_folder
from zfcuda.results.training import TrainingResult
from zfcuda.storage.terminal import extra
from zfcuda.storage.terminal import progress as progress_bar

# What an early, a middle and a late layer respond to: edges, textures, parts.
_LAYERS = {
    "squeezenet1_1": ("features.3", "features.7", "features.12"),
    "zfnet_small": ("relu1", "relu2", "relu5"),
}
_GARMENT = 0  # which of the pictures that come with zfcuda
_COLOURS = {"on black": (0.0, 0.0, 0.0), "on white": (1.0, 1.0, 1.0), "on blue": (0.1, 0.3, 0.8)}
_ANGLES = [float(degrees) for degrees in range(0, 361, 5)]
_GREY = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class _Photograph:
    """A photograph of scikit-image and the outline (x, y in its pixels) of the object in it.

    The outlines are traced by hand: no segmentation tells a blurred cat's chest from her chin, or
    a brown saucer from a brown table, as well as that.
    """

    name: str
    title: str
    outline: tuple[tuple[int, int], ...]

    def read(self) -> Image.Image:
        from skimage import data

        return Image.fromarray(getattr(data, self.name)())

    def mask(self, size: tuple[int, int]) -> Image.Image:
        """White (255) on the object, black elsewhere, `size` as PIL gives it."""
        mask = Image.new("L", size, 0)
        ImageDraw.Draw(mask).polygon(self.outline, fill=255)
        return mask


# fmt: off
_CAT = _Photograph("chelsea", "Chelsea the cat", (
    (36, 0), (33, 40), (30, 80), (33, 105), (42, 125), (45, 148), (55, 168), (66, 190), (80, 207),
    (100, 226), (122, 244), (140, 255), (155, 265), (175, 272), (200, 277), (225, 283), (245, 288),
    (262, 288), (278, 281), (298, 271), (308, 255), (312, 240), (318, 228), (326, 212), (338, 195),
    (350, 178), (358, 160), (362, 145), (363, 125), (358, 105), (354, 88), (352, 73), (365, 60),
    (373, 42), (380, 25), (390, 12), (398, 0),
))
_COFFEE = _Photograph("coffee", "A cup of coffee", (
    (181, 72), (160, 80), (135, 97), (112, 117), (95, 142), (84, 168), (78, 198), (77, 230),
    (82, 256), (92, 285), (108, 310), (130, 332), (155, 351), (185, 367), (220, 380), (260, 386),
    (300, 387), (335, 382), (370, 371), (405, 354), (435, 330), (458, 300), (472, 268), (479, 235),
    (478, 205), (471, 175), (459, 150), (443, 128), (428, 113), (418, 106), (424, 78), (421, 70),
    (410, 66), (402, 68), (398, 74), (390, 62), (375, 48), (355, 35), (330, 25), (300, 19),
    (280, 18), (255, 21), (230, 29), (208, 41), (190, 57),
))
# fmt: on


def run(
    out: str | os.PathLike[str] = "zfcuda-demo", device: str = "auto", progress: bool = True
) -> Path:
    """Explain two photographs with SqueezeNet 1.1, and a garment with the ZF network trained here;
    return the index page's path.

    For each picture: the top-5 predictions, projections from three layers with and without
    the background, the occlusion row and the rotation curve; of the ZF network its training's
    curves, too. Each is a PNG beside its numbers. Every file appears whole or not at all, the index
    page last.

    Raises:
        ModuleNotFoundError: the "demo" extra is not installed.
        ValueError: `out` cannot be written, or the device cannot be used.
    """
    began = perf_counter()
    folder = writable_folder(out)
    for module in ("skimage", "jinja2"):
        with extra(f"the demo needs {module}"):
            __import__(module)
    network = Network.load("squeezenet1_1", device)
    subjects = [_photographed(photo, network) for photo in (_CAT, _COFFEE)]
    subjects.append(_garment(Network.load("zfnet_small", device)))
    sections = {subject.title: report.Section(subject.title, []) for subject in subjects}
    steps = [(subject, *step) for subject in subjects for step in _steps(subject, progress)]
    with progress_bar(steps, desc="demo", unit="figure", disable=not progress) as bar:
        for subject, what, command, settings, look in bar:
            bar.set_postfix_str(f"{subject.name}: {what}")
            recorded = {"image": subject.name, **settings}
            provenance = Provenance(command, recorded, subject.network.facts())
            entry = write(look(), folder / f"{subject.name}-{what}", provenance)
            sections[subject.title].entries.append(entry)
    sections[subjects[-1].title].entries.append(_training(folder / "training"))
    return report.write_index(
        folder / "index.html",
        "What two networks see",
        [*sections.values()],
        "Made by zfcuda demo. Each figure links to its full size; below it are its numbers, as "
        "NumPy arrays (npz) and settings (json).",
        {
            "Networks": "SqueezeNet 1.1, trained on ImageNet (photographs); a ZF network, trained "
            "on Fashion-MNIST by zfcuda train (garment)",
            "zfcuda": zfcuda.__version__,
            "torch": torch.__version__,
            "Device": network.device,
            "Threads": torch.get_num_threads(),
            "Seconds": f"{perf_counter() - began:.0f}",
        },
    )


@dataclass(frozen=True)
class _Subject:
    """A picture as its network takes it."""

    name: str  # for files
    title: str  # for people
    network: Network
    x: Tensor  # [1,C,H,W]
    mask: Tensor  # [H,W] in 0..1, 1 on the object


def _photographed(photo: _Photograph, network: Network) -> _Subject:
    image = photo.read()
    mask = background.fitted(photo.mask(image.size), network, photo.name)
    return _Subject(photo.name, photo.title, network, network.input(image), mask)


def _garment(network: Network) -> _Subject:
    samples = garments(network.preprocessing)
    x, label = samples.pictures[_GARMENT]
    name = samples.pictures.class_names[label]
    opacity = Image.fromarray(samples.opacity[_GARMENT].numpy())
    mask = background.fitted(opacity, network, name)
    title = f"{name.capitalize()}, seen by a ZF network"
    return _Subject(name.replace(" ", "-"), title, network, x[None].to(network.device), mask)


def _steps(
    subject: _Subject, progress: bool
) -> Iterator[tuple[str, str, Mapping[str, object], Callable[[], Finding]]]:
    """What is done with one picture, in the page's order: what it is called, by which command, the
    settings, and the work."""
    network = subject.network
    layers = _LAYERS[network.spec]
    fill = network.preprocessing.display_value(_GREY)
    about = (network, subject.x, subject.name)
    yield "prediction", "predict", {}, partial(predict.predict, *about)
    look = partial(background.background, *about, subject.mask, layers, _COLOURS)
    yield "background", "background", {"layer": layers, **_COLOURS}, look
    settings: dict[str, object] = {"layer": layers, "k": 4}
    yield "projections", "deconv", settings, partial(deconv.deconv, *about, **settings)
    settings = {"layer": layers[-1], "fill": fill}
    look = partial(occlude.occlude, *about, progress=progress, **settings)
    yield "occlusion", "occlude", settings, look
    settings = {"angles": _ANGLES, "layer": layers, "fill": fill}
    look = partial(rotate.rotate, *about, progress=progress, **settings)
    yield "rotation", "rotate", settings, look


def _training(stem: Path) -> report.Entry:
    result = TrainingResult.load(from_files.run_record())
    text = (
        f"Loss and accuracy of each epoch. Epoch {result.best} has the lowest validation error and "
        f"was chosen; {result.test_accuracy:.1%} of the test pictures are right."
    )
    figure = figures.training_curves(result, title="The ZF network's training")
    finding = Finding("Training", text, result, figure, "paper section 3")
    return write(finding, stem, Provenance("demo"))
