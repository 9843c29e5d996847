"""Whole experiments on a GPU: occlusion against Captum and against dense passes, and projections.

    python benchmarks/gpu/experiments.py --what occlusion --out occlusion.json
    python benchmarks/gpu/experiments.py --what projections --device cpu   does it run? small

Occlusion (../occlusion.py's contests) in float32 without TF32, with TF32 and in bfloat16; peers in
the same precision. Peers are swept over their batches, the two best take part in rounds; the dense
batches also as a CUDA graph. Ours is called as anybody calls it, and once more under the profiler:
the share of the time in which kernels run. Correctness comes first. Where Captum is not installed
its own way is written out in plain torch, and the record says so.

*occlusion*: six rows that are hard to be fast on, in every precision. *networks*: more networks,
none of them to be slower than dense. *projections*: the nine strongest activations of every map of
ZFNet, 12,384 units, found and projected.
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib.metadata
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import occlusion
import occlusion as contests
from kernels import gemm_rate
from measuring import Contestant, finalists, median_ratio
from networks import build, image_size

import zfcuda
from zfcuda.inference.interception import fast_forward

PRECISIONS = ("float32", "tf32", "bfloat16")
CAPTUM_EXPECTED = {"float32": 8.0, "tf32": 5.0, "bfloat16": 5.0}  # times Captum at its best batch
SHARE_EXPECTED = 0.6  # of the multiply-add ceiling


@dataclass(frozen=True)
class Row(occlusion.Row):
    """A row; ``goal``: whether CAPTUM_EXPECTED and SHARE_EXPECTED are expected of it."""

    goal: bool = False


# Those of a network one after another, the most important first.
HARD = (
    Row("own_vgg16", 16, 4, goal=True),
    Row("zfnet", 16, 4, goal=True),
    Row("zfnet", 50, 8),
    Row("zfnet", 32, 16),
    Row("resnet18", 16, 4),
    Row("squeezenet1_1", 16, 4),
)
OTHERS = "own_inception googlenet inception_v3 mobilenet_v2 resnet50 densenet121 efficientnet_b0"
TOP9_LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5")


@dataclass(frozen=True)
class Extent:
    """How much is done.

    Attributes:
        hard: rows that are measured in every precision.
        others: rows that are measured in float32.
        settings: of the contests.
        zfnet: whose maps' strongest activations are projected, of so many ``images``, of so many
            ``maps`` of each layer.
        product: side of the matrices that multiply-adds are timed on.
    """

    hard: tuple[Row, ...]
    others: tuple[Row, ...]
    settings: contests.Settings
    zfnet: str = "zfnet"
    images: int = 512
    maps: int | str = "all"
    product: int = 8192

    @classmethod
    def full(cls) -> Extent:
        settings = contests.Settings(batches=(32, 64, 128, 256, 512), positions=10**6, rounds=3)
        return cls(HARD, tuple(Row(net, 32, 16) for net in OTHERS.split()), settings)

    @classmethod
    def dry(cls) -> Extent:
        settings = replace(contests.Settings.quick(), positions=10**6)
        return cls(
            (Row("zfnet_small", 16, 16, goal=True),),
            (Row("own_inception_small", 16, 16),),
            settings,
            zfnet="zfnet_small",
            images=10,
            maps=2,
            product=256,
        )

    def rows(self, what: str) -> list[tuple[Row, str]]:
        """What is measured in which precision: a network's first rows in all of them, then its
        next."""
        if what == "networks":
            return [(row, "float32") for row in self.others]
        return [(row, precision) for row in self.hard for precision in PRECISIONS]


# --- precisions and peers -------------------------------------------------------------------------


@contextmanager
def precision(name: str) -> Iterator[torch.dtype]:
    """The type of models and images; float32's products as the name says."""
    settings = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [setting.allow_tf32 for setting in settings]
    try:
        for setting in settings:
            setting.allow_tf32 = name == "tf32"
        yield torch.bfloat16 if name == "bfloat16" else torch.float32
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.allow_tf32 = value


