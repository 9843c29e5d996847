"""How far cones lead in networks of torchvision and timm, and how exact they are: docs/networks.md.

    python benchmarks/network_table.py                 what results/networks.jsonl lacks
    python benchmarks/network_table.py timm/levit_128s torchvision/resnet18    of these networks
    python benchmarks/network_table.py --timed         what takes time; on a machine that is idle
    python benchmarks/network_table.py --write-table   results/networks.jsonl into docs/networks.md

The two smallest of each of torchvision's families, and 80 of timm of at most 5 G multiply-adds, as
many families as there are; all with random weights. A line of the results is one stage of one
network; it holds for the version of zfcuda that it names, and is made again for another.
"""

from __future__ import annotations

import argparse
import copy
import functools
import hashlib
import importlib
import importlib.util
import math
import re
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from measuring import append, machine, read
from networks import torchvision_models
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import zfcuda
from zfcuda.graph import trace, tracing
from zfcuda.graph.guards import Untraceable

RESULTS = Path(__file__).parent / "results" / "networks.jsonl"
TABLE = Path(__file__).parent.parent / "docs" / "networks.md"

# With a star: whose speed is measured, too.
_TORCHVISION = """
alexnet* convnext_tiny* convnext_small densenet121* densenet169 efficientnet_b0* efficientnet_b1
efficientnet_v2_s googlenet* inception_v3 maxvit_t mnasnet0_5 mnasnet0_75 mobilenet_v2*
mobilenet_v3_small* mobilenet_v3_large regnet_x_400mf regnet_x_800mf regnet_y_400mf*
regnet_y_800mf resnet18* resnet34 resnext50_32x4d wide_resnet50_2 shufflenet_v2_x0_5
shufflenet_v2_x1_0 squeezenet1_0 squeezenet1_1* swin_t* swin_s swin_v2_t swin_v2_s vgg11* vgg11_bn
vit_b_32* vit_b_16
"""
_TIMM = """
cait_xxs24_224 coat_lite_tiny coatnet_pico_rw_224 convit_tiny convnext_atto convnextv2_atto*
cpubone_nano crossvit_tiny_240 cs3darknet_focus_s* csatv2 cspnext_tiny davit_tiny
deit_tiny_distilled_patch16_224 densenetblur121d dla46_c dpn48b edgenext_xx_small
efficientformer_l1* efficientformerv2_s0 efficientvim_m1 efficientvit_b0* efficientvit_m0
ese_vovnet19b_dw eva02_tiny_patch14_224 fasternet_t0 fastvit_t8* focalnet_tiny_srf gcvit_xxtiny
ghostnet_100 ghostnetv3_050 halonet26t hardcorenas_a hgnetv2_b0 hiera_tiny_224 hrnet_w18_small*
iformer_t inception_next_atto lambda_resnet26t lcnetv2_small legacy_seresnet18 levit_128s
lowformer_b0 mambaout_femto mixer_s32_224 mixnet_s mobilenetv3_small_050 mobilenetv4_conv_small
mobilevit_xxs* mobilevitv2_050 mvitv2_tiny nf_regnet_b0 pit_ti_224 poolformer_s12* pvt_v2_b0
regnety_002 repghostnet_050 repvgg_a0 repvit_m0_9 res2next50 resmlp_12_224 resnest14d* resnet10t
resnetblur18 resnetv2_18* resnetv2_50x1_bit rexnet_100 selecsls42 sequencer2d_s shvit_s1
skresnet18 starnet_s050 swiftformer_xs swin_tiny_patch4_window7_224 swinv2_cr_tiny_ns_224
tf_efficientnet_b0 tiny_vit_5m_224 twins_pcpvt_small visformer_tiny vit_tiny_patch16_224*
xcit_nano_12_p16_224
"""


def _named(source: str, names: str) -> list[str]:
    return [f"{source}/{name}" for name in names.replace("*", "").split()]


TORCHVISION, TIMM = _named("torchvision", _TORCHVISION), _named("timm", _TIMM)
SPEED = frozenset(re.findall(r"(\w+)\*", _TORCHVISION + _TIMM))


# --- networks -------------------------------------------------------------------------------------


