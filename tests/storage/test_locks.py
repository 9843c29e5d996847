"""One run at a time in a folder; one that was killed is in nobody's way."""

import errno
import fcntl
import multiprocessing
import os
import signal
import time

import pytest

from zfcuda.storage.files import read_json, write_json
from zfcuda.storage.ranks import Shard
from zfcuda.storage.run_folder import claimed, run_folder

FORK = multiprocessing.get_context("fork")
BUSY = "another run is at work in '.*': wait until it is done, or name another folder"


def test_one_after_the_other(tmp_path):
    folder = tmp_path / "not" / "there"
    for _ in range(2):
        with claimed(folder, Shard()):
            with pytest.raises(ValueError, match=BUSY), claimed(folder, Shard()):
                pytest.fail("two at once")
            with claimed(tmp_path / "another", Shard()):
                pass


def test_an_error_gives_the_folder_back(tmp_path):
    with pytest.raises(KeyError), claimed(tmp_path, Shard()):
        raise KeyError
    with claimed(tmp_path, Shard()):
        pass


def hold(folder, pipe):
    with claimed(folder, Shard()):
        worker = FORK.Process(target=time.sleep, args=(600,))
        worker.start()
        time.sleep(0.2)  # so that it has begun
        pipe.send(worker.pid)
        worker.join()


def test_a_killed_process_holds_nothing_though_its_worker_lives(tmp_path):
    ours, theirs = FORK.Pipe()
    holder = FORK.Process(target=hold, args=(tmp_path, theirs))
    holder.start()
    theirs.close()
    worker = ours.recv()  # its pid
    try:
        with pytest.raises(ValueError, match=BUSY), claimed(tmp_path, Shard()):
            pytest.fail("two at once")
        holder.kill()
        holder.join()
        os.kill(worker, 0)  # it lives
        with claimed(tmp_path, Shard()):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


def test_file_systems_without_locks(tmp_path, monkeypatch):
    def without(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without)
    with (
        pytest.warns(UserWarning, match=r"cannot be locked \(No locks available\): take care"),
        claimed(tmp_path, Shard()),
    ):
        pass


def test_a_run_that_fails_before_anything_is_done_leaves_nothing(tmp_path):
    folder = tmp_path / "new" / "run"
    with pytest.raises(KeyError), claimed(folder, Shard(), "run.json"):
        (folder / "run.json").write_text("{}")
        raise KeyError
    assert [*tmp_path.iterdir()] == []
    for done in ("run.json", "a result"):  # begun before, or with something done
        folder.mkdir(parents=True, exist_ok=True)
        (folder / done).write_text("{}")
        with pytest.raises(KeyError), claimed(folder, Shard(), "run.json"):
            (folder / "run.json").write_text("{}")
            raise KeyError
        assert (folder / "run.json").is_file()
        for path in folder.iterdir():
            path.unlink()


@pytest.mark.parametrize("gone", ["lock", "folder", "replaced"])
def test_a_lock_removed_after_it_was_opened_is_not_taken_for_the_folders(
    tmp_path, monkeypatch, gone
):
    """As by a run that fails just then: two would be at work, each with a lock of its own."""
    folder, flock = tmp_path / "run", fcntl.flock

    def late(*arguments):
        monkeypatch.setattr(fcntl, "flock", flock)
        (folder / ".lock").unlink()
        if gone == "folder":
            folder.rmdir()
        if gone == "replaced":
            (folder / ".lock").touch()
        flock(*arguments)

    monkeypatch.setattr(fcntl, "flock", late)
    with claimed(folder, Shard()):
        assert (folder / ".lock").is_file()
        with pytest.raises(ValueError, match=BUSY), claimed(folder, Shard()):
            pytest.fail("two at once")


def test_a_folder_removed_before_its_lock_was_opened_is_made_again(tmp_path, monkeypatch):
    folder, opened = tmp_path / "run", os.open

    def late(path, *arguments):
        if str(path) == str(folder / ".lock"):
            monkeypatch.setattr(os, "open", opened)
            folder.rmdir()
        return opened(path, *arguments)

    monkeypatch.setattr(os, "open", late)
    with claimed(folder, Shard()):
        assert (folder / ".lock").is_file()


def test_a_link_in_the_place_of_the_lock_is_not_written_through(tmp_path):
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"), claimed(tmp_path / "run", Shard()):
        pytest.fail("claimed")
    assert (tmp_path / "precious").read_text() == "kept"


def test_what_a_kill_left_is_removed_but_not_of_a_run_in_a_folder_in_it(tmp_path):
    """Another process may be writing there."""
    left = [tmp_path / name for name in ("images", "another")]
    for folder in left:
        folder.mkdir()
        (folder / ".a.0123abcd.npz").touch()
    with claimed(tmp_path / "another", Shard()), run_folder(tmp_path / "run.json", {}):
        assert [(folder / ".a.0123abcd.npz").exists() for folder in left] == [False, True]


def test_files_take_the_place_of_links(tmp_path):
    (tmp_path / "precious").write_text("kept")
    path = tmp_path / "run.json"
    path.symlink_to(tmp_path / "precious")
    write_json(path, {})
    assert not path.is_symlink() and read_json(path) == {}
    assert (tmp_path / "precious").read_text() == "kept"
