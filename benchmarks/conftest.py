"""The table that ends ``pytest benchmarks``: ratios to torch, shares of the copy bandwidth."""

from __future__ import annotations

import platform
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

import zfcuda.cli.info

THREADS = 2


@dataclass
class Row:
    """What the table says of one case; times in seconds."""

    name: str
    bytes: int
    note: str
    copy: float = float("nan")
    medians: dict[str, float] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        return self.medians.get("torch", float("nan")) / self.medians.get("zfcuda", float("nan"))


ROWS = pytest.StashKey[dict[str, Row]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-table", metavar="FILE", help="also write the table as Markdown")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = {}


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def rows(request: pytest.FixtureRequest) -> dict[str, Row]:
    return request.config.stash[ROWS]


def copy_time(size: int, repeats: int = 15) -> float:
    """Median seconds to read and write ``size`` bytes in all, allocation included (a clone)."""
    source = torch.zeros(size // 2, dtype=torch.uint8)
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        source.clone()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def markdown(rows: list[Row]) -> list[str]:
    lines = [
        f"{zfcuda.cli.info.collect().simd_level}, {THREADS} threads, torch {torch.__version__}, "
        f"Python {platform.python_version()}; medians of one run",
        "",
        "| work | reference, ms | torch, ms | zfcuda, ms | torch / zfcuda | "
        "share of copy bandwidth |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        times = " | ".join(
            f"{row.medians[name] * 1e3:.2f}" if name in row.medians else "–"
            for name in ("reference", "torch", "zfcuda")
        )
        share = row.copy / row.medians.get("zfcuda", float("nan"))
        lines.append(f"| {row.name} | {times} | {row.ratio:.1f}× | {share:.0%} |")
    lines += ["", *(f"{row.name}: {row.note}" for row in rows if row.note)]
    return lines


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    rows = list(config.stash[ROWS].values())
    if not rows:
        return
    lines = markdown(rows)
    terminalreporter.section("zfcuda against torch, results checked equal first")
    for line in lines:
        terminalreporter.write_line(line)
    if path := config.getoption("--write-table"):
        Path(path).write_text("\n".join(lines) + "\n")