def make(name: str, size: int | None = None) -> tuple[nn.Module, int]:
    """A network in eval mode and the side of its images, pixels: its own, or ``size`` if it can."""
    torch.manual_seed(0)
    source, _, name = name.partition("/")
    library = torchvision_models()  # timm imports it, too
    if source == "timm":
        timm = importlib.import_module("timm")
        about = timm.get_pretrained_cfg(name)
        own = about.input_size[-1]
        resized = {"img_size": size} if size and about.fixed_input_size else {}
        model = timm.create_model(name, pretrained=False, **resized)
    else:
        own = {"inception_v3": 299}.get(name, 256 if name.startswith("swin_v2") else 224)
        options: dict[str, Any] = {"weights": None}
        if name in ("googlenet", "inception_v3"):
            options |= {"aux_logits": False, "init_weights": False}
        if size and name.startswith("vit"):
            options["image_size"] = size
        model = library.get_model(name, **options)
    size = size or own
    return _initialised(model, torch.randn(2, 3, size, size)), size


@functools.lru_cache(1)
def small(name: str) -> tuple[nn.Module, int]:
    """The network for images of 96 or 128 pixels; of its own size where it is made for no other."""
    for size in (96, 128):
        try:
            return make(name, size)
        except Exception:  # each says it in its own way
            continue
    return make(name)


@torch.no_grad()
def _initialised(model: nn.Module, x: Tensor) -> nn.Module:
    """Weights that let signals through all layers; batch norms that standardise what they see."""
    model.eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            kind = "relu" if isinstance(module, nn.Conv2d) else "linear"
            nn.init.kaiming_normal_(module.weight, nonlinearity=kind)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
    for weight in model.parameters():  # scales of whole branches, which begin near zero
        if weight.numel() and float(weight.abs().max()) < 1e-2:
            weight.uniform_(0.2, 1.0)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0  # the running statistics become this batch's
    model(x)
    for norm in norms:
        norm.eval()  # and two images tell little of a vector's
        two = isinstance(norm, nn.BatchNorm2d)
        norm.running_var.clamp_(min=0.1 * float(norm.running_var.mean()) if two else 1.0)
    return model


# --- stages ---------------------------------------------------------------------------------------


def planned(name: str) -> dict[str, Any]:
    """Whether it is followed, how far cones lead at its own size, and what the plan chooses."""
    model, size = make(name)
    x = torch.randn(1, 3, size, size)
    with FlopCounterMode(display=False) as counter:
        model(x)
    found: dict[str, Any] = {"size": size, "macs": counter.get_total_flops() / 2}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        chosen = zfcuda.plan(model, x)
        if not chosen.steps:
            return found | {"refused": chosen.reason}
        cones = zfcuda.plan(model, x, method="cone").steps
    maps = [step for step in cones if len(step.maps) > 1 and step.kind != "shape"]
    led = [step for step in maps if not step.dense]
    first = next((step for step in maps if step.dense), None)  # vectors are ends, no barriers
    return found | {
        "steps": len(led) / len(maps),
        "elements": _elements(led) / _elements(maps),
        "barrier": first and [first.name, first.kind],
        "method": chosen.method,
        "ceiling": chosen.ceiling,
        "warnings": sorted({str(warning.message) for warning in said}),
    }


def _elements(steps: list[Any]) -> int:
    return sum(math.prod(step.maps) for step in steps)


def exact(name: str) -> dict[str, Any]:
    """Errors of cones, against passes of the network itself, one occluded image at a time.

    ``double``: of float64, relative to the larger of the largest effect and 1e-3 of the logits.
    ``single``: of float32 against float64, relative to torch's own. ``projected``: the gradients of
    single units, in float64, relative to autograd's.
    """
    model, size = small(name)
    x, fill = torch.randn(1, 3, size, size), torch.randn(3, size, size)
    third = size // 3
    boxes = torch.tensor([
        [0, 0, 16, 16], [third, third + 1, third + 33, third + 26], [size - 9, 3, size, size - 8],
        [5, size - 21, 38, size], [2 * third, third, 2 * third + 1, third + 1],
    ])  # fmt: skip
    wide = copy.deepcopy(model).double()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        mine, *whole = _both(model, x, fill, boxes)
        wide_mine, truth, _ = _both(wide, x.double(), fill.double(), boxes)
        effect = float((truth - wide(x.double())).abs().max())
        scale = max(effect, 1e-3 * float(truth.abs().max()))
        projected, inside = _projected(wide, x.double())
    return {
        "size": size,
        "effect": effect / float(truth.abs().max()),
        "double": float((wide_mine - truth).abs().max()) / scale,
        "single": float((mine - truth).abs().max() / max((t - truth).abs().max() for t in whole)),
        "projected": projected,
        "inside": inside,
        "warnings": sorted({str(warning.message) for warning in said}),
    }