def captum_or_its_way() -> tuple[contests.Peer, str]:
    """Captum as a peer, and what to call it in the record."""
    if importlib.util.find_spec("captum") is None:
        return contests.captums_way, (
            "Captum's FeatureAblation written out in plain torch, since captum is not installed"
        )
    return contests.captum, f"Captum {importlib.metadata.version('captum')}"


def that_fit(contestants: Sequence[Contestant]) -> list[Contestant]:
    """Those whose batch fits the GPU's memory; all have warmed up then."""
    fit = []
    for contestant in contestants:
        try:
            contestant.run()
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            continue
        fit.append(contestant)
    return fit


def graphed(model: nn.Module, x: Tensor, batch: int) -> Contestant:
    """Dense passes of our engine, channels_last, as one CUDA graph a batch."""
    count = max(batch, 16)
    boxes = contests.tiles(count, x.shape[-1]).to(x.device)
    laid = copy.deepcopy(model).to(memory_format=torch.channels_last)

    def copies(part: Tensor) -> Tensor:
        shown = zfcuda.ops.occlude(x, part, 0.0)[0]
        return shown.contiguous(memory_format=torch.channels_last)

    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), fast_forward():
        images = copies(boxes[:batch]).clone(memory_format=torch.preserve_format)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # what is set up at first calls is set up before
            laid(images)
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            logits = laid(images)

    @torch.no_grad()
    def run() -> Tensor:
        parts = []
        for part in boxes.split(batch):
            images[: len(part)].copy_(copies(part))
            graph.replay()
            parts.append(logits[: len(part)].clone())
        return torch.cat(parts)

    return Contestant(f"CUDA graph of zfcuda, channels_last, batch {batch}", run, count)


def dense_peers(
    own: nn.Module, peers: nn.Module, x: Tensor, batches: Sequence[int]
) -> list[Contestant]:
    """The two best dense batches, a CUDA graph among those that were tried."""
    best = finalists(that_fit(contests.dense(own, peers, x, batches)))
    if x.device.type == "cpu":
        return best
    batch = int(best[0].label.rpartition(" ")[2])
    try:
        graph = graphed(own, x, batch)
    except RuntimeError as error:  # what cannot be captured runs without
        print(f"no CUDA graph of dense passes: {str(error).splitlines()[0]}", file=sys.stderr)
        return best
    expected, found = (contestant.run() for contestant in (best[0], graph))
    # Another algorithm may round otherwise, another image would be far off.
    assert float((expected - found).norm() / expected.norm()) < 0.1, "the graph's logits are wrong"
    return [*best, graph]


# --- occlusion ------------------------------------------------------------------------------------


