"""Strongest activations over whole data sets: rate, memory, resuming, kills.

    python benchmarks/scale.py [--quick] [--only rate,memory,resume,kills,processes] [--out DIR]

- *rate*: images a second of the pass beside the bare network, on JPEGs that this script makes and
  on Fashion-MNIST's 70,000 images (where /usr/share/datasets/fashion-mnist is there).
- *memory*: the highest resident memory of a run over 1,000, 10,000 and 70,000 images, each in a
  process of its own.
- *resume*: how long a run that was done takes to be opened.
- *kills*: a run is killed with SIGKILL at random moments until it is done, 20 times over; the
  files must be those of a run that nothing disturbed.
- *processes*: the same images on 1, 2 and 4 processes under torchrun.

Every number is printed and appended to OUT/scale.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

IDX = Path("/usr/share/datasets/fashion-mnist")
LAYERS = ("relu1", "relu2", "relu3", "relu4", "relu5")
PARTS = ("rate", "memory", "resume", "kills", "processes")


def make_jpegs(folder: Path, count: int, size: int = 96, seed: int = 0) -> Path:
    """``count`` JPEGs of smooth noise with edges, a thousand to a folder; a few are damaged."""
    for number in range(count):
        path = folder / f"{number // 1000:03d}" / f"{number:06d}.jpg"
        if path.is_file():
            continue
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


def command(
    data: Sequence[str], store: Path, *more: str, maps: str = "10", processes: int = 1
) -> list[str]:
    """The command line of a run."""
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone"]
        start += ["--nproc-per-node", str(processes)]
    run = ["-m", "zfcuda", "top9", "--model", "zfnet_small", "--device", "cpu", "--quiet"]
    return [*start, *run, *data, "--maps", maps, "--store", str(store), *more]


def timed(arguments: Sequence[str]) -> tuple[float, int]:
    """Seconds and the highest resident bytes of a command (its workers left out)."""
    began, peak = time.perf_counter(), 0
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=said) as process,
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


def rate(data: dict[str, Sequence[str]], work: Path) -> Iterator[dict[str, Any]]:
    for name, source in data.items():
        for workers in (0, 1, 2):
            store = work / f"rate-{workers}"
            timed(command(source, store, "--workers", str(workers)))
            rates = manifest(store)["rates"]
            shutil.rmtree(store)
            own, bare = rates["images_per_second"], rates["forward_images_per_second"]
            yield {
                "images": name, "count": rates["images"], "workers": workers,
                "images/s": round(own), "bare forward images/s": round(bare),
                "share": round(own / bare, 3),
            }  # fmt: skip


def memory(
    data: dict[str, Sequence[str]], work: Path, counts: Sequence[int]
) -> Iterator[dict[str, Any]]:
    name, source = [*data.items()][-1]
    for count in counts:
        store = work / "memory"
        seconds, peak = timed(command(source, store, "--limit", str(count)))
        shutil.rmtree(store)
        yield {"images": name, "count": count, "peak MiB": peak >> 20, "seconds": round(seconds, 1)}


def resume(data: dict[str, Sequence[str]], work: Path) -> Iterator[dict[str, Any]]:
    name, source = [*data.items()][-1]
    store = work / "resume"
    whole, _ = timed(command(source, store))
    again, _ = timed(command(source, store))
    empty, _ = timed([sys.executable, "-c", "import zfcuda; zfcuda.models.load('zfnet_small')"])
    shutil.rmtree(store)
    yield {
        "images": name, "whole run, s": round(whole, 1), "opened when done, s": round(again, 1),
        "of which start of Python and model, s": round(empty, 1),
    }  # fmt: skip


def kills(jpegs: Path, work: Path, times: int) -> Iterator[dict[str, Any]]:
    """Each run is killed at random moments until it gets to its end.

    Runs are forks of this process, so that a kill costs no start of Python: moments are spread over
    the pass, the merging of states, the projections and the writing.
    """
    import torch

    import zfcuda
    from zfcuda._sources import Files
    from zfcuda.commands._data import list_all

    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    model = zfcuda.models.load("zfnet_small")
    expects = zfcuda.models.preprocessing("zfnet_small", model)
    files = list_all(jpegs)[:600]

    def record(store: Path) -> None:
        source = Files(files, expects, workers=1)
        zfcuda.record_activations(store, model, source, LAYERS, maps=4, batch=32, every=32)

    whole = work / "undisturbed"
    seconds = _forked(lambda: record(whole), None)
    if seconds is None:
        raise SystemExit("the undisturbed run failed")
    expected, rng = contents(whole), random.Random(0)
    killed, same = 0, 0
    for attempt in range(times):
        store = work / f"killed-{attempt}"
        while _forked(lambda: record(store), seconds * rng.uniform(0.02, 0.9)) is None:  # noqa: B023
            killed += 1
        same += contents(store) == expected
        shutil.rmtree(store)
    yield {
        "images": "JPEGs", "count": len(files), "runs": times, "kills": killed,
        "with the same bytes": same, "undisturbed, s": round(seconds, 1),
    }  # fmt: skip
    if same != times:
        raise SystemExit(f"{times - same} of {times} runs differ from one that was not disturbed")


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


def processes(data: dict[str, Sequence[str]], work: Path, count: int) -> Iterator[dict[str, Any]]:
    """Strong scaling: the same images; weak scaling: as many a process. One thread each."""
    name, source = [*data.items()][-1]
    os.environ["OMP_NUM_THREADS"] = "1"
    expected = None
    for world in (1, 2, 4):
        for kind, images in (("strong", count), ("weak", count * world // 4)):
            store = work / f"processes-{world}"
            arguments = command(source, store, "--limit", str(images), processes=world)
            seconds, _ = timed(arguments)
            rates = manifest(store)["rates"]
            if kind == "strong":
                expected = expected or contents(store)
                if contents(store) != expected:
                    raise SystemExit(f"{world} processes give other bytes than one")
            shutil.rmtree(store)
            yield {
                "images": name, "scaling": kind, "processes": world, "count": images,
                "images/s": round(rates["images_per_second"]), "seconds": round(seconds, 1),
            }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few images, few kills")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, joined by commas")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        jpegs = make_jpegs(work / "jpegs", 2_000 if options.quick else 20_000)
        data: dict[str, Sequence[str]] = {"JPEGs": ["--data", str(jpegs)]}
        if IDX.is_dir():
            data["Fashion-MNIST"] = ["--data", str(IDX), "--part", "all"]
        else:
            print("no Fashion-MNIST here: JPEGs only", file=sys.stderr)
        if options.quick:
            data = {name: [*source, "--limit", "2000"] for name, source in data.items()}
        counts = (500, 1_000, 2_000) if options.quick else (1_000, 10_000, 70_000)
        parts: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
            "rate": lambda: rate(data, work),
            "memory": lambda: memory(data, work, counts),
            "resume": lambda: resume(data, work),
            "kills": lambda: kills(jpegs, work, 2 if options.quick else 20),
            "processes": lambda: processes(data, work, 2_000 if options.quick else 16_000),
        }
        options.out.mkdir(parents=True, exist_ok=True)
        with (options.out / "scale.jsonl").open("a", encoding="utf-8") as file:
            for part in options.only.split(","):
                for row in parts[part]():
                    print(part, json.dumps(row), flush=True)
                    file.write(json.dumps({"part": part, "quick": options.quick, **row}) + "\n")


if __name__ == "__main__":
    main()