@torch.no_grad()
def _both(model: nn.Module, x: Tensor, fill: Tensor, boxes: Tensor) -> list[Tensor]:
    """Logits [P,K] of cones (of what is done instead, where there are none), and of the network's
    own passes, of one image each and of all together four times: others round otherwise."""
    arguments = {"positions": boxes, "fill": fill}
    try:
        found = zfcuda.occlusion(model, x, method="cone", **arguments)
    except ValueError:
        found = zfcuda.occlusion(model, x, **arguments)
    images = x.repeat(len(boxes), 1, 1, 1)
    for image, (y0, x0, y1, x1) in zip(images, boxes.tolist(), strict=True):
        image[:, y0:y1, x0:x1] = fill[:, y0:y1, x0:x1]
    alone = torch.cat([model(image) for image in images.split(1)])
    together = model(images.repeat(4, 1, 1, 1))[: len(boxes)]
    return [said.double() for said in (found.logits[0], alone, together)]


def _projected(model: nn.Module, x: Tensor) -> tuple[float, list[int]]:
    """The largest error of two units of each of three layers, and how many of these units cones
    took a part of the image for, of how many."""
    maps: dict[str, Tensor] = {}
    calls: dict[str, int] = {}

    def keep(module: nn.Module, args: Any, output: Any, name: str) -> None:
        calls[name] = calls.get(name, 0) + 1
        if isinstance(output, Tensor) and output.dim() == 4 and len(output) == 1:
            maps[name] = output * 1  # before it is changed in place

    leaves = [(n, m) for n, m in model.named_modules() if n and not [*m.children()]]
    hooks = [m.register_forward_hook(functools.partial(keep, name=n)) for n, m in leaves]
    try:
        image = x.clone().requires_grad_()
        model(image)
    finally:
        for hook in hooks:
            hook.remove()
    names = [n for n, value in maps.items() if calls[n] == 1 and value.requires_grad]
    worst, inside, count = 0.0, 0, 0
    for layer in {names[len(names) * part // 8] for part in (0, 2, 5)}:
        _, channels, height, width = maps[layer].shape
        units = [(channels // 2, height // 2, width // 3), (channels - 1, 0, width - 1)]
        found = zfcuda.project(model, x, layer, list(units), seed=1.0, rule="gradient")
        for unit, mine in zip(units, found.full(), strict=True):
            own = torch.autograd.grad(maps[layer][0][unit], image, retain_graph=True)[0][0]
            worst = max(worst, float((mine - own).abs().max() / own.abs().max().clamp_min(1e-300)))
        sides = found.boxes[:, 2:] - found.boxes[:, :2]
        inside += int((sides < x.shape[2]).any(1).sum())
        count += len(units)
    return worst, [inside, count]


def timed(name: str, rounds: int = 3, positions: int = 96) -> dict[str, Any]:
    """Seconds of one pass, and of the recordings of a first trace; for ``SPEED`` of a position of
    32 pixels, by whole passes and as the plan chooses, in turns."""
    model, size = make(name)
    x = torch.randn(1, 3, size, size)
    with torch.no_grad():
        alone = min(_seconds(lambda: model(x)) for _ in range(5))
    spent: list[float] = []
    recording = tracing.record

    def record(*args: Any) -> Any:
        found: list[Any] = []
        spent.append(_seconds(lambda: found.append(recording(*args))))
        return found[0]

    found: dict[str, Any] = {"pass": alone}
    with mock.patch.object(tracing, "record", record), torch.no_grad():
        try:
            found["trace"] = _seconds(lambda: trace(model, x))
            found["recordings"] = sum(spent)
        except Untraceable:
            return found
    if name.partition("/")[2] in SPEED:
        starts = torch.randint(0, (size - 32) // 16 + 1, (positions, 2)) * 16
        boxes = torch.cat([starts, starts + 32], 1)
        ways = [functools.partial(zfcuda.occlusion, model, x, positions=boxes, method=method)
                for method in ("auto", "dense")]  # fmt: skip
        turns = [[_seconds(way) for way in ways] for _ in range(rounds + 1)][1:]
        found["speed"] = statistics.median(dense / ours for ours, dense in turns)
        found["turns"] = turns
    return found


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


STAGES: dict[str, Callable[[str], dict[str, Any]]] = {
    "planned": planned, "exact": exact, "timed": timed,
}  # fmt: skip


@functools.cache
def version() -> str:
    """Of what the numbers depend on."""
    root = Path(zfcuda.__file__).parent
    rooms = ("graph", "cones", "experiments/occlusion", "experiments/deconvnet", "inference")
    files = [file for room in rooms for file in sorted((root / room).rglob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def line_of(name: str, stage: str, path: Path) -> dict[str, Any]:
    """The line that ``path`` has of this stage of a network; measured, and written, if it has none
    of this version."""
    of = {"net": name, "stage": stage, "version": version()}
    for line in read(path):
        if of.items() <= line.items():
            return line
    start = time.perf_counter()
    line = of | machine() | STAGES[stage](name)
    append(path, line | {"took": time.perf_counter() - start})
    return line


# --- table ----------------------------------------------------------------------------------------

_COLUMNS = """\
| net | G | on cones | barrier | method | ceiling | float64 | float32 | gradients | trace | speed |
|---|--:|--:|---|---|--:|--:|--:|--:|--:|--:|"""


def table(lines: list[dict[str, Any]]) -> str:
    """In short, and a row a network; of each stage the last line counts."""
    found: dict[str, dict[str, Any]] = {}
    for line in lines:
        found.setdefault(line["net"], {})[line["stage"]] = line
    plans, exact, timed = (
        [stages[stage] for stages in found.values() if stage in stages] for stage in STAGES
    )
    followed = [line for line in plans if "refused" not in line]
    through = sum(line["barrier"] is None for line in followed)
    inside, units = (sum(line["inside"][place] for line in exact) for place in (0, 1))
    double, single, projected = (max(line[key] for line in exact) for key in _ERRORS)
    text = (
        f"Of {len(TORCHVISION + TIMM)} networks {len(plans)} are measured, {len(followed)} of them "
        f"followed, {through} by cones throughout. Largest errors: {double:.0e} in float64, "
        f"{single:.1f} times torch's own in float32; {projected:.0e} of {units} projections, of "
        f"which {inside} took a part of the image only. Timed on "
        f"{timed[-1]['machine'] if timed else 'no machine yet'}.\n"
    )
    rows = [_row(net, stages) for net, stages in sorted(found.items()) if "planned" in stages]
    return "\n".join([text, _COLUMNS, *rows, ""])


_ERRORS = ("double", "single", "projected")


def _row(net: str, stages: dict[str, dict[str, Any]]) -> str:
    plan, exact, timed = (stages.get(stage, {}) for stage in STAGES)
    led = ["", plan.get("refused", "").replace("|", "\\|"), "dense", ""]
    if "refused" not in plan:
        barrier = "{1}: `{0}`".format(*plan["barrier"]) if plan["barrier"] else ""
        led = [f"{plan['steps']:.0%}, {plan['elements']:.0%}", barrier, plan["method"]]
        led.append(f"{plan['ceiling']:.1f}×")
    errors = zip(_ERRORS, (".0e", ".2f", ".0e"), strict=True)
    cells = [f"{exact[key]:{form}}" if exact else "" for key, form in errors]
    cells.append(f"{timed['recordings'] / timed['pass']:.1f}" if "recordings" in timed else "")
    cells.append(f"{timed['speed']:.2f}×" if "speed" in timed else "")
    return f"| {' | '.join([net, format(plan['macs'] / 1e9, '.2f'), *led, *cells])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK")
    parser.add_argument("--timed", action="store_true")
    parser.add_argument("--write-table", action="store_true")
    options = parser.parse_args()
    names = options.networks or TORCHVISION + TIMM
    if not options.networks and importlib.util.find_spec("timm") is None:
        print(f"without timm: {len(TIMM)} networks are left out")
        names = TORCHVISION
    for name in () if options.write_table else names:
        for stage in ("timed",) if options.timed else ("planned", "exact"):
            print(name, stage, line_of(name, stage, RESULTS), flush=True)
    if options.write_table:
        page, mark, _ = TABLE.read_text().partition("## The table\n\n")
        TABLE.write_text(page + mark + table(read(RESULTS)))


if __name__ == "__main__":
    main()
