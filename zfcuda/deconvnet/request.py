"""What is asked for: which units, and how their signals go down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Literal

from zfcuda._units import Choice
from zfcuda.cones.observing import Manner
from zfcuda.inference.deconvnet_rules import Rules, deconvnet_rules, gradient_rules

Seed = Literal["activation"] | float
Overlap = Literal["sum", "overwrite"]
Rule = Literal["deconv", "gradient"]
Norm = Literal["identity", "gradient"]


@dataclass(frozen=True)
class Request:
    """Units of one layer; the arguments of :func:`zfcuda.deconv` of these names.

    Raises:
        ValueError: an argument that needs no model to be wrong.
    """

    choice: Choice
    seed: Seed = "activation"
    overlap: Overlap = "sum"
    rule: Rule = "deconv"
    norm: Norm = "identity"

    def __post_init__(self) -> None:
        for name, valid in {
            "overlap": ("sum", "overwrite"),
            "rule": ("deconv", "gradient"),
            "norm": ("identity", "gradient"),
        }.items():
            if getattr(self, name) not in valid:
                raise ValueError(
                    f"{name} must be {valid[0]!r} or {valid[1]!r}, got {getattr(self, name)!r}"
                )
        if self.rule == "gradient" and self.overlap == "overwrite":
            raise ValueError("overlap='overwrite' needs rule='deconv': a gradient always sums")
        if not (isinstance(self.seed, str) and self.seed == "activation") and (
            isinstance(self.seed, bool) or not isinstance(self.seed, Real)
        ):
            raise ValueError(f"seed must be 'activation' or a number, got {self.seed!r}")

    @property
    def manner(self) -> Manner:
        """The rules, as the cones know them."""
        return Manner(self.overlap, self.rule, self.norm)

    def rules(self, measure: bool) -> Rules:
        """The rules, as autograd gets them."""
        if self.rule == "gradient":
            return gradient_rules(measure)
        return deconvnet_rules(self.overlap, self.norm, measure)


Requests = Mapping[str, Request]  # by layer; they differ in their choice only
