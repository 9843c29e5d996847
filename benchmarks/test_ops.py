"""Each op against torch and the reference, side by side; agreement is checked before timing."""

from __future__ import annotations

import functools

import pytest
from cases import CASES, Case, Work
from conftest import Row, copy_time


@functools.lru_cache(maxsize=1)  # the three tests of a case share its input
def work_of(case: Case) -> Work:
    work = case.make()
    work.check()
    return work


@pytest.mark.parametrize("implementation", ["zfcuda", "torch", "reference"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_op(benchmark, rows, case: Case, implementation: str):
    work = work_of(case)
    slow = implementation == "reference"
    if slow and work.bytes > 100e6:
        pytest.skip("the reference materialises every window: not for the large batch")
    benchmark.group = case.name
    run = {"zfcuda": work.ours, "torch": work.torch, "reference": work.reference}[implementation]
    benchmark.pedantic(run, rounds=3 if slow else 40, warmup_rounds=1 if slow else 5)
    if benchmark.disabled:  # --benchmark-disable: run, but nothing was timed
        return
    row = rows.setdefault(case.name, Row(case.name, work.bytes, work.note))
    row.medians[implementation] = benchmark.stats.stats.median
    if implementation == "zfcuda":
        row.copy = copy_time(work.bytes)
