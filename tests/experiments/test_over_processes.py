"""Runs that are killed, and runs that several processes share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.multiprocessing as mp
from ranks import differ_in_precision, processes
from shared import COUNTS, FAMILIES, all_runs, go_on, start
from small_runs import COUNT, SETTINGS, Images, groups_of, images, network, whole_files

import zfcuda
from zfcuda.experiments.occlusion import engines

HELPERS = Path(__file__).parents[1] / "helpers"


@pytest.fixture(autouse=True)
def _usual_groups(monkeypatch):
    for kind in (engines.Cones, engines.Dense):
        monkeypatch.setattr(kind, "together", kind.together)


def python(*arguments):
    """Run a script in processes of one thread; returns status, output and errors."""
    path = os.pathsep.join([str(Path(zfcuda.__file__).parents[1]), *sys.path])
    found = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
    )
    return found.returncode, found.stdout, found.stderr


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_any_moment_nothing_is_lost_or_different(tmp_path, contents, kills):
    status, printed, errors = python(HELPERS / "killed.py", tmp_path / "killed", kills)
    assert status == 0, errors
    assert int(printed) > 0, "no kill met a running process"
    groups_of(4)
    zfcuda.occlusion_over(network(), Images(images()), tmp_path / "whole", **SETTINGS)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.fixture(scope="module", params=[2, 4])
def shared(request, tmp_path_factory):
    """The folder that so many processes left."""
    folder = tmp_path_factory.mktemp("shared")
    if request.param == 2:
        launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
        status, _, errors = python(*launcher, HELPERS / "shared.py", folder)
        assert status != 0 and "SIGKILL" in errors, errors
    else:
        with pytest.raises(mp.ProcessExitedException, match="SIGKILL"):
            start(request.param, all_runs, folder)
    return folder, request.param


@pytest.mark.parametrize("count", COUNTS)
def test_many_processes_give_what_one_does(shared, tmp_path, contents, count):
    """Also with uneven shares, and with fewer groups than processes."""
    folder, _ = shared
    groups_of(3)
    zfcuda.occlusion_over(network(), images(count), tmp_path, **SETTINGS)
    assert contents(folder / str(count)) == contents(tmp_path)


def test_so_do_they_for_invariance(shared, tmp_path, contents):
    folder, _ = shared
    zfcuda.invariance_over(network(), images(), tmp_path, "3", transformations=FAMILIES)
    assert contents(folder / "moved") == contents(tmp_path)


def test_a_dead_process_ends_the_run_and_another_world_goes_on(shared, tmp_path, contents):
    folder, world = shared
    left = {*(folder / "dead").glob("images/*/[0-9]*.json")}
    assert len(left) < COUNT and not (folder / "dead" / "summary.json").exists()
    whole_files(folder / "dead")
    start({2: 1, 4: 3}[world], go_on, folder)
    groups_of(3)
    zfcuda.occlusion_over(network(), Images(images()), tmp_path, **SETTINGS)
    assert contents(folder / "dead") == contents(tmp_path)


def test_ranks_of_two_precisions(tmp_path):
    """As of an Ampere GPU and an older one: both are told, and nothing is computed."""
    processes(2, differ_in_precision, tmp_path, method="spawn")
