"""Files of a result: its numbers, the picture as PNG (and PDF), and where they come from."""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, count
from pathlib import Path
from time import perf_counter
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from zfcuda.results.base import Result
from zfcuda.results.files import pair
from zfcuda.storage.files import absent, read_json, write_bytes
from zfcuda.storage.identity import versions
from zfcuda.storage.terminal import remark

# Options that say how a command is run, not what it computes.
_NOT_SETTINGS = {
    "run", "command", "traceback", "quiet", "out", "pdf", "list_layers", "device", "seed", "image",
    "alone", "load",
}  # fmt: skip
_DIGEST = "image_sha256"  # in the settings, of the image, or of each of them


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from; its JSON file carries this under "provenance".

    Attributes:
        command: what made it, as "occlude".
        settings: the command's options; anything that JSON can say, tuples and paths included.
        model: facts of the network that was looked at, if there is one, as `Network.facts` tells
            them.
        seed: of everything random; None where nothing is.
        alone: whether the folder is this job's own: what it made before is replaced.
        began: `perf_counter()` of the start, for the wall time.
        pdf: whether the picture is wanted for print, too; not recorded.
    """

    command: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)
    model: Mapping[str, object] = field(default_factory=dict)
    seed: int | None = None
    alone: bool = False
    began: float = field(default_factory=perf_counter)
    pdf: bool = False

    @classmethod
    def of(
        cls, options: argparse.Namespace, model: Mapping[str, object] | None = None, **more: object
    ) -> Provenance:
        """Of a command line; `more` settings replace those of the options, as `image=path`."""
        values = vars(options)
        left_out = _NOT_SETTINGS | ({"model", "weights"} if model else set())
        settings = {key: value for key, value in values.items() if key not in left_out}
        return cls(
            values.get("command", ""),
            settings | more,
            model or {},
            values.get("seed"),
            values.get("alone", False),
            pdf=values.get("pdf", False),
        )

    def facts(self) -> dict[str, Any]:
        """All of it as JSON, with weights hash, device, versions and seconds."""
        facts: dict[str, Any] = {"command": self.command, "settings": _plain(self.settings)}
        facts |= self.model
        if self.seed is not None:
            facts["seed"] = self.seed
        return facts | {
            "versions": _versions(),
            "threads": torch.get_num_threads(),
            "seconds": round(perf_counter() - self.began, 3),
        }


def place(stem: Path, provenance: Provenance) -> Path:
    """Where a result goes so that it replaces none of another model, image, layer or data set:
    ``stem``, or where such a one lies there, ``stem`` with what tells this one apart, if need be
    with a number. One of the same that other settings made is replaced, which is told on standard
    error.
    """
    if provenance.alone:
        return stem
    new = _flat(provenance.facts())
    name, others = stem.name, None
    while (old := _lies_at(stem.with_name(name))) is not None:
        apart = [key for key in _SUBJECT if old and _differs(key, old, new)]
        if not apart:
            _tell_of(stem.with_name(name), old, new)
            break
        if others is None:
            words = _words(apart, new, _LONGEST - len(os.fsencode(name)))
            base = "-".join([name, *words])
            others = chain([base] * len(words), (f"{base}-{number}" for number in count(2)))
        name = next(others)
    return stem.with_name(name)


def save_pictures(figure: Figure, stem: Path, pdf: bool = False) -> list[Path]:
    """Save a figure as STEM.png, and as STEM.pdf if asked for; returns what was written.

    A STEM.pdf that was not asked for is removed, which is told on standard error: it would show an
    earlier result.
    """
    contents = {stem.with_name(f"{stem.name}.png"): _png(figure)}
    print_too = stem.with_name(f"{stem.name}.pdf")
    if pdf:
        contents[print_too] = _pdf(figure)
    for path, content in contents.items():
        write_bytes(path, content)
    if not pdf and print_too.is_file():
        print_too.unlink()
        remark(f"'{print_too}' showed an earlier result and is removed; --pdf makes it anew")
    return [*contents]


def save_numbers(result: Result, stem: Path, about: Mapping[str, object]) -> tuple[Path, Path]:
    """Save a result as STEM.npz and STEM.json, which says `about`, too; returns both."""
    result.save(stem, about)
    return pair(stem)


def writable_folder(path: str | os.PathLike[str]) -> Path:
    """Try whether the folder `path` can be written, so that a long job cannot fail at its end. It
    is made with its first file, so that a job that fails leaves none.

    Raises:
        ValueError: it cannot be made or written, with the system's reason.
    """
    path = Path(path)
    try:
        missing = absent(path)
        if missing:
            with tempfile.TemporaryDirectory(dir=missing[-1].parent):
                pass
        else:
            with tempfile.TemporaryFile(dir=path):
                pass
    except OSError as error:
        raise ValueError(
            f"output folder '{path}' cannot be written ({error.strerror}); expected one that can, "
            "with --out"
        ) from error
    return path


# What tells results apart that are kept beside each other; what other settings made is replaced.
_SUBJECT = ("model", "weights_sha256", "image", "images", "layer", "data", "part", "parts")
_LONGEST = 230  # bytes of an output's name; file systems take 255, and endings are appended


def _lies_at(stem: Path) -> dict[str, Any] | None:
    """What made the result that lies there, empty if it does not say; None without one."""
    path = stem.with_name(f"{stem.name}.json")
    if not path.exists():
        return None
    try:
        facts = read_json(path).get("provenance")
        return _flat(facts) if isinstance(facts, dict) else {}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The settings and what else decides what is found, as JSON has it."""
    other = ("command", "model", "weights_sha256", "seed")
    found = {**(facts.get("settings") or {}), **{key: facts.get(key) for key in other}}
    return json.loads(json.dumps(found))


