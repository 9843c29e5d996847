"""Where the boxes of a graph go: in ranks from below, in order, with room for passing arrows.

After Sugiyama, Tagawa, Toda (1981): an arrow past a rank gets a place of its own there, and ranks
are ordered by the mean place of their neighbours, which keeps crossings few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_PASSING = 0.3  # width of an arrow that passes a rank, in boxes
_SWEEPS = 4


@dataclass(frozen=True)
class Arrangement:
    """Places of n boxes, the first of which are given, the others made of earlier ones.

    Attributes:
        rank: of each box, from 0 at the bottom.
        place: of each box, from left to right, in widths of a box, 0 in the middle.
        routes: by (from, to), the (place, rank) pairs that the arrow goes through on its way.
        width: of the widest rank, in boxes.
    """

    rank: tuple[int, ...]
    place: tuple[float, ...]
    routes: dict[tuple[int, int], tuple[tuple[float, int], ...]]
    width: float


def arrange(inputs: Sequence[Sequence[int]]) -> Arrangement:
    """Arrange boxes; ``inputs`` are, by box, the boxes (all earlier) that its arrows come from."""
    rank: list[int] = []
    for sources in inputs:
        rank.append(1 + max((rank[source] for source in sources), default=-1))
    rows: list[list[int]] = [[] for _ in range(max(rank) + 1)]
    above: dict[int, list[int]] = {}  # of boxes and passing places, numbered on behind the boxes
    passing: dict[tuple[int, int], list[int]] = {}
    count = len(inputs)
    for box, sources in enumerate(inputs):
        rows[rank[box]].append(box)
        for source in dict.fromkeys(sources):
            own = [*range(count, count + rank[box] - rank[source] - 1)]
            count += len(own)
            for step, (lower, upper) in enumerate(zip([source, *own], [*own, box], strict=True)):
                above.setdefault(lower, []).append(upper)
                if upper != box:
                    rows[rank[source] + step + 1].append(upper)
            passing[source, box] = own
    below: dict[int, list[int]] = {}
    for lower, uppers in above.items():
        for upper in uppers:
            below.setdefault(upper, []).append(lower)

    widths = [1.0] * len(inputs) + [_PASSING] * (count - len(inputs))
    place = _places(rows, widths)
    for _ in range(_SWEEPS):
        for neighbours, order in ((below, rows), (above, rows[::-1])):
            for row in order:
                row.sort(key=lambda box: _mean([place[n] for n in neighbours.get(box, [box])]))
                place |= _places([row], widths)
    at = {box: number for number, row in enumerate(rows) for box in row}
    return Arrangement(
        rank=tuple(rank),
        place=tuple(place[box] for box in range(len(inputs))),
        routes={
            arrow: tuple((place[box], at[box]) for box in (arrow[0], *own, arrow[1]))
            for arrow, own in passing.items()
        },
        width=max(sum(widths[box] for box in row) for row in rows),
    )


def _places(rows: Sequence[Sequence[int]], widths: Sequence[float]) -> dict[int, float]:
    """Side by side, the middle of each row at 0."""
    place = {}
    for row in rows:
        left = -sum(widths[box] for box in row) / 2
        for box in row:
            place[box] = left + widths[box] / 2
            left += widths[box]
    return place


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
