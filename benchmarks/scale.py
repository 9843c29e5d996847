"""Strongest activations over whole data sets: rate, memory, resuming, kills.

    python benchmarks/scale.py [--quick] [--only rate,memory,...] [--images N] [--kills N]

What it measures, and about how long that takes on two free cores:

- *rate* (20 minutes): images a second of the pass beside the bare network, on JPEGs that this
  script makes (20 s) and on Fashion-MNIST's 70,000 images (where /usr/share/datasets/fashion-mnist
  is there). A worker that decodes has a core of its own: of c cores the network gets as many
  threads as w workers leave, in the pass as alone. In one row workers and threads compete, in one
  there is a process a core.
- *memory* (2 minutes): the highest resident memory of a run over 1,000, 10,000 and 70,000 images,
  each in a process of its own.
- *resume* (2 minutes): a run killed half way and started again, against one that nothing
  disturbed; and how long a run that is done takes to be opened.
- *kills* (3 minutes): a run is killed with SIGKILL at random moments until it is done, 20 times
  over; the files must be those of a run that nothing disturbed.
- *processes* (3 minutes): the same images on 1, 2 and 4 processes under torchrun.

Every number is printed and appended to scale.jsonl in --out (benchmarks/results); scale.md there
has each part's latest rows as tables. Those of --quick, which mean nothing, are called scale-quick.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import append, read
from PIL import Image

import zfcuda.cli.info
from zfcuda.cli.inputs import list_all
from zfcuda.data.images import ImageFiles

IDX = Path("/usr/share/datasets/fashion-mnist")
LAYERS = ("relu1", "relu2", "relu3", "relu4", "relu5")
CORES = len(os.sched_getaffinity(0))

# What the tables say.
PARTS = {
    "rate": "Images a second of the pass (`zfnet_small`, five layers, reading and all) and of the "
    "bare network on 64 images at hand, in as many threads as all processes have, in both memory "
    "formats; the share is of the faster one. Medians of three rounds in which they take turns. "
    "Workers and threads are those of a process; where they are more than the cores they compete.",
    "memory": "The highest resident memory of a run, workers left out.",
    "resume": "Seconds of whole commands, the start of Python included. What a kill costs: both "
    "parts together, less the undisturbed run. The files are the same.",
    "kills": "Runs that were killed with SIGKILL at random moments until they were done.",
    "processes": "One thread each, under torchrun. Strong scaling: the same images, and the same "
    "bytes; weak: as many a process.",
}


@dataclass(frozen=True)
class Bench:
    """What is measured with.

    Attributes:
        work: a folder for runs.
        jpegs: the folder of JPEGs.
        data: command-line options by the data's name; the largest data set last.
        quick: little of everything.
        kills: runs that are killed.
    """

    work: Path
    jpegs: Path
    data: dict[str, Sequence[str]]
    quick: bool
    kills: int

    @property
    def largest(self) -> tuple[str, Sequence[str]]:
        return [*self.data.items()][-1]


def make_jpegs(folder: Path, count: int, size: int = 96, seed: int = 0) -> Path:
    """``count`` JPEGs of smooth noise with edges, a thousand to a folder; a few are damaged."""
    for number in range(count):
        path = folder / f"{number // 1000:03d}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number % 997 == 500:
            path.write_bytes(b"\xff\xd8\xff\xe0 no JPEG")
            continue
        rng = np.random.default_rng((seed, number))
        coarse = rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
        x, y, w, h = rng.integers(0, size // 2, 4)
        picture.paste(tuple(int(v) for v in rng.integers(0, 255, 3)), (x, y, x + w, y + h))
        picture.save(path, quality=85)
    return folder


def command(data: Sequence[str], store: Path, *more: str, processes: int = 1) -> list[str]:
    """The command line of a run."""
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone"]
        start += ["--nproc-per-node", str(processes)]
    run = ["-m", "zfcuda", "top9", "--model", "zfnet_small", "--device", "cpu", "--quiet"]
    return [*start, *run, *data, "--maps", "10", "--store", str(store), *more]


def timed(arguments: Sequence[str], threads: int = CORES) -> tuple[float, int]:
    """Seconds and the highest resident bytes of a command (its workers left out)."""
    began, peak = time.perf_counter(), 0
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            arguments, stdout=subprocess.DEVNULL, stderr=said, env=_in_threads(threads)
        ) as process,
    ):
        try:
            while process.poll() is None:
                peak = max(peak, _peak(process.pid))
                time.sleep(0.02)
        finally:
            process.kill()
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(arguments)} failed: {said.read().decode()}")
    return time.perf_counter() - began, peak


def _in_threads(count: int) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": str(count)}


def _peak(pid: int) -> int:
    """A process's highest resident size so far, bytes (Linux)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return int(found[0]) * 1024 if found else 0


