"""Settings that every test shares."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import hypothesis
import matplotlib
import numpy as np
import pytest
import torch
from networks import torchvision_models
from PIL import Image
from sets import garments, idx_bytes
from torch import Tensor, nn
from zoo import ZOO

matplotlib.use("Agg")
if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that tests start

# No deadline: on a busy machine the first example pays for compilation and caches.
hypothesis.settings.register_profile("zfcuda", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("zfcuda")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Plain `pytest` runs all tests with a process a core (`-n 0`: with this one only), where
    pytest-xdist is installed; tests that are named run as they always do."""
    everything = config.args_source is not pytest.Config.ArgsSource.ARGS
    worker = "PYTEST_XDIST_WORKER" in os.environ
    options = config.option
    chosen = getattr(options, "numprocesses", 0) is not None  # 0: there is no pytest-xdist
    if everything and not (worker or chosen or options.collectonly or options.usepdb):
        options.numprocesses = min(8, len(os.sched_getaffinity(0)))
        options.dist = "worksteal"


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


@pytest.fixture(params=ZOO, ids=lambda kind: kind.__name__)
def net(request: pytest.FixtureRequest) -> nn.Module:
    return request.param().double().eval()


@pytest.fixture
def make() -> Callable[[str], nn.Module]:
    """Networks of the zoo by name."""
    kinds = {kind.__name__: kind for kind in ZOO}
    return lambda name: kinds[name]().double().eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 16, 18, dtype=torch.float64)


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
def script(monkeypatch) -> Callable[[str], ModuleType]:
    """Files of scripts/, as modules."""

    def load(name: str) -> ModuleType:
        path = Path(__file__).parents[1] / "scripts" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def idx_folder(tmp_path):
    """Writes the four files of the MNIST family (some of them gzipped) and returns the folder."""

    def write(training=60, test=12, classes=3, name="idx"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for part, count in (("train", training), ("t10k", test)):
            images, labels = garments(count, classes)
            (folder / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
            packed = gzip.compress(idx_bytes(labels))
            (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(packed)
        return folder

    return write


@pytest.fixture
def picture_folder(tmp_path):
    """Writes folders of pictures: a mapping of class (or part/class) to their number."""

    def write(counts, name="pictures"):
        rng = np.random.default_rng(0)
        for where, count in counts.items():
            folder = tmp_path / name / where
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
        return tmp_path / name

    return write
