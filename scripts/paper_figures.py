#!/usr/bin/env python3
"""Every experiment of the paper and the talk on the network that ships with zfcuda, as one gallery.

    python scripts/paper_figures.py --out figures

Each experiment is a `zfcuda` command and gets a folder of its own under --out; its done.json says
which. What is already there, made with the same settings and weights, is skipped, so an interrupted
run can simply be started again. An experiment that fails does not stop the others; the end of the
output says which and why, and the exit status is 1. Most of the time goes into the trainings of
`filters` and `ablate`; --quick makes them very short.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import zfcuda
from zfcuda import data, figures
from zfcuda.cli import batch
from zfcuda.cli.network import Network
from zfcuda.cli.terminal import Parser, guarded
from zfcuda.data import Garments, garments
from zfcuda.models import from_files
from zfcuda.report.gallery import write_gallery
from zfcuda.report.writing import save_pictures, writable_folder
from zfcuda.storage.files import atomic_path
from zfcuda.storage.terminal import say
from zfcuda.training import TrainingResult

_PROGRAM = "paper_figures.py"
_PICTURES = 5  # as many as the paper's figure 5 has
_SURE = 0.9


@dataclass(frozen=True)
class _Picture:
    """A picture of an object, as files.

    Attributes:
        image: the picture.
        name: of the folder for what is made of it.
        mask: white on the object, if that is known.
        label: its class, if that is known.
    """

    image: Path
    name: str
    mask: Path | None = None
    label: str | None = None


Settings = dict[str, Any]  # of a command's options, by name


@dataclass(frozen=True)
class _Plan:
    """What the experiments are made with.

    Attributes:
        network: the settings that name it.
        layers: the model's layers, in order of execution.
        maps: those of them that have maps.
        side: of the network's input, pixels.
        pictures: what is looked at one by one.
        data: the settings that name the data set.
        checkpoints: the settings that name those of the model's training; None without any.
        quick: whether trainings are very short.
    """

    network: Settings
    layers: list[str]
    maps: list[str]
    side: int
    pictures: list[_Picture]
    data: Settings
    checkpoints: Settings | None
    quick: bool

    def layer(self, *wanted: str) -> Settings:
        """Those layers, if the model has all of them; if not none, so the command's own choice."""
        return {"layer": [*wanted]} if {*wanted} <= {*self.layers} else {}

    def layer_or_last(self, *wanted: str) -> Settings:
        """Those layers, or the last that has maps."""
        return self.layer(*wanted) or {"layer": [self.maps[-1]]}

    def each(self, count: int, settings: Settings, target: bool = False) -> Commands:
        """A command for each of the first pictures; ``target``: about the picture's class."""
        return [
            (
                picture.name,
                {**self.network, "image": [str(picture.image)], **settings}
                | ({"target": picture.label} if target and picture.label else {}),
            )
            for picture in self.pictures[:count]
        ]


# ------------------------------------------------------------------------------ the experiments

Commands = list[tuple[str, Settings]]  # what it is about, and the command's own settings


def _diagram(plan: _Plan) -> Commands:
    return [("", settings) for _, settings in plan.each(1, {})]


def _projections(plan: _Plan) -> Commands:
    return plan.each(2, plan.layer_or_last("relu1", "relu2", "relu3", "relu5") | {"k": 4})


def _predict(plan: _Plan) -> Commands:
    return plan.each(3, {})


def _background(plan: _Plan) -> Commands:
    commands = plan.each(3, plan.layer("relu1", "relu2", "relu3"), target=True)
    return [
        (about, settings | ({"mask": str(picture.mask)} if picture.mask else {}))
        for (about, settings), picture in zip(commands, plan.pictures, strict=False)
    ]