def manifest(store: Path) -> dict[str, Any]:
    return json.loads((store / "manifest.json").read_text())


def contents(store: Path) -> dict[str, bytes]:
    files = [*store.glob("layers/*"), store / "index.csv"]
    return {path.name: path.read_bytes() for path in files}


# --- the parts ------------------------------------------------------------------------------------


def rate(bench: Bench) -> Iterator[dict[str, Any]]:
    some = sorted({0, min(1, CORES - 1), CORES // 4, CORES // 2})
    ways = [Way(1, workers, max(1, CORES - workers)) for workers in some]
    if CORES > 1:
        ways += [Way(1, CORES // 2, CORES), Way(CORES, 0, 1)]
    for name, source in bench.data.items():
        for way in ways:
            yield _rate(bench, name, source, way)


@dataclass(frozen=True)
class Way:
    """Processes, workers of each that read, and threads of each."""

    processes: int
    workers: int
    threads: int


def _rate(bench: Bench, name: str, source: Sequence[str], way: Way) -> dict[str, Any]:
    """Medians of rounds, in which the pass and the bare network take turns."""
    store, rounds = bench.work / "rate", []
    for _ in range(1 if bench.quick else 3):
        bare = _bare(source, min(CORES, way.processes * way.threads))
        more = ["--workers", str(way.workers)]
        timed(command(source, store, *more, processes=way.processes), way.threads)
        rates = manifest(store)["rates"]
        shutil.rmtree(store)
        rounds.append((rates["images_per_second"], *bare))
    own, contiguous, by_pixels = (statistics.median(one) for one in zip(*rounds, strict=True))
    shares = [each / max(others) for each, *others in rounds]
    return {
        "images": name, "count": rates["images"], "processes": way.processes,
        "workers": way.workers, "threads": way.threads, "images/s": round(own),
        "bare network": round(contiguous), "bare, channels_last": round(by_pixels),
        "share": f"{statistics.median(shares):.0%}",
        "lowest to highest": f"{min(shares):.0%} to {max(shares):.0%}",
    }  # fmt: skip


def _bare(source: Sequence[str], threads: int) -> tuple[float, float]:
    """Images a second of the network alone, contiguous and in channels_last."""
    script = Path(__file__).with_name("bare_forward.py")
    said = subprocess.run(
        [sys.executable, script, *source],
        env=_in_threads(threads),
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    contiguous, by_pixels = map(float, said.split())
    return contiguous, by_pixels


def memory(bench: Bench) -> Iterator[dict[str, Any]]:
    name, source = bench.largest
    for count in (500, 1_000, 2_000) if bench.quick else (1_000, 10_000, 70_000):
        store = bench.work / "memory"
        seconds, peak = timed(command(source, store, "--limit", str(count)))
        found = manifest(store)["settings"]["images"]
        shutil.rmtree(store)
        yield {"images": name, "count": found, "peak, MiB": peak >> 20, "s": round(seconds, 1)}


def resume(bench: Bench) -> Iterator[dict[str, Any]]:
    name, source = bench.largest
    limited = [*source, "--limit", "1500" if bench.quick else "30000"]
    whole, again = bench.work / "whole", bench.work / "again"
    undisturbed, _ = timed(command(limited, whole))
    opened, _ = timed(command(limited, whole))
    start, _ = timed([sys.executable, "-c", "import zfcuda; zfcuda.models.load('zfnet_small')"])
    first = _killed(command(limited, again), undisturbed / 2)
    second, _ = timed(command(limited, again))
    if contents(again) != contents(whole):
        raise SystemExit("a run that was killed and went on has other bytes")
    left = manifest(again)["rates"].get("images", 0)
    shutil.rmtree(whole)
    shutil.rmtree(again)
    yield {
        "images": name, "count": int(limited[-1]), "undisturbed": round(undisturbed, 1),
        "killed after": round(first, 1), "going on": round(second, 1),
        "the kill costs": round(first + second - undisturbed, 1), "images left": left,
        "opening when done": round(opened, 1), "start of Python and model": round(start, 1),
    }  # fmt: skip


def _killed(arguments: Sequence[str], after: float) -> float:
    """Kill a command and all of its processes; the seconds that it had."""
    began = time.perf_counter()
    process = subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, start_new_session=True, env=_in_threads(CORES)
    )
    time.sleep(after)
    os.killpg(process.pid, signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        raise SystemExit(f"{' '.join(arguments)} was done before it was killed")
    return time.perf_counter() - began


def kills(bench: Bench) -> Iterator[dict[str, Any]]:
    """Each run is killed at random moments until it gets to its end.

    Runs are forks of this process, so that a kill costs no start of Python: moments are spread over
    the pass, the merging of states, the projections and the writing.
    """
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    model = zfcuda.models.load("zfnet_small")
    expects = zfcuda.models.preprocessing("zfnet_small", model)
    files = list_all(bench.jpegs)[:600]

    def record(store: Path) -> None:
        source = ImageFiles(files, expects, workers=1)
        zfcuda.record_activations(store, model, source, LAYERS, maps=4, batch=32, every=32)

    whole = bench.work / "undisturbed"
    seconds = _forked(lambda: record(whole), None)
    if seconds is None:
        raise SystemExit("the undisturbed run failed")
    expected, rng = contents(whole), random.Random(0)
    killed, same = 0, 0
    for attempt in range(bench.kills):
        store = bench.work / f"killed-{attempt}"
        while _forked(lambda: record(store), seconds * rng.uniform(0.02, 0.9)) is None:  # noqa: B023
            killed += 1
        same += contents(store) == expected
        shutil.rmtree(store)
    yield {
        "images": "JPEGs", "count": len(files), "runs": bench.kills, "kills": killed,
        "with the same bytes": same, "undisturbed, s": round(seconds, 1),
    }  # fmt: skip
    if same != bench.kills:
        raise SystemExit(f"{bench.kills - same} of {bench.kills} runs have other bytes")


def _forked(do: Callable[[], None], limit: float | None) -> float | None:
    """Seconds that ``do`` took in a process of its own; None if it was killed after ``limit``."""
    began = time.perf_counter()
    child = os.fork()
    if not child:
        os.setsid()
        try:
            do()
        except BaseException as error:  # or the child would go on as its parent
            print(f"failed: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    while limit is None or time.perf_counter() - began < limit:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            if status:
                raise SystemExit(f"a run failed with status {status}")
            return time.perf_counter() - began
        time.sleep(0.002)
    try:
        os.killpg(child, signal.SIGKILL)  # and its workers
    except ProcessLookupError:  # it has no group of its own yet
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def processes(bench: Bench) -> Iterator[dict[str, Any]]:
    """Strong scaling: the same images; weak scaling: as many a process. One thread each."""
    name, source = bench.largest
    count = 2_000 if bench.quick else 16_000
    expected = None
    for world in (1, 2, 4):
        for kind, images in (("strong", count), ("weak", count * world // 4)):
            store = bench.work / f"processes-{world}"
            limited = [*source, "--limit", str(images)]
            arguments = command(limited, store, "--workers", "0", processes=world)
            seconds, _ = timed(arguments, 1)
            rates = manifest(store)["rates"]
            if kind == "strong":
                expected = expected or contents(store)
                if contents(store) != expected:
                    raise SystemExit(f"{world} processes give other bytes than one")
            shutil.rmtree(store)
            yield {
                "images": name, "scaling": kind, "processes": world, "count": rates["images"],
                "images/s": round(rates["images_per_second"]), "s": round(seconds, 1),
            }  # fmt: skip


MEASURES: dict[str, Callable[[Bench], Iterator[dict[str, Any]]]] = {
    "rate": rate,
    "memory": memory,
    "resume": resume,
    "kills": kills,
    "processes": processes,
}


# --- what is said of it ---------------------------------------------------------------------------


def markdown(lines: Sequence[dict[str, Any]]) -> str:
    """Each part's latest rows as a table."""
    text = ["# Data sets: rate, memory, resuming, kills", ""]
    text += ["`benchmarks/scale.py` tells how all of it is measured."]
    for part, about in PARTS.items():
        latest = max((line["began"] for line in lines if line["part"] == part), default=None)
        own = [line for line in lines if line["part"] == part and line["began"] == latest]
        if not own:
            continue
        took = max(line["took"] for line in own)
        text += ["", f"## {part}", "", about, ""]
        text += [f"{own[0]['machine']}; {took / 60:.1f} minutes.", ""]
        text += _table([line["row"] for line in own])
    return "\n".join(text) + "\n"


def _machine() -> str:
    return (
        f"{zfcuda.cli.info.collect().simd_level}, {CORES} cores, float32, "
        f"torch {torch.__version__}, Python {platform.python_version()}"
    )


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    def line(cells: Sequence[Any]) -> str:
        shown = (f"{cell:,}" if isinstance(cell, int | float) else str(cell) for cell in cells)
        return f"| {' | '.join(shown)} |"

    sides = ["---:" if isinstance(cell, int | float) else "---" for cell in rows[0].values()]
    return [line([*rows[0]]), line(sides), *(line([*row.values()]) for row in rows)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few images, few kills")
    parser.add_argument("--only", default=",".join(MEASURES), help="parts, joined by commas")
    parser.add_argument("--images", type=int, help="JPEGs (default: 20,000; 2,000 if quick)")
    parser.add_argument("--kills", type=int, help="runs that are killed (default: 20; 2 if quick)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    name = "scale-quick" if options.quick else "scale"
    results = options.out / f"{name}.jsonl"
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    unknown = {*options.only.split(",")} - MEASURES.keys()
    if unknown:
        parser.error(f"no part {unknown.pop()!r}: expected some of {','.join(MEASURES)}")
    with tempfile.TemporaryDirectory() as temporary:
        bench = _bench(Path(temporary), options)
        for part in options.only.split(","):
            began = time.perf_counter()
            for row in MEASURES[part](bench):
                print(part, json.dumps(row), flush=True)
                took = round(time.perf_counter() - began, 1)
                head = {"part": part, "began": now, "took": took, "machine": _machine()}
                append(results, {**head, "row": row})
            results.with_suffix(".md").write_text(markdown(read(results)))


def _bench(work: Path, options: argparse.Namespace) -> Bench:
    began = time.perf_counter()
    jpegs = make_jpegs(work / "jpegs", options.images or (2_000 if options.quick else 20_000))
    print(f"JPEGs made in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    data: dict[str, Sequence[str]] = {"JPEGs": ["--data", str(jpegs)]}
    if IDX.is_dir():
        data["Fashion-MNIST"] = ["--data", str(IDX), "--part", "all"]
    else:
        print("no Fashion-MNIST here: JPEGs only", file=sys.stderr)
    if options.quick:
        data = {name: [*source, "--limit", "2000"] for name, source in data.items()}
    return Bench(work, jpegs, data, options.quick, options.kills or (2 if options.quick else 20))


if __name__ == "__main__":
    main()
