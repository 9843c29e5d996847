#!/usr/bin/env python3
"""Projections, occlusion row and rotation curve of every image in a folder, with an index page.

    python scripts/folder_figures.py photos --layer features.3 --layer features.12 --out figures

Each image gets a folder of its own under --out. An image whose figures are already there,
made from the same file with the same settings and weights, is skipped, so an interrupted run can
simply be started again. An image that fails does not stop the others; the end of the output says
which and why, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

import zfcuda
from zfcuda import _jobs, data, report
from zfcuda._files import atomic_path
from zfcuda._network import Network
from zfcuda._terminal import USER_ERRORS, Parser, guarded, one_line
from zfcuda._writing import writable_folder

_PROGRAM = "folder_figures.py"
_RECORD = "done.json"


@dataclass(frozen=True)
class Settings:
    """Everything the figures of an image depend on, apart from the image."""

    model: str
    weights: str  # sha256 of the state dict: a path alone would not notice new contents
    layers: tuple[str, ...]
    size: int
    stride: int
    fill: str
    angles: tuple[float, ...]
    zfcuda: str = zfcuda.__version__

    def digest(self, image: Path) -> str:
        """The hash of these settings together with the image's bytes."""
        settings = json.dumps(dataclasses.asdict(self), sort_keys=True).encode()
        return hashlib.sha256(settings + image.read_bytes()).hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script and return its exit status: 0, 1 if an image failed, 2 for a usage error."""
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    with guarded(_PROGRAM, options.traceback) as status:
        status[0] = _run(options)
    return status[0]


def _run(options: argparse.Namespace) -> int:
    images = data.list_images(options.folder)
    if not images:
        raise ValueError(f"folder '{options.folder}' holds no images")
    out = writable_folder(options.out)
    network = Network.load(options.model, options.device)
    known = [name for name, _, _ in network.layers()]
    for layer in options.layer:
        if layer not in known:
            raise ValueError(f"unknown layer {layer!r}: expected one of {', '.join(known)}")
    settings = Settings(
        options.model, network.weights_digest, tuple(options.layer), options.size, options.stride,
        options.fill, tuple(_jobs.angles(options.angles)),
    )  # fmt: skip
    fill = network.fill(options.fill)

    sections, skipped, failures = [], 0, []
    with tqdm(images, unit="image", disable=options.quiet) as bar:
        for path in bar:
            bar.set_postfix_str(path.name)
            folder = out / path.name
            try:
                digest = settings.digest(path)
                entries = _recorded(folder, digest)
                if entries is None:
                    entries = _explain(network, path, folder, settings, fill)
                    _record(folder, digest, entries)
                else:
                    skipped += 1
                sections.append(report.Section(path.name, entries))
            except USER_ERRORS as error:
                failures.append((path, one_line(error)))
                sections.append(report.Section(path.name, problem=one_line(error)))
    index = report.write_index(
        out / "index.html",
        f"What {settings.model} sees in {options.folder}",
        sections,
        facts=dataclasses.asdict(settings) | {"angles": options.angles},
    )
    done = len(images) - skipped - len(failures)
    print(f"{done} done, {skipped} skipped, {len(failures)} failed")
    for path, reason in failures:
        print(f"failed: {path.name}: {reason}")
    print(f"open {index}")
    return 1 if failures else 0


def _explain(
    network: Network, path: Path, folder: Path, settings: Settings, fill: object
) -> list[report.Entry]:
    x = network.input(data.read_image(path))
    last = settings.layers[-1]
    return [
        _jobs.predict(network, x, path.name, folder / "prediction"),
        _jobs.project(network, x, path.name, folder / "projections", settings.layers),
        _jobs.occlude(
            network, x, path.name, folder / "occlusion", last, size=settings.size,
            stride=settings.stride, fill=fill,
        ),
        _jobs.rotate(
            network, x, path.name, folder / "rotation", settings.angles, settings.layers, fill=fill
        ),
    ]  # fmt: skip


def _record(folder: Path, digest: str, entries: Sequence[report.Entry]) -> None:
    """Written last: an image without this file is not done."""
    rows = [
        {
            "title": entry.title,
            "text": entry.text,
            "figure": entry.figure.name,
            "numbers": [path.name for path in entry.numbers],
            "tag": entry.tag,
            "pdf": entry.pdf.name if entry.pdf else None,
        }
        for entry in entries
    ]
    with atomic_path(folder / _RECORD) as temporary:
        Path(temporary).write_text(json.dumps({"settings": digest, "entries": rows}, indent=1))


def _recorded(folder: Path, digest: str) -> list[report.Entry] | None:
    """The entries of an image that is done with these settings, or None."""
    try:
        record = json.loads((folder / _RECORD).read_text())
        if record["settings"] != digest:
            return None
        entries = [
            report.Entry(
                row["title"],
                folder / row["figure"],
                tuple(folder / name for name in row["numbers"]),
                row["text"],
                row["tag"],
                folder / row["pdf"] if row["pdf"] else None,
            )
            for row in record["entries"]
        ]
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or not ours
        return None
    complete = all(path.is_file() for e in entries for path in e.files)
    return entries if complete else None


def _parser() -> argparse.ArgumentParser:
    summary, _, rest = __doc__.partition("\n")
    parser = Parser(
        prog=_PROGRAM, description=summary, epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("folder", type=Path, help="folder of images")
    parser.add_argument(
        "--model", default="squeezenet1_1", metavar="SPEC", help="see zfcuda deconv"
    )
    parser.add_argument(
        "--layer", action="append", required=True, metavar="NAME",
        help="layer to explain; may be repeated (the last one is used for occlusion)",
    )  # fmt: skip
    parser.add_argument("--out", default="zfcuda-folder", metavar="DIR", help="output folder")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--size", type=int, default=50, help="occluder, pixels (default: 50)")
    parser.add_argument("--stride", type=int, default=8, help="its steps, pixels (default: 8)")
    parser.add_argument("--fill", default="grey", help="colour of the occluder and outside")
    parser.add_argument("--angles", default="0:360:5", help="START:STOP:STEP, degrees")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--traceback", action="store_true", help="show where an error arose")
    return parser


if __name__ == "__main__":
    sys.exit(main())