class Contest:
    """Rows measured one after another; what the last one made is there for the next of its network.

    Attributes:
        rates: multiply-adds a second of large products, by precision.
    """

    def __init__(self, device: str, settings: contests.Settings, rates: dict[str, float]) -> None:
        self.device, self.settings, self.rates = device, settings, rates
        self._net = ""
        self._made: dict[torch.dtype, tuple[Tensor, nn.Module, nn.Module]] = {}
        self._peers: dict[str, dict[str, list[Contestant]]] = {}

    def prepared(self, net: str, dtype: torch.dtype) -> tuple[Tensor, nn.Module, nn.Module]:
        """An image, and the network for us and for everybody else, on the device."""
        if net != self._net:
            self._peers.clear()
            x, own, peers = contests.prepared(net)
            parts = x.to(self.device), own.to(self.device), peers.to(self.device)
            self._net, self._made = net, {torch.float32: parts}
        if dtype not in self._made:
            x, own, peers = self._made[torch.float32]
            models = (copy.deepcopy(model).to(dtype) for model in (own, peers))
            self._made[dtype] = (x.to(dtype), *models)
        return self._made[dtype]

    def peers(
        self, name: str, own: nn.Module, peers: nn.Module, x: Tensor
    ) -> dict[str, list[Contestant]]:
        """Everybody else at their best; the row makes no difference to them."""
        if name not in self._peers:
            peer, batches = captum_or_its_way()[0], self.settings.batches
            self._peers[name] = {
                "captum": finalists(that_fit([peer(peers, x, batch) for batch in batches])),
                "dense": dense_peers(own, peers, x, batches),
            }
        return self._peers[name]

    def measure(self, row: Row, name: str) -> dict[str, Any]:
        """One row in one precision.

        Raises:
            AssertionError: a result differs from torch's or Captum's by more than rounding.
        """
        with precision(name) as dtype:
            x, own, peers = self.prepared(row.net, dtype)
            return self._measured(row, name, x, own, peers)

    def _measured(
        self, row: Row, name: str, x: Tensor, own: nn.Module, peers: nn.Module
    ) -> dict[str, Any]:
        peer, called = captum_or_its_way()
        checked = contests.check(own, peers, x, row, peer)
        groups = self.peers(name, own, peers, x)
        plan = zfcuda.plan(own, x, size=row.size, stride=row.stride)
        rounds, labels = contests.contest(own, peers, x, row, self.settings, groups)
        seconds = statistics.median(times["ours"] for times in rounds)
        ratios = {peer: median_ratio(rounds, peer) for peer in ("captum", "dense")}
        macs = sum(step.dense_macs if step.dense else step.cone_macs for step in plan.steps)
        return {
            **asdict(row),
            "key": f"{row.key}, {name}",
            "precision": name,
            "captum": called,
            **checked,
            "positions": plan.positions,
            "ceiling": plan.ceiling,
            "predicted": plan.predicted_speedup,
            "dense_from": plan.dense_from,
            "labels": labels,
            "rounds": rounds,
            "seconds": seconds,
            "vs_captum": ratios["captum"],
            "vs_dense": ratios["dense"],
            "reached": ratios["dense"] / plan.ceiling,
            "of_products": macs / seconds / self.rates[name],
            "captum_expected": CAPTUM_EXPECTED[name] if row.goal else None,
            "busy": None if x.device.type == "cpu" else busy(_ours(own, x, row)),
        }


def _ours(own: nn.Module, x: Tensor, row: Row) -> Contestant:
    return contests.ours(own, x, row, contests.grid(row, x.shape[-1]))


def busy(contestant: Contestant) -> float | None:
    """Share of its time in which GPU kernels run; None where the profiler cannot tell."""
    seconds = contestant.seconds()
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiled:
            contestant.seconds()
    except RuntimeError:
        return None
    total = sum(event.self_device_time_total for event in profiled.key_averages())
    return total * 1e-6 / seconds if total else None


# --- projections ----------------------------------------------------------------------------------


def project_all(extent: Extent, device: str) -> dict[str, Any]:
    """The strongest nine activations of every map, found among random images and projected.

    Raises:
        AssertionError: what was projected is not what was found.
    """
    torch.manual_seed(0)
    side = image_size(extent.zfnet)
    images = torch.randn(extent.images, 3, side, side, device=device)
    with precision("float32"):
        model = build(extent.zfnet, images[:2].cpu())[0].to(device)
        _top9(model, images[:9], 1)  # warm-up
        begin = time.perf_counter()
        _top9(model, images, 0)
        middle = time.perf_counter()
        found = _top9(model, images, extent.maps)
        end = time.perf_counter()
    worst = max(found.difference.values())
    assert worst <= 1e-3, f"activations are off by {worst:.1e} when they are projected"
    units = sum(int((found.images[name][own] >= 0).sum()) for name, own in found.channels.items())
    for name, pictures in found.projections.items():
        assert pictures.isfinite().all() and pictures.any(), f"{name}: empty projections"
    return {
        "net": extent.zfnet,
        "images": extent.images,
        "units": units,
        "pass_seconds": middle - begin,
        "seconds": end - middle,
        "bytes": sum(pictures.nbytes for pictures in found.projections.values()),
    }


