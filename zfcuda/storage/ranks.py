"""The processes of one run: which of them this is, what it does, what they tell each other.

``torchrun --nproc-per-node N -m zfcuda ...`` starts N processes that differ by their rank. Each
does its share of the work, ``shard.own(items)``, and they merge with ``torch.distributed`` (gloo on
CPUs, NCCL on GPUs). A process started without torchrun is a world of one, and all of this is
nothing:

    with from_environment(device) as shard:
        for item in shard.own(items):
            ...
        everything = shard.collect(mine)
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

_Item = TypeVar("_Item")

# A rank that is done waits for the slowest one, for hours if need be: that is no failure. One that
# dies is noticed by torchrun, and by gloo when its connections close.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Shard:
    """One of ``world`` processes.

    What it says to the others is said by all of them: every rank makes the same calls, in the same
    order.

    Attributes:
        rank: 0 to ``world`` - 1.
        world: number of processes.

    Raises:
        ValueError: a rank outside its world.
    """

    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank must be between 0 and {self.world - 1}, got {self.rank}")

    @property
    def first(self) -> bool:
        """Whether this is the rank that reports and writes what there is one of."""
        return self.rank == 0

    def own(self, items: Sequence[_Item]) -> Sequence[_Item]:
        """This rank's items: every ``world``-th. Together the ranks have each item once; a rank
        has at most one more than another, and none where there are fewer items than ranks."""
        return items[self.rank :: self.world]

    def wait(self) -> None:
        """Until all ranks are here.

        Raises:
            RuntimeError: one of them ended.
        """
        if self.world == 1:
            return
        try:
            dist.barrier()
        except RuntimeError as error:
            raise RuntimeError(
                "another process of the run ended early; run the same command again, with as many "
                f"processes as you like: what is finished stays ({error})"
            ) from error

    def collect(self, own: _Item) -> list[_Item]:
        """Every rank's object, in the order of their ranks; tensors in it on the CPU."""
        if self.world == 1:
            return [own]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, own)
        return found

    def gather(self, own: _Item) -> list[_Item]:
        """Every rank's object at rank 0; the others have an empty list. Tensors in it on the
        CPU."""
        if self.world == 1:
            return [own]
        found: list[Any] | None = [None] * self.world if self.first else None
        dist.gather_object(own, found, 0)
        return found or []

    def share(self, own: _Item) -> _Item:
        """Rank 0's object; those of the others do not matter. Tensors in it on the CPU."""
        if self.world == 1:
            return own
        found: list[Any] = [own if self.first else None]
        dist.broadcast_object_list(found, 0)
        return found[0]

    def agree(self, settings: Mapping[str, Any], what: str) -> None:
        """Check that all ranks have the same settings, under the same names.

        Raises:
            RuntimeError: at every rank, that ``what`` differs, where and in what.
        """
        found = self.collect({**settings})
        for rank, own in enumerate(found):
            different = [name for name in own if own[name] != found[0].get(name)]
            if different:
                name = different[0]
                raise RuntimeError(
                    f"{what} of rank {rank} differ from those of rank 0: {name} {own[name]!r} in "
                    f"place of {found[0].get(name)!r}"
                )


def current_shard() -> Shard:
    """This process among those of ``torch.distributed``; a world of one where that is not in
    use."""
    if dist.is_available() and dist.is_initialized():
        return Shard(dist.get_rank(), dist.get_world_size())
    return Shard()


@contextmanager
def from_environment(device: torch.device | str = "cpu") -> Iterator[Shard]:
    """This process's shard by torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR,
    MASTER_PORT); ends the process group on leaving.

    On CUDA, "cuda" means from here on the GPU with the process's local rank. A process group that
    is there already is used and left as it is.

    Args:
        device: where tensors are that ranks exchange; CPU tensors always can be.

    Raises:
        ValueError: an environment that is not torchrun's, or more processes on this machine than
            GPUs.
    """
    shard = _by_environment()
    if shard.world == 1 or dist.is_initialized():
        yield current_shard()
        return
    backend = "gloo"
    if torch.device(device).type == "cuda":
        torch.cuda.set_device(_own_gpu())
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield shard
    finally:
        dist.destroy_process_group()


def _by_environment() -> Shard:
    numbers = [os.environ.get(name, default) for name, default in (("RANK", 0), ("WORLD_SIZE", 1))]
    try:
        return Shard(*map(int, numbers))
    except ValueError as error:
        raise ValueError(
            f"RANK={numbers[0]} and WORLD_SIZE={numbers[1]}: expected what torchrun sets ({error})"
        ) from error


def _own_gpu() -> int:
    local, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= count:
        raise ValueError(
            f"process {local} on this machine has no GPU of its own: expected --nproc-per-node of "
            f"at most {count}"
        )
    return local
