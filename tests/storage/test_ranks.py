"""Shards alone, and two processes that talk to each other."""

import pytest
import torch
import torch.distributed as dist
from ranks import processes, talk

from zfcuda.storage.ranks import Shard, current_shard, from_environment


def test_alone():
    with from_environment() as shard:
        assert shard == current_shard() == Shard(0, 1) and shard.first
        assert shard.own([3, 1, 2]) == [3, 1, 2]
        assert shard.share("a") == "a" and shard.collect("a") == ["a"]
        assert [t.tolist() for t in shard.collect(torch.arange(2))] == [[0, 1]]
        shard.agree({"k": 1}, "settings")
        shard.wait()
    assert not dist.is_initialized()


@pytest.mark.parametrize("world", [1, 2, 3, 5, 40])
def test_every_item_has_one_owner(world):
    parts = [Shard(rank, world).own(range(17)) for rank in range(world)]
    assert sorted(item for part in parts for item in part) == [*range(17)]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_wrong_environment(monkeypatch):
    with pytest.raises(ValueError, match="between 0 and 1, got 2"):
        Shard(2, 2)
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(ValueError, match="RANK=one"), from_environment():
        pass


def test_two_processes():
    processes(2, talk, method="spawn")
