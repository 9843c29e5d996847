"""Synthetic results with everything that makes figures go wrong: long names, NaN, single cells."""

import math

import numpy as np
import pytest
import torch

from zfcuda.results import (
    BackgroundResult,
    InvarianceResult,
    LayerSums,
    OcclusionResult,
    Predictions,
    Projections,
)

SIDE = 32
CLASSES = 40
LAYERS = ("features.3.expand3x3_activation", "features.7", "a.very.deeply.nested.module.named.conv")
LONG = "paper towel, kitchen roll, absorbent and $disposable$ sheet of <b>cellulose</b> & more"


@pytest.fixture
def class_names():
    return tuple(f"{LONG} number {i}" if i % 2 else f"class {i}" for i in range(CLASSES))


@pytest.fixture
def images():
    return np.random.default_rng(0).random((5, SIDE, SIDE, 3))


@pytest.fixture
def projections(images):
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(5, 3, SIDE, SIDE, generator=generator)
    speck = torch.zeros_like(signal)
    speck[:, :, 3:8, 20:25] = signal[:, :, 3:8, 20:25]
    return Projections(
        layers=LAYERS,
        columns=("original", "on a very long colour name indeed", "white", "blue", "cut-out"),
        units={layer: torch.tensor([[131, 27, 28]] * 5) for layer in LAYERS},
        activations={
            layer: torch.tensor([1e-9, 123456.0, -3.0, math.nan, 0.0]) for layer in LAYERS
        },
        projections=dict(zip(LAYERS, (speck, signal, torch.zeros_like(signal)), strict=True)),
        images=torch.from_numpy(images).permute(0, 3, 1, 2).float(),
    )


@pytest.fixture
def background(projections):
    logits = torch.zeros(5, CLASSES)
    logits[:, 7] = torch.tensor([9.0, 9.0, 0.0, 3.0, math.nan])
    logits[2, 9] = 8.0
    return BackgroundResult(
        variants=projections.columns,
        images=projections.images,
        logits=logits,
        target=7,
        projections=projections.projections,
        projection_change={layer: torch.tensor([0, 0.1, 3.5, math.nan, 1]) for layer in LAYERS},
        units=projections.units,
        activations=projections.activations,
        mask=torch.ones(SIDE, SIDE),
    )


@pytest.fixture
def predictions():
    logits = torch.randn(2, CLASSES, generator=torch.Generator().manual_seed(0))
    logits[0, 7] = 12.0
    return Predictions(logits)


@pytest.fixture
def occlusion():
    def make(rows=5, cols=4, size=12, stride=5, nan=False, layer=LAYERS[0]):
        generator = torch.Generator().manual_seed(0)
        boxes = [
            (y, x, min(y + size, SIDE), min(x + size, SIDE))
            for y in range(0, rows * stride, stride)
            for x in range(0, cols * stride, stride)
        ]
        logits = 3 * torch.randn(1, rows * cols, CLASSES, generator=generator)
        sums = 100 * torch.rand(1, rows * cols, generator=generator)
        if nan:
            logits[0, 0] = sums[0, 0] = math.nan
        record = LayerSums(layer, torch.tensor([131]), torch.tensor([90.0]), sums)
        return OcclusionResult(
            logits=logits,
            base_logits=logits[:, -1],
            target=torch.tensor([7]),
            boxes=torch.tensor(boxes),
            grid=(rows, cols),
            size=(size, size),
            stride=(stride, stride),
            image_size=(SIDE, SIDE),
            fill=0.0,
            layers={layer: record},
            seconds=1.0,
        )

    return make


@pytest.fixture
def invariance():
    def make(kind="rotation", count=19, nan=False, classes=CLASSES):
        generator = torch.Generator().manual_seed(0)
        ramp = torch.linspace(0, 360, count)
        values = {
            "rotation": ramp,
            "scaling": 1 + ramp / 450,
            "translation": torch.stack([ramp / 3 - 60, torch.zeros(count)], 1),
        }[kind]
        logits = 3 * torch.randn(1, count, classes, generator=generator)
        distances = {layer: torch.rand(1, count, generator=generator) for layer in LAYERS}
        if nan:
            logits[0, 0] = math.nan
            distances[LAYERS[0]] = torch.full((1, count), math.nan)
        return InvarianceResult(
            kind=kind,
            values=values,
            logits=logits,
            base_logits=logits[:, 0],
            target=torch.tensor([7]),
            distances=distances,
            fill=0.0,
            seconds=1.0,
        )

    return make
