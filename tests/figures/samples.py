"""Synthetic results with everything that makes figures go wrong: long names, NaN, single cells."""

import dataclasses
import math

import numpy as np
import torch

from zfcuda import results
from zfcuda.experiments.ablations import TABLE_3
from zfcuda.results.diagram import Source, Step, SwitchExample
from zfcuda.results.training import PIXELS

SIDE = 32
CLASSES = 40
LONG = "paper towel, kitchen roll, absorbent and $disposable$ sheet of <b>cellulose</b> & more"
CLASS_NAMES = tuple(f"{LONG} number {i}" if i % 2 else f"class {i}" for i in range(CLASSES))
IMAGES = np.random.default_rng(0).random((5, SIDE, SIDE, 3))
DEEP = "a.very.deeply.nested.module.named.conv"
LAYERS = ("features.3.expand3x3_activation", "features.7", DEEP)
WITH_VECTOR = (LAYERS[0], DEEP, "fc8")


def predictions():
    logits = torch.randn(2, CLASSES)
    logits[0, 7] = 12.0
    return results.Predictions(logits)


def projections():
    signal = torch.randn(5, 3, SIDE, SIDE)
    speck = torch.zeros_like(signal)
    speck[:, :, 3:8, 20:25] = signal[:, :, 3:8, 20:25]
    return results.Projections(
        layers=LAYERS,
        columns=("original", "on a very long colour name indeed", "white", "blue", "cut-out"),
        units={layer: torch.tensor([[131, 27, 28]] * 5) for layer in LAYERS},
        activations=dict.fromkeys(LAYERS, torch.tensor([1e-9, 123456.0, -3.0, math.nan, 0.0])),
        projections=dict(zip(LAYERS, (speck, signal, torch.zeros_like(signal)), strict=True)),
        images=torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float(),
    )


def background():
    own = projections()
    logits = torch.zeros(5, CLASSES)
    logits[:, 7] = torch.tensor([9.0, 9.0, 0.0, 3.0, math.nan])
    logits[2, 9] = 8.0
    return results.BackgroundResult(
        variants=own.columns,
        images=own.images,
        logits=logits,
        target=7,
        projections=own.projections,
        projection_change=dict.fromkeys(LAYERS, torch.tensor([0, 0.1, 3.5, math.nan, 1])),
        units=own.units,
        activations=own.activations,
        mask=torch.ones(SIDE, SIDE),
    )


def occlusion(rows=5, cols=4, size=12, stride=5, nan=False):
    boxes = [
        (y, x, min(y + size, SIDE), min(x + size, SIDE))
        for y in range(0, rows * stride, stride)
        for x in range(0, cols * stride, stride)
    ]
    logits = 3 * torch.randn(1, rows * cols, CLASSES)
    sums = 100 * torch.rand(1, rows * cols)
    if nan:
        logits[0, 0] = sums[0, 0] = math.nan
    record = results.LayerSums(LAYERS[0], torch.tensor([131]), torch.tensor([90.0]), sums)
    return results.OcclusionResult(
        logits=logits,
        base_logits=logits[:, -1],
        target=torch.tensor([7]),
        boxes=torch.tensor(boxes),
        grid=(rows, cols),
        size=(size, size),
        stride=(stride, stride),
        image_size=(SIDE, SIDE),
        fill=0.0,
        layers={LAYERS[0]: record},
        seconds=1.0,
    )


