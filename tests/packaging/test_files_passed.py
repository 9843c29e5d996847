"""How many of the package's files a call passes: those in which any of its functions runs.

The room of the operators counts as one: a call passes the families of its network's layers. Beside
the way of a call these are its guards: what leaks, what is beside an image, what is watched, the
precision that a result tells, the device's profile, and what brings results to the host.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn

import zfcuda

PACKAGE = Path(zfcuda.__file__).parent
OPERATORS = Path("cones", "operators")


def files_passed(call: Callable[[], Any]) -> set[str]:
    """By the second call of its kind: the first one imports and traces."""
    call()
    found: set[str] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            found.add(frame.f_code.co_filename)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
    passed = {Path(f).relative_to(PACKAGE) for f in found if PACKAGE in Path(f).parents}
    return {str(f.parent if f.parent == OPERATORS else f) for f in passed}


@pytest.mark.parametrize(("name", "most"), [("occlusion", 28), ("deconv", 21), ("rotation", 13)])
def test_a_call_passes_few_files(name: str, most: int) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    ).eval()  # fmt: skip
    x = torch.randn(1, 3, 32, 32)
    arguments = {"occlusion": {"size": 8, "stride": 8}, "deconv": {"layer": "4"}, "rotation": {}}
    experiment = getattr(zfcuda, name)
    passed = files_passed(lambda: experiment(net, x, **arguments[name]))
    assert len(passed) <= most, sorted(passed)
