"""The strongest activations of every map over a data set, streamed into a folder by a run that can
be killed at any moment, resumed, and spread over processes: the results are the same to the bit."""

from __future__ import annotations

import copy
import math
import os
import platform
import secrets
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from zfcuda.data.batches import in_blocks, read_blocks
from zfcuda.data.images import ImageData, Images, none_readable, source_of
from zfcuda.experiments.maxima.finding import check_k, warn_beyond
from zfcuda.experiments.maxima.projecting import project_layer
from zfcuda.experiments.maxima.scanning import Spotter
from zfcuda.experiments.maxima.top import Maps, State, Top, chosen, on_cpu
from zfcuda.experiments.over import first_readable
from zfcuda.inference.checks import check_input, device_of, evaluating, is_int, threads
from zfcuda.inference.layers import Layers, by_name, find_layers
from zfcuda.inference.passes import memory_limit, progress_bar
from zfcuda.results.stored import (
    FORMAT,
    KIND,
    Layer,
    StoredActivations,
    about_layer,
    file_of,
    write_index,
    write_manifest,
)
from zfcuda.storage.files import checksum, digest, read_json, visible
from zfcuda.storage.identity import (
    architecture_digest,
    precision,
    precision_record,
    versions,
    weights_digest,
)
from zfcuda.storage.ranks import Shard, current_shard
from zfcuda.storage.run_folder import require_there, run_folder