def _top9(model: nn.Module, images: Tensor, maps: int | str) -> zfcuda.TopActivations:
    return zfcuda.top_activations(model, images, TOP9_LAYERS, k=9, maps=maps)


# --- the command ----------------------------------------------------------------------------------


def table(name: str, found: dict[str, Any]) -> list[str]:
    lines = [
        f"## {name}",
        "",
        f"Peer: {found['captum']}. The rate of products is measured in the same run.",
        "",
        "| net, occluder, precision | zfcuda, ms a position | vs Captum (expected) | vs dense | "
        "ceiling | reached (expected) | of products' rate | GPU busy | the peers' best settings |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in found["rows"]:
        goal = row["captum_expected"]
        busy = row.get("busy")
        cells = [
            row["key"],
            f"{1e3 * row['seconds']:.3f}",
            f"{row['vs_captum']:.1f}×" + (f" ({goal:g}×)" if goal else ""),
            f"{row['vs_dense']:.1f}×",
            f"{row['ceiling']:.1f}",
            f"{row['reached']:.0%}" + (f" ({SHARE_EXPECTED:.0%})" if goal else ""),
            f"{row['of_products']:.0%}",
            f"{busy:.0%}" if busy else "–",
            "; ".join(f"{peer}: {label}" for peer, label in row["labels"].items()),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if top := found.get("projections"):
        lines += [
            "",
            f"{top['units']:,} projections of {top['net']} ({top['bytes'] / 1e6:.0f} MB), with the "
            f"pass over {top['images']} images that finds them: {top['seconds']:.1f} s; the pass "
            f"alone {top['pass_seconds']:.1f} s.",
        ]
    notes = [("wrong", found["failed"]), ("left out", found["left_out"])]
    return [*lines, "", *(f"- **{what}**: {line}" for what, which in notes for line in which)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", choices=("occlusion", "networks", "projections"), required=True)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, help="JSON")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no row after")
    options = parser.parse_args()
    begin = time.perf_counter()
    dry = options.device == "cpu"
    extent = Extent.dry() if dry else Extent.full()
    found: dict[str, Any] = {
        "captum": captum_or_its_way()[1],
        "macs_per_s": {
            "float32": gemm_rate(options.device, torch.float32, extent.product),
            "tf32": gemm_rate(options.device, torch.float32, extent.product, tf32=True),
            "bfloat16": gemm_rate(options.device, torch.bfloat16, extent.product),
        },
        "rows": [],
        "left_out": [],
        "failed": [],
    }
    contest = Contest(options.device, extent.settings, found["macs_per_s"])

    def occluded(row: Row, name: str) -> None:
        found["rows"].append(contest.measure(row, name))

    def projected() -> None:
        found["projections"] = project_all(extent, options.device)

    if options.what == "projections":
        works = [("top-9 projections", projected)]
    else:
        rows = extent.rows(options.what)
        works = [(f"{row.key}, {name}", partial(occluded, row, name)) for row, name in rows]
    for name, work in works:
        if options.only not in name:
            continue
        if time.perf_counter() - begin > options.seconds:
            found["left_out"].append(f"{name}: no time was left")
        else:
            attempt(name, work, found)
        if options.out:  # after each: what was measured stays
            options.out.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{name}: after {time.perf_counter() - begin:.0f} s", flush=True)
    print("\n".join(table(options.what, found)))
    if found["failed"]:
        sys.exit(1)


def attempt(name: str, work: Callable[[], object], found: dict[str, Any]) -> None:
    """One row, or the projections; what goes wrong costs nothing but itself."""
    try:
        work()
    except ImportError as error:
        found["left_out"].append(f"{name}: there is no {error.name} here")
    except (AssertionError, RuntimeError, ValueError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        found["failed"].append(f"{name}: {said[0]}")
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
