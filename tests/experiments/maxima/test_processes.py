"""Several processes give what one gives, bit by bit, also when one of them is killed."""

import pytest
import torch.multiprocessing as mp
from ranks import record, results, start

SLOW = [pytest.param(*run, marks=pytest.mark.slow) for run in ((3, 53), (4, 53), (4, 9), (4, 2))]


@pytest.mark.parametrize(("world", "total"), [(2, 53), *SLOW])
def test_many_processes(tmp_path, world, total):
    """Also uneven shards, and fewer blocks than processes."""
    record(tmp_path / "one", total)
    start(world, tmp_path / "many", total)
    assert results(tmp_path / "many") == results(tmp_path / "one")


def test_one_is_killed_and_one_goes_on(tmp_path):
    record(tmp_path / "one", 53)
    with pytest.raises((mp.ProcessExitedException, mp.ProcessRaisedException)):
        start(2, tmp_path / "two", dies_after=3)
    assert [*(tmp_path / "two" / "progress").iterdir()]
    assert not (tmp_path / "two" / "index.csv").exists()
    record(tmp_path / "two", 53)
    assert results(tmp_path / "two") == results(tmp_path / "one")


@pytest.mark.slow
def test_other_numbers_of_processes_go_on(tmp_path):
    record(tmp_path / "one", 253)
    for world, dies_after in ((4, 2), (2, 3), (3, 1)):
        with pytest.raises((mp.ProcessExitedException, mp.ProcessRaisedException)):
            start(world, tmp_path / "many", 253, dies_after)
    start(2, tmp_path / "many", 253)
    assert results(tmp_path / "many") == results(tmp_path / "one")
