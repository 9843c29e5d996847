"""Several processes give what one gives, bit by bit, also when one of them is killed."""

import os
import signal

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from zfcuda._distributed import from_environment
from zfcuda.maxima import progress, record_activations

LAYERS = ["1", "4"]


def record(folder, total):
    """The same run whichever process starts it."""
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 5, 3), nn.ReLU()]
    images = torch.randn(total, 3, 14, 12).mul(3).round().div(3)  # some activations are equal
    model = nn.Sequential(*layers).eval()
    return record_activations(folder, model, images, LAYERS, k=4, maps=3, batch=4, every=4)


def work(rank, world, port, folder, total, dies_after):
    """One rank; the last one may be killed after it has written its state a few times."""
    torch.set_num_threads(1)
    names = {"RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in names.items()}
    if dies_after is not None and rank == world - 1:
        save, left = progress.Progress.save, [dies_after]

        def deadly(self, *arguments):
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            save(self, *arguments)

        progress.Progress.save = deadly
    with from_environment():
        record(folder, total)


def start(world, folder, total=53, dies_after=None):
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    port = store.port
    del store
    mp.spawn(work, (world, port, folder, total, dies_after), nprocs=world)


def results(folder):
    files = [*folder.glob("layers/*"), folder / "index.csv"]
    assert not (folder / "progress").exists()
    return {path.name: path.read_bytes() for path in files}


def test_two_processes(tmp_path):
    record(tmp_path / "one", 53)
    start(2, tmp_path / "two")
    assert results(tmp_path / "two") == results(tmp_path / "one")


def test_one_is_killed_and_one_goes_on(tmp_path):
    record(tmp_path / "one", 53)
    with pytest.raises((mp.ProcessExitedException, mp.ProcessRaisedException)):
        start(2, tmp_path / "two", dies_after=3)
    assert [*(tmp_path / "two" / "progress").iterdir()]
    assert not (tmp_path / "two" / "index.csv").exists()
    record(tmp_path / "two", 53)
    assert results(tmp_path / "two") == results(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize(("world", "total"), [(3, 53), (4, 53), (4, 9), (4, 2)])
def test_many_processes(tmp_path, world, total):
    """Also uneven shards, and fewer blocks than processes."""
    record(tmp_path / "one", total)
    start(world, tmp_path / "many", total)
    assert results(tmp_path / "many") == results(tmp_path / "one")


@pytest.mark.slow
def test_other_numbers_of_processes_go_on(tmp_path):
    record(tmp_path / "one", 253)
    for world, dies_after in ((4, 2), (2, 3), (3, 1)):
        with pytest.raises((mp.ProcessExitedException, mp.ProcessRaisedException)):
            start(world, tmp_path / "many", 253, dies_after)
    start(2, tmp_path / "many", 253)
    assert results(tmp_path / "many") == results(tmp_path / "one")
