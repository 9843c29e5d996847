"""A small network with strong opinions, and what a run leaves behind."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

COUNT = 13


def network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 49, 5),
    ).eval()
    with torch.no_grad():
        net[-1].weight.mul_(20)
    return net


@pytest.fixture
def net() -> nn.Module:
    return network()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(COUNT, 3, 18, 18, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def contents() -> Callable[[Path], dict[str, str]]:
    """Every file of a folder with the hash of its content; hidden ones too."""

    def of(folder: Path) -> dict[str, str]:
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    return of


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Pictures of two classes, two of them broken."""
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    for name in ("cat/a.png", "cat/b.png", "cat/c.png", "dog/a.png", "dog/e f.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(folder / name)
    (folder / "cat" / "broken.png").write_bytes(b"\x89PNG not really")
    (folder / "dog" / "cut.png").write_bytes((folder / "dog" / "a.png").read_bytes()[:900])
    return folder


@pytest.fixture
def start() -> Callable[..., subprocess.Popen[str]]:
    """``start(script, *arguments)``: a Python process of one thread; those still running are killed
    at the end."""
    begun: list[subprocess.Popen[str]] = []

    def run(*arguments: object, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        begun.append(process)
        return process

    yield run
    for process in begun:
        process.kill()
        process.wait()
