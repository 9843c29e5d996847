"""Whole experiments on a GPU: occlusion against Captum and against dense passes, and projections.

    python benchmarks/gpu/experiments.py --out experiments.json
    python benchmarks/gpu/experiments.py --device cpu           does it run? small networks, 1 round

Occlusion (../occlusion.py's contests) in float32 (*exact*: TF32 is switched off), with TF32 and in
bfloat16; peers in the same precision. Peers are swept over their batches, the two best take part in
rounds; the dense batches also as a CUDA graph. Ours is called as anybody calls it, and beside the
contest with several limits of memory and under the profiler: the share of the time in which kernels
run tells whether graphs could help it. Correctness comes first. Where Captum is not installed its
own way is written out in plain torch, and the record says so.

Then the nine strongest activations of every map of ZFNet, 12,384 units, found and projected.
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


@dataclass(frozen=True)
class Row(occlusion.Row):
    """A row, with the ratios that are expected of it."""

    captum_expected: float | None = None
    dense_expected: float | None = None


HARD = (
    Row("own_vgg16", 16, 4, captum_expected=8),
    Row("zfnet", 16, 4, captum_expected=8),
)
SHARE_EXPECTED = 0.6  # of the multiply-add ceiling
PRECISIONS = ("exact", "tf32", "bfloat16")
# None of them slower than dense. With torchvision, where it is there.
OTHERS = (
    "googlenet inception_v3 mobilenet_v2 resnet18 resnet50 squeezenet1_1 densenet121 "
    "efficientnet_b0"
)
LIMITS = (2**28, 2**30, 2**32)  # bytes of max_memory that ours is tried with
TOP9_LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5")


@dataclass(frozen=True)
class Extent:
    """How much is done.

    Attributes:
        hard: rows that are measured in every precision.
        others: rows that are measured exactly only, but for the first, which is in all precisions.
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
        nets = ["own_inception"]
        if importlib.util.find_spec("torchvision"):
            nets += OTHERS.split()
        settings = contests.Settings(batches=(32, 64, 128, 256, 512), positions=10**6)
        return cls(HARD, tuple(Row(net, 32, 16, dense_expected=1) for net in nets), settings)

    @classmethod
    def dry(cls) -> Extent:
        settings = replace(contests.Settings.quick(), positions=10**6)
        return cls(
            (Row("zfnet_small", 16, 16, captum_expected=8),),
            (Row("own_inception_small", 16, 16, dense_expected=1),),
            settings,
            zfnet="zfnet_small",
            images=10,
            maps=2,
            product=256,
        )

    def rows(self) -> list[tuple[Row, str]]:
        """What is measured in which precision, the most important first."""
        first, *rest = self.others
        found = [(row, precision) for row in self.hard for precision in PRECISIONS]
        found += [(first, precision) for precision in PRECISIONS]
        return found + [(row, "exact") for row in rest]


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


def measure(
    row: Row, name: str, device: str, settings: contests.Settings, rate: float
) -> dict[str, Any]:
    """One row in one precision.

    Args:
        rate: multiply-adds a second of large products in this precision.

    Raises:
        AssertionError: a result differs from torch's or Captum's by more than rounding.
    """
    peer, called = captum_or_its_way()
    with precision(name) as dtype:
        x, own, peers = contests.prepared(row.net)
        x = x.to(device, dtype)
        own, peers = (model.to(device, dtype) for model in (own, peers))
        checked = contests.check(own, peers, x, row, peer)
        groups = {
            "captum": finalists(that_fit([peer(peers, x, batch) for batch in settings.batches])),
            "dense": dense_peers(own, peers, x, settings.batches),
        }
        plan = zfcuda.plan(own, x, size=row.size, stride=row.stride)
        rounds, labels = contests.contest(own, peers, x, row, settings, groups)
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
            "of_products": macs / seconds / rate,
            **_ours_in_detail(own, x, row),
        }


