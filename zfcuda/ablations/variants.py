"""Changes of an architecture, and those of the paper's table 3."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Variant:
    """A change of an architecture.

    Attributes:
        name: what to call it.
        remove: names of the convolutions and linear layers that are left out, each with the ReLU
            and dropout that follow it.
        resize: by name the new number of maps (of a convolution) or units (of a linear layer).
    """

    name: str
    remove: tuple[str, ...] = ()
    resize: Mapping[str, int] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The change as a folder's name: "without-conv3-conv4", "fc6=256-fc7=256", "as-it-is"."""
        parts = [f"{name}={width}" for name, width in self.resize.items()]
        removed = "-".join(("without", *self.remove)) if self.remove else ""
        return re.sub(r"[^\w=-]", ".", "-".join([*filter(None, [removed]), *parts])) or "as-it-is"


# The paper's rows, its widths in the proportions of zfnet_small's own: 512, 1024, 512 maps are 4/3,
# 8/3 and 2 times those of the ZF network.
TABLE_3 = (
    Variant("as it is"),
    Variant("without conv3, conv4", ("conv3", "conv4")),
    Variant("without fc7", ("fc7",)),
    Variant("without fc6, fc7", ("fc6", "fc7")),
    Variant("without conv3, conv4, fc6, fc7", ("conv3", "conv4", "fc6", "fc7")),
    Variant("fc6, fc7: half the units", resize={"fc6": 256, "fc7": 256}),
    Variant("fc6, fc7: twice the units", resize={"fc6": 1024, "fc7": 1024}),
    Variant("conv3–5: more maps", resize={"conv3": 168, "conv4": 336, "conv5": 192}),
)
