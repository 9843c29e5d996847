"""Writes written.zip: ``python write.py CLONE_OF_13d63dc`` (zfcuda 0.1.0; torch 2.13.0 on a CPU).

Kept as the record of what is in there; not to be run with a later zfcuda.

- ``results``: a result of every kind, as ``.save`` wrote it.
- ``runs``: of functions and of commands with ``--data`` or ``--store``, stopped half-way, but for
  ``recorded``, which is complete.
- ``trainings``: ``whole``, ``half`` (two of four epochs) and an ablation with one of two networks.
- ``scripts``: what two scripts had made when they were stopped.
- ``photos``: the images of the commands. ``predicted``: what a command wrote.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).parent
CLONE = Path(sys.argv[1]).resolve()
sys.path[:0] = [str(CLONE), str(HERE)]

import torch  # noqa: E402
from PIL import Image  # noqa: E402
from subjects import (  # noqa: E402
    COMMANDS,
    LAYERS,
    MOVES,
    OCCLUDER,
    RECIPE,
    SCRIPTS,
    ablated,
    data,
    images,
    moved,
    network,
    numbers,
    occluded,
    recorded,
    trained,
    trainee,
)  # fmt: skip

import zfcuda  # noqa: E402
from zfcuda import cli  # noqa: E402


def results(folder: Path, trainings: Path) -> None:
    net, x = network(), images(3)
    boxes = torch.tensor([4, 5, 9, 11])
    made = [
        zfcuda.predict(net, x),
        zfcuda.background_effect(net, x[:1], x[0, 0] > 0.5, LAYERS, fills={"grün": 0.5}),
        zfcuda.rotation(net, x, [0, 90], layers=LAYERS),
        zfcuda.invariance_study(net, x, LAYERS, transformations=MOVES),
        zfcuda.occlusion(net, x, layers=LAYERS, **OCCLUDER),
        zfcuda.project(net, x, "4"),
        zfcuda.deconvnet.projections(net, x, LAYERS, k=2),
        zfcuda.correspondence(net, x, {"nose": boxes}, LAYERS),
        zfcuda.diagram_of(net, x[:1], "4"),
        zfcuda.evolution({"1": network(), "2": network()}, x, LAYERS, maps=2),
        zfcuda.top_activations(net, x, LAYERS, k=2, maps=2),
        zfcuda.first_layer_filters(net, x),
        zfcuda.compare_filters({"own": net}, x, maps=2),
        zfcuda.linear_probe(net, data(), ["4"], regularisation=[0.01], steps=20),
        zfcuda.uncertainty_of(trainee().eval(), data().test, most=2),
        zfcuda.training.TrainingResult.load(trainings / "whole" / "training"),
        zfcuda.ablations.AblationResult,
        occluded(folder / "occluded"),
        moved(folder / "moved"),
    ]
    made[made.index(zfcuda.ablations.AblationResult)] = ablated(folder / "ablated")
    for one in made:
        one.save(folder / type(one).__name__)
    for name in ("occluded", "moved", "ablated"):
        shutil.rmtree(folder / name)


def stopped_runs(folder: Path) -> None:
    recorded(folder / "recorded")
    with suppress(KeyboardInterrupt):
        recorded(folder / "record-passing", most=2 + 3 + 8)
    for most in range(20, 60):  # until the first layer's file is there and not the other's
        shutil.rmtree(folder / "record-projecting", ignore_errors=True)
        with suppress(KeyboardInterrupt):
            recorded(folder / "record-projecting", most)
        if len([*(folder / "record-projecting").glob("layers/[0-9]*")]) == 1:
            break
    occluded(folder / "occlusion")
    moved(folder / "motion")
    for name in ("occlude", "invariance"):
        assert cli.main(COMMANDS[name]) == 0
    stop_after(cli.main, COMMANDS["top9"], "zfcuda._sources", "read_image", 7)
    for name in ("occlusion", "motion", "occlude/photos-occlude", "invariance/photos-invariance"):
        cut_short(folder / name)
    assert [*folder.glob("top9/progress/*")] and [*folder.glob("record-passing/progress/*")]


def cut_short(folder: Path) -> None:
    """As a kill before the last two images leaves it."""
    pairs = sorted(folder.glob("images/*/[0-9]*.json"))
    for path in pairs[-2:]:
        path.unlink()
    pairs[-1].with_suffix(".npz").unlink()  # the other's remains: it is written first
    for path in [*folder.glob("images/*/*.png"), *folder.glob("images/*/*.pdf")]:
        path.unlink()  # drawn after the last image
    for path in folder.iterdir():
        if path.is_file() and path.name not in ("settings.json", ".lock"):
            path.unlink()


def stop_after(call, arguments, module: str, name: str, count: int) -> None:
    """Ctrl-C at the so-manieth call of a function."""
    home, left = importlib.import_module(module), count
    function = getattr(home, name)

    def counted(*positional, **named):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return function(*positional, **named)

    setattr(home, name, counted)
    with suppress(KeyboardInterrupt):
        assert call(arguments) == 130
    setattr(home, name, function)


def trainings(folder: Path) -> None:
    trained(folder / "whole")
    model, left = trainee(), 1 + (24 // 8 + 1) * 2 + 1

    def count(*_):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt

    model.register_forward_pre_hook(count)
    with suppress(KeyboardInterrupt):
        trained(folder / "half", model)
    assert len([*(folder / "half").glob("epoch-*.json")]) == RECIPE.epochs // 2
    with suppress(KeyboardInterrupt):
        ablated(folder / "ablation", most=3)
    assert [path.name for path in (folder / "ablation").iterdir()] == ["as-it-is-seed0"]


def scripts() -> None:
    for name, arguments in SCRIPTS.items():
        spec = importlib.util.spec_from_file_location(name, CLONE / "scripts" / f"{name}.py")
        script = importlib.util.module_from_spec(spec)
        sys.modules[name] = script
        spec.loader.exec_module(script)
        stop_after(script.main, arguments, "zfcuda._batch", "_do", 1)


def main() -> None:
    assert Path(zfcuda.__file__).parents[1] == CLONE
    torch.set_num_threads(1)
    home = Path(tempfile.mkdtemp())
    os.chdir(home)
    shutil.copy(HERE / "subjects.py", home)
    (home / "photos").mkdir()
    for number in range(4):
        pixels = numbers(16, 16, 3, low=0, high=255, seed=number).to(torch.uint8).numpy()
        Image.fromarray(pixels).save(home / "photos" / f"{number}.png")
    trainings(home / "trainings")
    results(home / "results", home / "trainings")
    stopped_runs(home / "runs")
    scripts()
    assert cli.main(COMMANDS["predict"]) == 0
    (home / "predicted" / "0-predict.pdf").unlink()  # for the size's sake
    with zipfile.ZipFile(HERE / "written.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for path in sorted(home.rglob("*")):
            if path.is_file() and path.suffix not in (".py", ".pyc") and path.name != ".lock":
                file.write(path, path.relative_to(home).as_posix())
    shutil.rmtree(home)


if __name__ == "__main__":
    main()