@dataclass(frozen=True)
class Progress:
    """The folder of the states, theirs alone; ``settings`` is the digest of what is computed:
    states of other settings do not count."""

    folder: Path
    settings: str

    def load(self, like: State) -> tuple[State, list[str]]:
        """All states merged, and the files that hold them; ``like`` is one of no block yet.

        Warns:
            UserWarning: a file is damaged; what it says is computed again.
        """
        found = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                found[path.name] = State.read(path, self.settings, like)
            except (SafetensorError, ValueError, KeyError, OSError) as error:
                warnings.warn(visible(f"'{path}' does not count: {error}"), stacklevel=2)
        replaced = {name for _, names in found.values() for name in names}
        whole = like
        for name, (state, _) in found.items():
            # A process that outlived its run may have written what others did again.
            if name in replaced or bool((state.done & whole.done).any()):
                continue
            whole = whole.merged(state)
        return whole, [*found]

    def save(self, name: str, state: State, made_of: list[str] | None = None) -> None:
        """Write a state; it takes the place of those it was ``made_of``."""
        require_there(self.folder.parent)
        file = f"{name}.safetensors"
        state.write(self.folder / file, self.settings, made_of or [])
        for other in {*(made_of or [])} - {file}:
            (self.folder / other).unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete all states: the results are there."""
        for path in self.folder.glob("*.safetensors"):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # something else lies there, as file servers leave it, or nothing
            self.folder.rmdir()


@torch.inference_mode(False)
def record_activations(
    folder: str | os.PathLike[str],
    model: nn.Module,
    images: ImageData,
    layers: Layers,
    k: int = 9,
    maps: Maps = 10,
    tolerance: float | None = None,
    batch: int = 64,
    workers: int = 0,
    max_memory: int | None = None,
    every: int = 10_000,
    seconds: float = 60.0,
    about: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> StoredActivations:
    """:func:`zfcuda.top_activations` into a folder, for data sets that take hours and results that
    are larger than the memory.

    What is done is written down every so often. A run that was killed, at whatever moment, goes on
    from there when it is started again with the same arguments; one that is complete is only
    opened. Under ``torchrun`` (within :func:`zfcuda.storage.ranks.from_environment`, or any process
    group) each process looks through its share of the images; a run that was interrupted may go on
    with another number of processes. Images are computed in blocks of ``batch`` that never change,
    so that values, order, projections and files are those of an undisturbed run on one process, bit
    by bit, on machines whose convolutions are.

    Images that cannot be read (files; of a Dataset those that raise OSError or ValueError) keep
    their numbers, are counted and listed in the manifest, and are left out.

    Args:
        folder: for the results, see :mod:`zfcuda.results.stored`; of this run alone,
            and seen by all processes.
        model, layers, k, tolerance, progress: as :func:`zfcuda.top_activations`.
        images: a tensor, a Dataset or another source whose images can be had by number; not a
            DataLoader (pass its Dataset).
        maps: as there. Each map takes k times the bytes of its projections and patches on disk,
            nothing in memory.
        batch: images of a block.
        workers: processes that read images ahead. On a CPU leave them cores
            (``torch.set_num_threads``): threads wait for the one that shares its core.
        max_memory: bytes that the activations of one batch may take; None takes what the run was
            begun with, or the default for runs that are recorded of
            :func:`zfcuda.inference.passes.memory_limit`.
        every, seconds: what is done is written down after so many images of a process, or so much
            time, whichever comes first.
        about: anything that JSON can say, for the manifest.

    Raises:
        TypeError, ValueError: as :func:`zfcuda.top_activations`; images that cannot be had by
            number; a folder that holds another run, or in which one is at work.
        RuntimeError: the processes' settings differ.
        OSError: the folder cannot be written.
    """
    began = perf_counter()
    names, maps = list(find_layers(model, layers)), by_name(model, maps)
    check_k(names, k)
    source = source_of(images, batch, workers)
    if not isinstance(source, Images):
        raise TypeError(
            "a run that can be interrupted needs images that can be had by number: a tensor, a "
            f"Dataset or files, got {type(images).__name__}"
        )
    if not is_int(batch) or batch < 1:
        raise ValueError(f"batch must be a positive int, got {batch!r}")
    batch = int(batch)
    shard, folder = current_shard(), Path(folder)
    with evaluating(model):
        if not len(source):
            raise ValueError("there are no images")
        example = first_readable(source)[None].to(device_of(model), copy=True)
        check_input(model, example)
        if max_memory is None:
            max_memory = _memory_begun_with(folder)
        memory = memory_limit(max_memory, example.device, recorded=True)
        spotter = Spotter.of(model, names, example, memory, batch)
        tops = spotter.tops(int(k), maps)
    settings = _settings(spotter, source, int(k), maps, batch, memory)
    shard.agree(settings, "the settings")
    more = {"kind": KIND, "format": FORMAT, "complete": False, "about": about or {}, "layers": []}
    begun = run_folder(
        folder / "manifest.json", settings, more, shard,
        results="layers/*.safetensors", names=_NAMES, option="--store",
    )  # fmt: skip
    # In as many threads as it was begun with, and with the settings as they were written then.
    with begun as manifest, threads(manifest["threads"]):
        if not _complete(folder, manifest):
            run = _Run(folder, manifest, spotter, source, shard, progress)
            with evaluating(model):
                state, rates = run.look(tops, every, seconds)
            found = run.project(state, maps, memory)
            if shard.first:
                rounded = precision(example.device, example.dtype)
                noted = {name: one["difference"] for name, one in found.items()}
                # JSON knows no infinity: there it is None.
                differences = {k: math.inf if v is None else v for k, v in noted.items()}
                warn_beyond(differences, tolerance, rounded)
                said = {"about": about or {}, "rates": rates, "seconds": perf_counter() - began}
                run.finish(state, found, said)
    return StoredActivations.open(folder)


def _memory_begun_with(folder: Path) -> int | None:
    """None where nothing was begun, or nothing that can be read, which is told later."""
    try:
        return int(read_json(folder / "manifest.json")["settings"]["memory"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


# Of the settings, those that other runs call otherwise.
_NAMES = {
    "weights_sha256": "weights",
    "model_sha256": "architecture",
    "images": "count",
    "images_sha256": "inputs",
    "together": "images together",
    "memory": "max_memory",
}


def _settings(
    spotter: Spotter, source: Images, k: int, maps: Maps, batch: int, memory: int
) -> dict[str, Any]:
    """What the results depend on."""
    example = spotter.example
    return {
        "weights_sha256": weights_digest(spotter.model),
        "model_sha256": architecture_digest(spotter.model),
        "layers": list(spotter.layers),
        "k": k,
        "maps": _plain(maps),
        "images": source.total,
        "images_sha256": source.digest(),
        "image": [str(example.dtype).removeprefix("torch."), *example.shape[1:]],
        "batch": batch,
        "together": spotter.together,
        "layout": str(spotter.layout).removeprefix("torch."),
        "memory": memory,
        "device": example.device.type,
        **precision_record(example.device, example.dtype),
        "versions": versions("zfcuda", "torch", "pillow"),
    }


def _plain(maps: Any) -> Any:
    if isinstance(maps, Mapping):
        return {str(layer): _plain(own) for layer, own in maps.items()}
    if is_int(maps):
        return int(maps)
    return maps if isinstance(maps, str) else [int(channel) for channel in maps]


def _complete(folder: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether there is nothing to do, also where somebody has deleted a file."""
    if not manifest.get("complete"):
        return False
    names = ["index.csv", *(about["file"] for about in manifest["layers"])]
    return all((folder / name).is_file() for name in names)