def occlusion_summary(count=12, classes=4, shown=(5, 5), size=(64, 64), outputs="logits"):
    rows, columns = (side // 8 for side in size)
    boxes = [(8 * y, 8 * x, 8 * y + 8, 8 * x + 8) for y in range(rows) for x in range(columns)]
    labels = torch.arange(count) % classes
    drop = torch.rand(count, dtype=torch.float64)
    total = sum(shown)
    return results.OcclusionSummary(
        names=tuple(f"part/a_very_long_name_of_a_photo_{i:04d}.jpeg" for i in range(count)),
        numbers=torch.arange(count), labels=labels, class_names=(LONG,) * classes, target=labels,
        probability=torch.ones(count).double(), mean=drop / 4, largest=drop,
        strongest=torch.tensor(boxes)[torch.arange(count)], changed=drop, localisation=drop,
        shown=torch.arange(total), most=shown[0], telling=0.1,
        maps=torch.rand(total, rows, columns), images=torch.randn(total, 3, *size),
        boxes=torch.tensor(boxes), grid=(rows, columns), size=(8, 8), stride=(8, 8),
        image_size=size, outputs=outputs,
    )  # fmt: skip


def invariance(kind="rotation", count=19, nan=False, classes=CLASSES):
    ramp = torch.linspace(0, 360, count)
    values = {
        "rotation": ramp,
        "scaling": 1 + ramp / 450,
        "translation": torch.stack([ramp / 3 - 60, torch.zeros(count)], 1),
    }
    logits = 3 * torch.randn(1, count, classes)
    distances = {layer: torch.rand(1, count) for layer in LAYERS}
    if nan:
        logits[0, 0] = math.nan
        distances[LAYERS[0]][:] = math.nan
    return results.InvarianceResult(
        kind=kind,
        values=values[kind],
        logits=logits,
        base_logits=logits[:, 0],
        target=torch.tensor([7]),
        distances=distances,
        fill=0.0,
        seconds=1.0,
    )


FAMILIES = {
    "vertical translation": ("translation", [[v, 0] for v in range(-60, 61, 20)]),
    "horizontal translation": ("translation", [[0, v] for v in range(-60, 61, 20)]),
    "scale": ("scaling", [1, 1.4, 1.8]),
    "rotation": ("rotation", list(range(0, 361, 15))),
}
STUDIED = (LAYERS[0], "classifier.relu7")


def study(count=5, families=FAMILIES, layers=STUDIED, nan=False, name="IMG_20240812_1734"):
    images = torch.rand(count, 3, 32, 32)
    experiments, examples, values = {}, {}, {}
    for family in families:
        kind, numbers = FAMILIES[family]
        logits = 4 * torch.randn(count, len(numbers), 40)
        distances = {layer: torch.rand(count, len(numbers)) * 900 for layer in layers}
        if nan:
            logits[0] = distances[layers[0]][0] = math.nan
        experiments[family] = results.InvarianceResult(
            kind=kind,
            values=torch.tensor(numbers).double(),
            logits=logits,
            base_logits=logits[:, 0],
            target=torch.arange(count) % 40,
            distances=distances,
            fill=0.0,
            seconds=1.0,
            norms={layer: torch.full((count,), 700.0) for layer in layers},
        )
        shown = min(4, len(numbers))
        examples[family] = images[:1].expand(shown, -1, -1, -1)
        values[family] = torch.linspace(-45, 315.5, shown)
    names = tuple(f"{name} {i}" for i in range(count))
    return results.InvarianceStudy(names, images, layers, experiments, examples, values)


def invariance_summary(
    layers=("conv1", "conv3", "fc7"), answers=None, spread=0.2, outputs="logits"
):
    x = torch.linspace(0, 1, 9, dtype=torch.float64)
    answer = 1 - x if answers is None else 0 * x + answers
    distances = torch.stack([x] * len(layers))
    return results.InvarianceSummary(
        names=("a", "b"), numbers=torch.arange(2), target=torch.zeros(2).long(),
        base=torch.ones(2).double(), layers=layers,
        values=dict.fromkeys(FAMILIES, 1 + x),
        distances=dict.fromkeys(FAMILIES, distances),
        distance_spread=dict.fromkeys(FAMILIES, 0 * distances + spread),
        probabilities=dict.fromkeys(FAMILIES, answer),
        probability_spread=dict.fromkeys(FAMILIES, 0 * x + spread),
        unchanged=dict.fromkeys(FAMILIES, answer), outputs=outputs,
    )  # fmt: skip


def maxima(k=9, count=5, sizes=((3, 3), (40, 23), (150, 150))):
    numbers = {layer: torch.arange(k).repeat(count + 3, 1) for layer in WITH_VECTOR}
    numbers[DEEP][0, 2:] = -1
    numbers[DEEP][2] = -1
    values = {layer: torch.rand(count + 3, k) for layer in WITH_VECTOR}
    pictures = {
        layer: torch.randn(count, k, 3, *size)
        for layer, size in zip(WITH_VECTOR, sizes, strict=True)
    }
    return results.TopActivations(
        layers=WITH_VECTOR,
        values={layer: v.sort(1, descending=True).values for layer, v in values.items()},
        images=numbers,
        positions=dict.fromkeys(WITH_VECTOR, torch.zeros(count + 3, k, 2).long()),
        channels=dict.fromkeys(WITH_VECTOR, torch.arange(count)),
        boxes=dict.fromkeys(WITH_VECTOR, torch.zeros(count, k, 4).long()),
        projections=pictures,
        patches=pictures,
        difference=dict.fromkeys(WITH_VECTOR, 0.0),
        undefined=dict.fromkeys(WITH_VECTOR, 0),
        count=100,
        image_size=(150, 150),
        seconds=1.0,
    )


def evolution(names=("1", "2", "5", "10"), maps=3, layers=WITH_VECTOR):
    shape = (len(names), maps)
    numbers = torch.randint(0, 3, shape)
    numbers[0, :1] = -1
    sizes = dict(zip(WITH_VECTOR, ((3, 3), (20, 13), (90, 90)), strict=True))
    pictures = {layer: torch.randn(*shape, 3, *sizes[layer]) for layer in layers}
    return results.EvolutionResult(
        checkpoints=names,
        layers=layers,
        channels=dict.fromkeys(layers, torch.arange(maps) * 100),
        values=dict.fromkeys(layers, torch.rand(shape)),
        images=dict.fromkeys(layers, numbers),
        positions=dict.fromkeys(layers, torch.zeros(*shape, 2).long()),
        boxes=dict.fromkeys(layers, torch.zeros(*shape, 4).long()),
        projections=pictures,
        patches=pictures,
        difference=dict.fromkeys(layers, 0.0),
        count=100,
        image_size=(90, 90),
        seconds=1.0,
    )


PARTS = ("right eye", "the tip of the left ear of a cat with $5$", "random, the same for all")


def correspondence(layers=WITH_VECTOR, n=6, draws=4, elements=100_000):
    counts = dict(zip(PARTS, [1, 1, draws], strict=True))
    differing = {
        layer: {part: torch.randint(elements // 2, (c, n, n)) for part, c in counts.items()}
        for layer in layers
    }
    changed = {part: torch.ones(c, n).double() for part, c in counts.items()}
    return results.CorrespondenceResult(
        layers=layers,
        parts=PARTS,
        controls=PARTS[-1:],
        boxes={p: torch.tensor([3, 4, 9, 12]).expand(c, n, 4) for p, c in counts.items()},
        differing=differing,
        changed=dict.fromkeys(layers, changed),
        elements=dict.fromkeys(layers, elements),
        tolerance=0.0,
        fill=0.0,
        image_size=(32, 32),
        seconds=1.0,
    )


def ablation(names=tuple(variant.name for variant in TABLE_3), seeds=1, step=0.01):
    count = len(names)
    error = (0.2 + step * torch.arange(count, dtype=torch.float64))[:, None]
    error = error + 0.004 * torch.arange(seeds)
    return results.AblationResult(
        variants=names,
        parameters=1_000_000 + 98_765_432 * torch.arange(count),
        multiplications=40_000_000 + 987_654_321 * torch.arange(count),
        seeds=torch.arange(seeds),
        training_error=error + 0.1,
        validation_error=error - 0.01,
        test_error=error,
        epoch=torch.ones(count, seeds, dtype=torch.int64),
        seconds=torch.ones(count, seeds, dtype=torch.float64),
        pictures=(12_000, 5000, 10_000),
        data="IDX files, coloured backgrounds",
        recipe={"epochs": 4},
        threads=2,
    )


def probe(layers=(PIXELS, "norm1", LAYERS[0], "fc7"), network=0.9):
    count = len(layers)
    accuracy = torch.linspace(0.3, 0.9, count, dtype=torch.float64)
    return results.ProbeResult(
        layers=layers,
        shapes=((96, 27, 27),) * count,
        pooled=((128, 2, 2),) * (count - 1) + ((4096, 1, 1),),
        regularisation=torch.tensor([1e-4, 1e-2], dtype=torch.float64),
        chosen=torch.arange(count) % 2,
        validation_accuracy=torch.stack([accuracy - 0.01, accuracy], 1),
        training_accuracy=accuracy + 0.08,
        accuracy=accuracy,
        converged=torch.ones(count, 2, dtype=torch.bool),
        pictures=(50_000, 5000, 10_000),
        chance=0.1,
        network_accuracy=network,
        class_names=("a",) * 10,
        seconds=1.0,
    )


def uncertainty(n=300, classes=10, sharp=4.0, most=8, bins=15):
    labels = torch.randint(classes, (n,))
    logits = torch.randn(n, classes)
    logits[torch.arange(n), labels] += sharp
    entropy = torch.special.entr(logits.softmax(1)).sum(1)
    numbers = entropy.argsort(descending=True)[:most]
    images = torch.randn(len(numbers), 3, 32, 32)
    return results.UncertaintyResult(logits, labels, numbers, images, bins, 1.0)


def training(epochs, best=1, rates=None):
    x = torch.arange(1, epochs + 1, dtype=torch.float64)
    curve = 0.08 + 0.4 / x
    ones = torch.ones(epochs, dtype=torch.float64)
    return results.TrainingResult(
        epoch=x.long(), rate=ones * 1e-2 if rates is None else rates, training_loss=2.2 * curve,
        training_accuracy=1 - curve, validation_loss=2.5 * curve, validation_accuracy=0.99 - curve,
        rescaled=0 * ones, seconds=60 * ones, seconds_in_all=65 * ones, cpu_seconds=120 * ones,
        images=(1000 * ones).long(), best=best, test_loss=0.3, test_accuracy=0.91,
        confusion=torch.eye(2).long(), class_names=("a", "b"), settings={}, weights_sha256="0",
    )  # fmt: skip


# --- diagrams -------------------------------------------------------------------------------------

NESTED = "backbone.stages.3.blocks.11.mlp.expand3x3_activation"


def step(kind, inputs, name="conv1", shape=(96, 110, 110)):
    return Step(name, kind, "96 filters 3×7×7, stride 2, pad 1", "transposed convolution",
                "the same filters, no bias", inputs, shape)  # fmt: skip


STEPS = {
    "chain": (
        step("convolution", (-1,)),
        step("rectification", (0,), "relu1"),
        step("max-pooling", (1,), NESTED),
        step("contrast normalisation", (2,), "norm1"),
    ),
    "one": (step("linear", (-1,), "fc8", (1000,)),),
    "shortcut": (
        step("convolution", (-1,)),
        step("batch normalisation", (0,)),
        step("rectification", (1,)),
        step("sum", (2, -1)),
        step("rectification", (3,)),
    ),
    "branches": (
        *(step("convolution", (-1,), f"{NESTED}{i}") for i in range(4)),
        *(step("rectification", (i,), f"relu{i}") for i in range(3)),
        step("max-pooling", (-2,)),
        step("concatenation", (3, 4, 5, 6, 7)),
    ),
}
NONE = [math.nan]
EXAMPLE = SwitchExample(
    name=NESTED,
    channel=131,
    kernel=(3, 3),
    stride=(2, 2),
    values=torch.tensor(
        [[0.0, 1.25, 0.0, 3.0, *NONE], [2.0, -7.5, 0.5, 0.0, *NONE], [0.0, 0.0, 9.125, 0.0, *NONE],
         [4.0, 0.0, 0.0, 0.0, *NONE], [0.0, 0.0, 0.0, 123.0, *NONE]]
    ),
    origin=(108, 106),
    pooled=torch.tensor([[9.125, 9.125], [9.125, 123.0]]),
    switches=torch.tensor([[8, 6], [2, 7]]),
    first=(54, 53),
    unit=(1, 1),
    unpooled=torch.tensor(
        [[0.0] * 4 + NONE, [0.0] * 4 + NONE, [0, 0, 27.375, 0, *NONE],
         [0.0] * 4 + NONE, [0, 0, 0, 123.0, *NONE]]
    ),
    rectified=True,
)  # fmt: skip


def diagram(kind="chain", switch=EXAMPLE, **changes):
    sources = (Source("image", (3, 224, 224), 0), Source(NESTED, (48, 15, 15), 7))
    used = {i for one in STEPS[kind] for i in one.inputs if i < 0}
    image = torch.randn(3, 32, 32)
    speck = torch.zeros_like(image)
    speck[:, 3:8, 20:25] = image[:, 3:8, 20:25]
    result = results.Diagram(
        "ZFNet", "norm1", STEPS[kind], sources[: len(used)], (131, 54, 53), 123.0, image, speck,
        switch, 1.0,
    )  # fmt: skip
    return dataclasses.replace(result, **changes)
