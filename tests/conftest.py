"""Settings that every test shares."""

import hypothesis
import matplotlib
import pytest
import torch

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
