"""Networks that users bring: followed, and as exact as whole passes. Goes on where it was stopped:
what this version of zfcuda was asked already stands in pytest's cache."""

import importlib.util

import pytest
from network_table import TIMM, TORCHVISION, line_of
from networks import torchvision_models

pytestmark = pytest.mark.slow

HAVE_TIMM = importlib.util.find_spec("timm") is not None
# timm's csatv2 lets the images of a batch attend to each other.
MIXING = {"timm/csatv2"}


@pytest.fixture(scope="module")
def lines(request, tmp_path_factory):
    cache = getattr(request.config, "cache", None)
    folder = tmp_path_factory.mktemp("networks") if cache is None else cache.mkdir("networks")
    return folder / "networks.jsonl"


@pytest.mark.parametrize("name", TORCHVISION + TIMM * HAVE_TIMM)
def test_network(name, lines):
    if name.startswith("torchvision"):
        pytest.importorskip("torchvision")
        torchvision_models()
    found = line_of(name, "planned", lines)
    assert ("refused" in found) == (name in MIXING)
    found = line_of(name, "exact", lines)
    assert found["double"] <= 1e-9
    assert found["single"] <= 4
    assert found["projected"] <= 1e-9
    assert found["effect"] > 1e-6


@pytest.mark.skipif(HAVE_TIMM, reason="timm is here")
def test_timm():
    pytest.skip(f"{len(TIMM)} networks of timm are left out: timm is not installed")