def _differs(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    if key in ("image", "images") and old.get(_DIGEST) and new.get(_DIGEST):
        return old[_DIGEST] != new[_DIGEST] and key in new
    return old.get(key) != new.get(key)


def _words(apart: Sequence[str], new: Mapping[str, Any], longest: int) -> list[str]:
    """What tells a result apart, as a part of a file's name; nothing if no word does."""
    said = {
        "model": re.sub(r"[^:?]*/", "", str(new.get("model"))),
        "image": Path(str(new.get("image"))).absolute().parent.name,
        "layer": "+".join(one if isinstance(one := new.get("layer") or "", list) else [one]),
        "data": Path(str(new.get("data"))).name if new.get("data") else "",
        "part": str(new.get("part")),
    }
    text = "-".join(said[key] for key in apart if said.get(key))
    word = re.sub(r"[^\w.+-]+", "-", text).strip("-.")
    while len(os.fsencode(word)) > longest:
        word = word[:-1]
    return [word] if word else []


def _tell_of(stem: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    keys = sorted((old.keys() | new.keys()) - {_DIGEST})
    changed = [f"{key} {old.get(key)}" for key in keys if old and old.get(key) != new.get(key)]
    if changed or not old:
        made = f"was made with {', '.join(changed)}" if changed else "lay there"
        remark(f"'{stem}' replaces what {made}")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Not savefig, which draws twice: to lay out, which is done, and to show.
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _pdf(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Type 42: text that editors and publishers can read. No date: the same figure, the same bytes.
    with mpl.rc_context({"pdf.fonttype": 42}):
        figure.savefig(buffer, format="pdf", metadata={"CreationDate": None})
    return buffer.getvalue()


def _plain(value: Any) -> Any:
    """`value` as JSON has it, which knows no infinity."""
    text = json.dumps(value, default=lambda one: getattr(one, "tolist", one.__str__)())
    return json.loads(text, parse_constant=lambda name: str(float(name)))


@cache
def _versions() -> dict[str, str]:
    packages = ("zfcuda", "torch", "numpy", "matplotlib", "pillow")
    return {"python": platform.python_version()} | versions(*packages)
