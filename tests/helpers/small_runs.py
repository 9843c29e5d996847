"""A small network with strong opinions, its images, and runs of them that take a while."""

from __future__ import annotations

from collections.abc import Callable, Container
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from zfcuda.experiments.occlusion import engines

COUNT = 13
SETTINGS = {"size": 6, "stride": 4}


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


def images(count: int = COUNT) -> Tensor:
    return torch.randn(count, 3, 18, 18, generator=torch.Generator().manual_seed(1))


class Images(Dataset):
    """Images; ``read`` is called with the number of each that is read."""

    def __init__(self, x: Tensor, read: Callable[[int], object] = lambda number: None) -> None:
        self.x, self.read = x, read

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, number: int) -> Tensor:
        self.read(number)
        return self.x[number]


class Faulty(Images):
    """Images some of which cannot be read."""

    def __init__(self, x: Tensor, bad: Container[int]) -> None:
        super().__init__(x, self._refuse)
        self.bad = bad

    def _refuse(self, number: int) -> None:
        if number in self.bad:
            raise OSError(f"truncated file {number}")


def groups_of(count: int) -> None:
    """From here on so many images are occluded together."""
    engines.Cones.together = engines.Dense.together = lambda *_: count


def whole_files(folder: Path) -> None:
    """Check that every file of a run is all there, whatever happened to its process."""
    import json
    import zipfile

    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            if path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".npz":
                assert zipfile.ZipFile(path).testzip() is None
