"""What will be computed, and what that saves, for the user to read."""

from __future__ import annotations

from dataclasses import dataclass

from zfcuda.storage.files import text_table, visible


@dataclass(frozen=True)
class PlannedStep:
    """One step of the plan; counts are per position.

    Attributes:
        name: the module or function.
        kind: of step.
        maps: (channels, height, width), or fewer numbers for vectors.
        rectangle: mean (height, width) of what an occluder can change; the whole maps past a
            barrier.
        dense: whether whole maps are computed.
        dense_macs, cone_macs: multiply-adds on whole maps and inside the rectangles.
        dense_cost, cone_cost: modelled, in multiply-adds of a large convolution; a step that no
            cone can pass has an infinite cone_cost.
    """

    name: str
    kind: str
    maps: tuple[int, ...]
    rectangle: tuple[float, float]
    dense: bool
    dense_macs: float
    cone_macs: float
    dense_cost: float
    cone_cost: float


@dataclass(frozen=True)
class Plan:
    """What :func:`zfcuda.occlusion` will do with a model and its occluders.

    Attributes:
        method: "cone" or "dense".
        reason: why the method is "dense", or empty.
        positions: occluder positions per image.
        steps: in order; none when the model cannot be traced.
        batch: positions computed together.
        size, stride: (height, width) of the occluder and its steps, pixels; None for positions of
            the caller's own.
    """

    method: str
    reason: str
    positions: int
    steps: tuple[PlannedStep, ...]
    batch: int
    size: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None

    @property
    def dense_from(self) -> str | None:
        """The first step computed on whole maps, None if there is none."""
        return next((step.name for step in self.steps if step.dense), None)

    @property
    def ceiling(self) -> float:
        """Multiply-adds of dense passes over those of the cones, vectors' layers included: how much
        faster arithmetic alone could be. 1 when the model cannot be traced."""
        dense = sum(step.dense_macs for step in self.steps)
        tight = sum(min(step.cone_macs, step.dense_macs) for step in self.steps)
        return dense / tight if tight else 1.0

    @property
    def predicted_speedup(self) -> float:
        """Modelled cost of dense passes over that of this plan."""
        dense = sum(step.dense_cost for step in self.steps)
        chosen = sum(step.dense_cost if step.dense else step.cone_cost for step in self.steps)
        return dense / chosen if chosen else 1.0

    def __str__(self) -> str:
        head = f"{self.positions} positions{self._occluder}, {self.batch} at a time: "
        if not self.steps:
            return visible(f"{head}dense passes ({self.reason})")
        if self.method == "dense":
            why = f" ({self.reason})" if self.reason else ""
            head += f"dense passes{why}; cones would save {self.ceiling:.1f}x of the multiply-adds"
        else:
            head += (
                f"{self.predicted_speedup:.1f}x faster than dense passes predicted "
                f"({self.ceiling:.1f}x fewer multiply-adds)"
            )
            head += f", whole maps from {self.dense_from}" if self.dense_from else ""
        rows = [
            {
                "step": step.name,
                "kind": step.kind,
                "maps": "x".join(map(str, step.maps)),
                "rectangle": "all" if step.dense else "{:.1f}x{:.1f}".format(*step.rectangle),
                "M MACs dense": _millions(step.dense_macs),
                "computed": _millions(step.dense_macs if step.dense else step.cone_macs),
            }
            for step in self.steps
        ]
        return f"{visible(head)}\n{text_table(rows)}"

    @property
    def _occluder(self) -> str:
        if self.size is None or self.stride is None:
            return ""
        (height, width), (down, right) = self.size, self.stride
        return f" of {height}x{width} pixels every {down}x{right}"


def _millions(macs: float) -> str:
    return f"{macs / 1e6:.2f}" if macs else ""
