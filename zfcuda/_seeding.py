"""Random numbers of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["seeded"]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within, torch's random numbers on the CPU begin at ``seed``; afterwards they go on as if none
    had been drawn. Those of GPUs are left alone, which torch.manual_seed would all begin anew."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