def _occlude(plan: _Plan) -> Commands:
    # The square is about a fifth of the image, and goes over it in some two dozen steps.
    size, stride = max(plan.side * 50 // 227, 1), max(plan.side * 8 // 227, 1)
    (layer,) = plan.layer_or_last("relu5")["layer"]
    return plan.each(3, {"layer": layer, "size": size, "stride": stride}, target=True)


def _rotate(plan: _Plan) -> Commands:
    return plan.each(2, plan.layer("pool1", "relu5", "relu7"), target=True)


def _invariance(plan: _Plan) -> Commands:
    images = [str(picture.image) for picture in plan.pictures]
    labels = [picture.label for picture in plan.pictures]
    targets = {"target": labels} if all(labels) else {}
    return [("", plan.network | {"image": images} | plan.layer("pool1", "relu7") | targets)]


def _over_data(plan: _Plan) -> Commands:
    return [("", plan.network | plan.data)]


def _evolve(plan: _Plan) -> Commands:
    if plan.checkpoints is None:
        return []
    return [("", plan.network | plan.data | plan.checkpoints)]


def _filters(plan: _Plan) -> Commands:
    quick = {"epochs": 1, "limit": 2000} if plan.quick else {}
    return [("", {"train": True} | plan.data | quick)]


def _ablate(plan: _Plan) -> Commands:
    # Not the model: what is trained are zfnet_small and its variants.
    return [("", plan.data | ({"epochs": 1} if plan.quick else {}))]


def _correspond(plan: _Plan) -> Commands:
    return [("", plan.network | {"faces": 20 if plan.quick else 50})]


# In the gallery's order.
EXPERIMENTS: dict[str, Callable[[_Plan], Commands]] = {
    "diagram": _diagram,
    "deconv": _projections,
    "predict": _predict,
    "background": _background,
    "occlude": _occlude,
    "rotate": _rotate,
    "invariance": _invariance,
    "top9": _over_data,
    "evolve": _evolve,
    "filters": _filters,
    "correspond": _correspond,
    "ablate": _ablate,
    "probe": _over_data,
    "uncertainty": _over_data,
}

# --------------------------------------------------------------------------------------- running


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script and return its exit status: 0, 1 if something failed, 2 for a usage error."""
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    with guarded(_PROGRAM, options.traceback) as status:
        status[0] = _run(options)
    return status[0]


def _run(options: argparse.Namespace) -> int:
    out = writable_folder(options.out)
    network = Network.of(options)
    plan = _plan(options, network, out)
    identity = f"{zfcuda.__version__} {network.weights_digest}"
    del network  # each command loads its own
    outcome = batch.run(_jobs(options.only, plan, out), identity, "experiment", options.quiet)
    if options.model == "zfnet_small" and not options.weights:
        _curves(from_files.run_record(), out / "train" / "training")
    # Not what an earlier run made of other pictures; but all that it made of these.
    wanted = {job.folder for job in _jobs([*EXPERIMENTS], plan, out)} | {out / "train"}
    title = f"What {options.model} sees"
    page, count = write_gallery(out, out / "index.html", title, wanted)
    say(outcome)
    for job, reason in outcome.failed:
        say(f"failed: {job.folder.relative_to(out)}: {reason}")
    say(f"{count} figures; open {page}")
    return 1 if outcome.failed else 0


def _plan(options: argparse.Namespace, network: Network, out: Path) -> _Plan:
    spec = {"model": options.model, "device": options.device}
    spec |= {"weights": options.weights} if options.weights else {}
    pictures = _own(options.images) if options.images else _garments(network, out / ".pictures")
    shapes = {name: shape for name, _, shape, _ in network.layers()}
    maps = [name for name, shape in shapes.items() if len(shape) == 4 and shape[2] > 1]
    folder = {"data": options.data} if options.data else {}
    limit = {"limit": 2000} if options.quick else {}
    own = options.model == "zfnet_small" and not options.weights
    checkpoints = {"checkpoints": options.checkpoints} if options.checkpoints else {}
    return _Plan(
        spec,
        [*shapes],
        maps,
        network.preprocessing.side,
        pictures,
        folder | limit,
        checkpoints if checkpoints or own else None,
        options.quick,
    )


def _jobs(names: Sequence[str], plan: _Plan, out: Path) -> list[batch.Job]:
    return [
        batch.Job(out / name / about, name, {"pdf": True} | settings, _read(settings))
        for name in names
        for about, settings in EXPERIMENTS[name](plan)
    ]


def _read(settings: Settings) -> tuple[Path, ...]:
    """The files and folders that a command with these settings reads, besides weights."""
    named = [*settings.get("image", [])]
    named += [settings[name] for name in ("mask", "data") if name in settings]
    named += settings.get("checkpoints", [])
    return tuple(path for path in map(Path, named) if path.exists())


def _curves(record: Path, stem: Path) -> None:
    """The curves of the training that the shipped weights come from, with its record."""
    if not record.with_suffix(".json").is_file():
        return
    for suffix in (".npz", ".json"):
        with atomic_path(stem.with_suffix(suffix)) as temporary:
            shutil.copyfile(record.with_suffix(suffix), temporary)
    result = TrainingResult.load(record)
    save_pictures(
        figures.training_curves(result, title="The training of zfnet_small"), stem, pdf=True
    )


# ------------------------------------------------------------------------------------- pictures


def _own(folder: Path) -> list[_Picture]:
    images = data.list_images(folder)
    if not images:
        raise ValueError(f"folder '{folder}' holds no images")
    stems = [path.stem for path in images]
    return [
        _Picture(path, path.stem if stems.count(path.stem) == 1 else path.name)
        for path in images[:_PICTURES]
    ]


def _garments(network: Network, folder: Path) -> list[_Picture]:
    """Of the pictures that ship with zfcuda, five of different classes that the network gets right.

    Of each class the one whose probability is nearest to `_SURE`: certain enough to be explained,
    and not so certain that nothing that is done to it shows.

    They are written to `folder` in full, with the mask of the garment. The folder's name makes it
    hidden: these are no figures.
    """
    samples = garments(network.preprocessing)
    x, labels = samples.pictures.batch(torch.arange(len(samples.pictures)))
    result = zfcuda.predict(network.model, x.to(network.device))
    sure = result.probabilities[torch.arange(len(labels)), labels]
    apart = (sure - _SURE).abs() + (result.probabilities.argmax(1) != labels)
    nearest = [
        int(torch.where(labels == label, apart, torch.inf).argmin()) for label in labels.unique()
    ]
    chosen = sorted(nearest, key=lambda index: float(apart[index]))[:_PICTURES]
    return [_written(samples, index, folder) for index in chosen]


def _written(garments: Garments, index: int, folder: Path) -> _Picture:
    name = garments.pictures.class_names[int(garments.pictures.labels[index])]
    stem = "-".join(part for part in "".join(c if c.isalnum() else " " for c in name).split())
    stem = f"{stem.lower()}-{int(garments.numbers[index])}"
    pixels = {
        f"{stem}.png": garments.pictures.images[index].permute(1, 2, 0).numpy(),
        f"{stem}-mask.png": garments.opacity[index].numpy(),
    }
    for file, values in pixels.items():
        with atomic_path(folder / file) as temporary:
            Image.fromarray(np.ascontiguousarray(values)).save(temporary)
    image, mask = (folder / file for file in pixels)
    return _Picture(image, stem, mask, name)


def _parser() -> argparse.ArgumentParser:
    summary, _, rest = __doc__.partition("\n")
    parser = Parser(
        prog=_PROGRAM, description=summary, epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--only", nargs="+", choices=tuple(EXPERIMENTS), default=tuple(EXPERIMENTS), metavar="NAME",
        help=f"which of {', '.join(EXPERIMENTS)} (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--model", default="zfnet_small", metavar="SPEC", help="another model, see zfcuda deconv"
    )
    parser.add_argument("--weights", metavar="FILE", help="weights for the model")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="pictures to look at (default: zfcuda's own)"
    )
    parser.add_argument("--data", metavar="DIR", help="data set, as for zfcuda top9")
    parser.add_argument(
        "--checkpoints", nargs="+", metavar="DIR|FILE",
        help="of the model's training, as for zfcuda evolve; without them another model has no "
        "such figure",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="little data, short trainings")
    parser.add_argument("--out", default="zfcuda-paper", metavar="DIR", help="output folder")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--traceback", action="store_true", help="show where an error arose")
    return parser


if __name__ == "__main__":
    sys.exit(main())
