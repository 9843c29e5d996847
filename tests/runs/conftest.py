"""What the tests of runs over data sets share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_runs import images, network
from torch import Tensor, nn


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def net() -> nn.Module:
    return network()


@pytest.fixture
def x() -> Tensor:
    return images()


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