@dataclass(frozen=True)
class _Run:
    """One process's part in a run; ``begun`` is the manifest that it found."""

    folder: Path
    begun: Mapping[str, Any]
    spotter: Spotter
    source: Images
    shard: Shard
    shown: bool

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the results depend on, as it was written when the run was begun."""
        return self.begun["settings"]

    @property
    def _states(self) -> Progress:
        return Progress(self.folder / "progress", checksum(self.settings))

    # --- the pass ---

    def look(
        self, tops: Mapping[str, Top], every: int, seconds: float
    ) -> tuple[State, dict[str, Any]]:
        """Go through what no process has gone through yet; all of it merged, at every rank.
        ``tops`` are those before the first image."""
        batch, total = self.settings["batch"], len(self.source)
        blocks = in_blocks(total, batch)
        like = State(tops, torch.zeros(len(blocks), dtype=torch.bool))
        before, files, name = self._before(like)
        left = (~before.done).nonzero()[:, 0].numpy()
        # Of blocks in which nothing could be read: they are tried again.
        for number in [n for n in before.problems if not before.done[n // batch]]:
            del before.problems[number]
        own = [blocks[index] for index in self.shard.own(left)]
        began = perf_counter()
        mine = self._look_through(own, like, f"{name}-{self.shard.rank:05d}", every, seconds)
        spent = perf_counter() - began
        # Every rank's state merged, at every rank.
        device = self.spotter.example.device
        ranks = self.shard.collect((before.merged(mine) if self.shard.first else mine).to("cpu"))
        state = reduce(State.merged, (one.to(device) for one in ranks))
        if self.shard.share(len(state.problems) == total):
            last = state.problems.get(total - 1, "")
            raise none_readable(total, f"{last}; start again when they can be")
        if self.shard.first and len(left):
            names = [f"{name}-{rank:05d}.safetensors" for rank in range(self.shard.world)]
            self._states.save(name, state, [*files, *names])
        self.shard.wait()
        return state, self._rates(min(len(left) * batch, total), spent, own)

    def _before(self, like: State) -> tuple[State, list[str], str]:
        """What was done (the blocks at every rank, the rest at rank 0), its files, and the name of
        this run's own, which no other run's bear."""
        before, files, name = like, [], f"{secrets.randbits(48):012x}"
        if self.shard.first:
            before, files = self._states.load(like)
            if len(files) > 1:  # or they would pile up
                self._states.save(f"{name}-before", before, files)
                files = [f"{name}-before.safetensors"]
        done, name = self.shard.share((before.done, name))
        return State(before.tops, done, before.problems), files, name

    def _look_through(
        self, own: list[range], like: State, name: str, every: int, seconds: float
    ) -> State:
        state = copy.deepcopy(like)
        saved, since = perf_counter(), 0
        device, total = self.spotter.example.device, sum(map(len, own))
        with progress_bar(total, self.shown and self.shard.first, "images") as advance:
            for block in read_blocks(self.source, own, self.source.workers, self.spotter.example):
                if block.images is not None:
                    images = block.images.to(device, non_blocking=True)
                    left_out = block.left_out().to(device) if block.problems else None
                    self.spotter.take(images, state.tops, block.numbers[0], left_out)
                # One in which nothing can be read is tried again when the run goes on.
                state.done[block.numbers[0] // self.settings["batch"]] = block.images is not None
                state.problems.update(block.problems)
                since += len(block.numbers)
                advance(len(block.numbers))
                if since >= every or perf_counter() - saved >= seconds:
                    self._states.save(name, state)
                    saved, since = perf_counter(), 0
        if since:
            self._states.save(name, state)
        return state

    def _rates(self, images: int, seconds: float, own: list[range]) -> dict[str, Any]:
        """Images a second of this run on all ranks, beside the bare model on one block."""
        if not self.shard.first or not len(own):
            return {}
        block = self.source.block(own[0])
        if block.images is None:
            return {}
        some = block.images[: self.spotter.together].to(self.spotter.example.device)
        some = some.to(memory_format=self.spotter.layout)
        return {
            "images": images,
            "seconds": seconds,
            "images_per_second": images / max(seconds, 1e-9),
            "forward_images_per_second": _forward_rate(self.spotter.model, some),
            "processes": self.shard.world,
            "workers": self.source.workers,
            "threads": torch.get_num_threads(),
        }

    # --- the projections ---

    def project(self, state: State, maps: Maps, memory: int) -> dict[str, dict[str, Any]]:
        """Project the chosen maps' units, layer by layer; what the manifest says of each layer."""
        found = {}
        noted = {one["name"]: one for one in self.begun.get("layers", ())}
        for index, (name, top) in enumerate(on_cpu(state.tops).items()):
            path = self.folder / file_of(index, name)
            there = self.shard.first and self._is_there(path, noted.get(name))
            if not self.shard.share(there):
                require_there(self.folder)
                project_layer(path, self.spotter, self.source, name, top,
                              chosen(maps, name, top), memory, self.shard, self.shown)  # fmt: skip
            if self.shard.first:
                known = noted[name]["sha256"] if there and name in noted else None
                undefined = int(top.undefined)
                found[name] = about_layer(
                    path, self.folder, name, len(top.values), top.size, undefined, known
                )
                if not there:  # so that what is read later can be compared with it
                    noted[name] = found[name]
                    begun = {**self.begun, "complete": False, "layers": [*noted.values()]}
                    write_manifest(self.folder, begun)
        return found

    def _is_there(self, path: Path, noted: Mapping[str, Any] | None) -> bool:
        """Whether a layer's file is, as the manifest noted it; of a run of 0.1.0, which noted
        nothing, whether it can be read."""
        try:
            Layer.read(path)
            if "layers" in self.begun and noted and digest(path) != noted["sha256"]:
                raise ValueError(f"'{path}' is damaged: it is not what was written")
        except FileNotFoundError:
            return False
        except ValueError as error:
            warnings.warn(visible(f"{error}; it is made again"), stacklevel=2)
            return False
        return noted is not None or "layers" not in self.begun

    def finish(
        self, state: State, found: Mapping[str, Mapping[str, Any]], said: Mapping[str, Any]
    ) -> None:
        """Write the index and, last, the manifest."""
        require_there(self.folder)
        layers = {name: Layer.read(self.folder / one["file"]) for name, one in found.items()}
        numbers = {n for one in layers.values() for n in one.images.unique().tolist() if n >= 0}
        write_index(self.folder, layers, {n: self.source.file(n) for n in numbers})
        skipped = [
            {"image": number, "name": self.source.file(number), "problem": problem}
            for number, problem in sorted(state.problems.items())
        ]
        content = {
            **said,
            "complete": True,
            "settings": self.settings,
            "count": self.source.total - len(skipped),
            "skipped": skipped,
            "image_size": list(self.spotter.example.shape[2:]),
            "layers": [*found.values()],
            "index_sha256": digest(self.folder / "index.csv"),
            "versions": {"python": platform.python_version(), **self.settings["versions"]},
            "threads": torch.get_num_threads(),
        }
        write_manifest(self.folder, content)
        self._states.clear()


def _forward_rate(model: nn.Module, images: Tensor) -> float:
    """Images a second of the model alone, the best of three passes."""
    spent = []

    def finish() -> None:
        if images.device.type == "cuda":
            torch.cuda.synchronize(images.device)

    for _ in range(3):
        part = images.clone()
        finish()
        began = perf_counter()
        model(part)
        finish()
        spent.append(perf_counter() - began)
    return len(images) / max(min(spent), 1e-9)
