"""How many processes read images, and how many threads are left to the network."""

import json
import os

import pytest
import torch

from zfcuda import cli
from zfcuda.cli import arguments

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def eight(monkeypatch):
    """A machine of eight cores, and nothing said about threads."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {*range(8)})
    for name in ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def test_workers(eight, monkeypatch):
    assert [arguments.workers(None, device) for device in (CPU, GPU)] == [2, 7]
    assert [arguments.workers(wanted, CPU) for wanted in (0, 1, 30)] == [0, 1, 30]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")  # two cores a rank
    assert [arguments.workers(None, device) for device in (CPU, GPU)] == [0, 1]
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {*range(64)})
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert [arguments.workers(None, device) for device in (CPU, GPU)] == [16, 16]


@pytest.mark.parametrize(("workers", "device", "left"), [(2, CPU, 6), (0, CPU, 3), (2, GPU, 3)])
def test_threads(eight, workers, device, left):
    torch.set_num_threads(3)
    with arguments.cores_shared_with(workers, device):
        assert torch.get_num_threads() == left
    assert torch.get_num_threads() == 3


def test_what_the_user_said_of_threads_holds(eight, monkeypatch):
    torch.set_num_threads(3)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with arguments.cores_shared_with(2, CPU):
        assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("tiny")
def test_a_stored_run_says_what_it_had(photo, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    photo("photos/a.png")
    command = ["top9", "--model", "tiny", "--data", str(tmp_path / "photos"), "--layer", "1"]
    command += ["--quiet", "--device", "cpu", "--workers", "1", "--store", str(tmp_path / "run")]
    assert cli.main(command) == 0
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    threads = max(1, arguments.cores() - 1)
    assert manifest["rates"]["workers"] == 1
    assert manifest["rates"]["threads"] == manifest["threads"] == threads
