"""What the tests of ops share."""

import host_copies
import pytest
from places import CPU, FOR_GPUS, Place

from zfcuda import ops  # noqa: F401  (the rules of autograd)


@pytest.fixture(params=[CPU, *FOR_GPUS], ids=lambda place: place.name)
def place(request: pytest.FixtureRequest) -> Place:
    return request.param


@pytest.fixture(scope="session", autouse=True)
def _host_copies(request: pytest.FixtureRequest) -> None:
    """``torch.ops.zfcuda_host``, unless all tests run on the GPU; compiling it the first time is
    shown on the terminal."""
    if all(item.get_closest_marker("cuda") for item in request.session.items):
        return
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        host_copies.load()