def _ours_in_detail(own: nn.Module, x: Tensor, row: Row) -> dict[str, Any]:
    """Ours with several limits of memory and with each method, in seconds, and how busy it keeps
    the GPU: what the plan's constants, which come from a CPU, and its batches are to be set by."""

    def run(**settings: Any) -> Contestant:
        grid = {"target": contests.TARGET, "size": row.size, "stride": row.stride}
        return Contestant("", lambda: zfcuda.occlusion(own, x, **grid, **settings), 1)

    if x.device.type == "cpu":
        return {}
    limits = {f"{limit >> 20} MiB": run(max_memory=limit) for limit in LIMITS}
    methods = {method: run(method=method) for method in ("cone", "dense")}
    return {
        "by_memory": {name: min(each.seconds() for _ in range(2)) for name, each in limits.items()},
        "by_method": {
            name: min(each.seconds() for _ in range(2)) for name, each in methods.items()
        },
        "busy": busy(run()),
    }


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
    with precision("exact"):
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


def table(found: dict[str, Any]) -> list[str]:
    lines = [
        "## experiments",
        "",
        f"Peer: {found['captum']}. The rate of products is measured in the same run.",
        "",
        "| net, occluder, precision | zfcuda, ms a position | vs Captum (expected) | "
        "vs dense (expected) | ceiling | reached | of products' rate | GPU busy | "
        "best settings of the peers |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in found["rows"]:
        captum, dense = (
            f"{row[f'vs_{peer}']:.1f}×"
            + (f" ({expected:g}×)" if (expected := row[f"{peer}_expected"]) else "")
            for peer in ("captum", "dense")
        )
        busy = row.get("busy")
        cells = [
            row["key"],
            f"{1e3 * row['seconds']:.3f}",
            captum,
            dense,
            f"{row['ceiling']:.1f}",
            f"{row['reached']:.0%}"
            + (f" ({SHARE_EXPECTED:.0%})" if row["captum_expected"] else ""),
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
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, help="JSON")
    parser.add_argument("--only", help="rows whose name contains this")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no row after")
    options = parser.parse_args()
    begin = time.perf_counter()
    dry = options.device == "cpu"
    extent = Extent.dry() if dry else Extent.full()
    found: dict[str, Any] = {
        "captum": captum_or_its_way()[1],
        "torchvision": importlib.util.find_spec("torchvision") is not None,
        "macs_per_s": {
            "exact": gemm_rate(options.device, torch.float32, extent.product),
            "tf32": gemm_rate(options.device, torch.float32, extent.product, tf32=True),
            "bfloat16": gemm_rate(options.device, torch.bfloat16, extent.product),
        },
        "rows": [],
        "left_out": [],
        "failed": [],
    }

    def attempt(name: str, work: Callable[[], object]) -> None:
        """One row or the projections; what goes wrong costs nothing but itself."""
        if options.only and options.only not in name:
            return
        if time.perf_counter() - begin > options.seconds:
            found["left_out"].append(f"{name}: no time was left")
            return
        try:
            work()
        except (AssertionError, RuntimeError, ValueError) as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            found["failed"].append(f"{name}: {said[0]}")
        gc.collect()
        if not dry:
            torch.cuda.empty_cache()
        if options.out:  # after each: what was measured stays
            options.out.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{name}: after {time.perf_counter() - begin:.0f} s", flush=True)

    def contest(row: Row, name: str) -> None:
        rate = found["macs_per_s"][name]
        found["rows"].append(measure(row, name, options.device, extent.settings, rate))

    def projections() -> None:
        found["projections"] = project_all(extent, options.device)

    rows = extent.rows()
    for row, name in rows[: len(extent.hard) * len(PRECISIONS)]:
        attempt(f"{row.key}, {name}", lambda row=row, name=name: contest(row, name))
    attempt("top-9 projections", projections)
    for row, name in rows[len(extent.hard) * len(PRECISIONS) :]:
        attempt(f"{row.key}, {name}", lambda row=row, name=name: contest(row, name))
    print("\n".join(table(found)))
    if found["failed"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
