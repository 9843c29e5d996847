"""Settings that every test shares."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import hypothesis
import matplotlib
import pytest
import torch
from networks import torchvision_models
from torch import nn

matplotlib.use("Agg")

# No deadline: on a busy machine the first example pays for compilation and caches.
hypothesis.settings.register_profile("zfcuda", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("zfcuda")


@pytest.fixture(autouse=True)
def _same_threads_and_seed():
    """Each test starts from the same seed and leaves the number of threads as it found it."""
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def torchvision_model() -> Callable[..., nn.Module]:
    """``torchvision_model(name, **options)``: with random weights, in eval mode.

    torchvision's operators, which no classifier calls, may be of another torch; where they are of
    this one they are loaded as they are (defining one twice ends the process).
    """
    try:
        models = torchvision_models()
    except (ImportError, RuntimeError, OSError) as error:
        pytest.skip(f"no torchvision: {error}")

    def build(name: str, **options) -> nn.Module:
        options |= {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return models.get_model(name, weights=None, **options).eval()

    return build
