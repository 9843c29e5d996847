"""What the ranks of several processes run: a module of its own, for they import it by its name."""

import os
import signal

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from zfcuda.experiments.maxima import recording
from zfcuda.experiments.maxima.recording import record_activations
from zfcuda.experiments.occlusion.over import occlusion_over
from zfcuda.storage import identity
from zfcuda.storage.ranks import Shard, current_shard, from_environment

LAYERS = ["1", "4"]


def network():
    """The same whoever asks."""
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 5, 3), nn.ReLU()]
    return nn.Sequential(*layers).eval()


def results(folder):
    """What must not differ between two finished runs: names and bytes."""
    assert not (folder / "progress").exists()
    files = [*folder.glob("layers/*"), folder / "index.csv"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def record(folder, total):
    """The same run whichever process starts it."""
    model = network()
    images = torch.randn(total, 3, 14, 12).mul(3).round().div(3)  # some activations are equal
    return record_activations(folder, model, images, LAYERS, k=4, maps=3, batch=4, every=4)


def processes(world, work, *arguments, method="fork"):
    """``work(*arguments)`` in processes that know of each other; forked, they cost no start of
    Python."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    port = store.port
    del store
    mp.start_processes(_rank, (world, port, work, arguments), world, start_method=method)


def _rank(rank, world, port, work, arguments):
    torch.set_num_threads(1)
    names = {"RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in names.items()}
    with from_environment():
        work(*arguments)
    assert not dist.is_initialized()


def start(world, folder, total=53, dies_after=None):
    """A recording by several ranks, the last of which may be killed after it has written its state
    a few times."""
    processes(world, _record, folder, total, dies_after, method="spawn")


def _record(folder, total, dies_after):
    shard = current_shard()
    if dies_after is not None and shard.rank == shard.world - 1:
        save, left = recording.Progress.save, [dies_after]

        def deadly(self, *arguments):
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            save(self, *arguments)

        recording.Progress.save = deadly
    record(folder, total)


def talk():
    """What rank 0 and 1 do in test_two_processes."""
    shard = current_shard()
    rank = shard.rank
    assert shard == Shard(rank, 2)
    assert [t.item() for t in shard.collect(torch.tensor(rank))] == [0, 1]
    half = torch.full((2, 3), rank + 0.5, dtype=torch.float64)
    gathered = shard.gather(half)
    assert len(gathered) == 2 * shard.first
    for i, one in enumerate(gathered):
        assert torch.equal(one, torch.full_like(half, i + 0.5))
    assert shard.share(torch.tensor([rank + 5])).tolist() == [5]
    assert shard.collect("ä" * rank) == ["", "ä"]
    shard.agree({"k": 1}, "settings")
    with pytest.raises(RuntimeError, match=r"of rank 1 differ .*: batch 6 in place of 5"):
        shard.agree({"k": 1, "batch": 5 + rank}, "settings")
    shard.wait()


def differ_in_precision(folder):
    """What rank 0 and 1 do in test_ranks_of_two_precisions."""
    rank = current_shard().rank
    if rank:
        identity._told = lambda kind: ("tf32", "ieee")
        identity._known = lambda device: frozenset({"tf32"})
    said = "settings of rank 1 differ .*: convolutions 'tf32' in place of 'float32'"
    with pytest.raises(RuntimeError, match=said):
        record(folder / "maxima", 8)
    assert not (folder / "maxima" / "manifest.json").exists()
    model = nn.Sequential(*network(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = torch.ones(3, 3, 14, 12)
    with pytest.raises(ValueError, match="settings: convolutions float32 there, tf32 here"):
        occlusion_over(model, images, folder / "occlusion", size=6, stride=4)
    assert not (folder / "occlusion" / "images").exists()
