"""A model and its occluder, checked, traced and planned once for any number of images."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from zfcuda.cones.occluding import images_together
from zfcuda.cones.planning import Plan
from zfcuda.inference.checks import fill_setting
from zfcuda.inference.guards import evaluating
from zfcuda.inference.passes import Layers, find_layers
from zfcuda.results.base import Outputs, check_outputs
from zfcuda.results.occlusion import OcclusionResult
from zfcuda.sensitivity.cones import Network, in_cones, network_for
from zfcuda.sensitivity.request import Request
from zfcuda.sensitivity.whole_passes import in_whole_passes

_MANY = 512  # positions of several images that whole passes take together


@dataclass(frozen=True, eq=False)
class Prepared:
    """A model and its occluder, ready for any number of batches of images of one size.

    The model must not change in between.

    Attributes:
        network: what is run how, or why the model itself is called for every position.
        layers: those that are recorded.
        fill: as the result records it.
        outputs: as the user says, or None for what they are found to be.
    """

    model: nn.Module
    request: Request
    network: Network | str
    layers: list[str]
    fill: float | Tensor
    score: Literal["logit", "probability"]
    outputs: Outputs | None = None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        x: Tensor,
        request: Request,
        fill: object,
        layers: Layers,
        score: Literal["logit", "probability"],
        outputs: Outputs | None = None,
    ) -> Prepared:
        """Checked, traced and planned; ``x`` is any of the images.

        Raises:
            TypeError, ValueError: as :func:`occlusion`.
        """
        if score not in ("logit", "probability"):
            raise ValueError(f"score must be 'logit' or 'probability', got {score!r}")
        if outputs is not None:
            check_outputs(outputs)
        names = list(find_layers(model, layers))
        shown = fill_setting(fill, x, with_image=True)
        with evaluating(model):
            network = network_for(model, x, request, names)
        return cls(model, request, network, names, shown, score, outputs)

    @property
    def positions(self) -> int:
        """How many of an image."""
        return len(self.request.boxes)

    @property
    def plan(self) -> Plan:
        """See :func:`plan`."""
        if isinstance(self.network, str):
            plan = Plan("dense", self.network, self.positions, (), 1)
        else:
            plan = self.network.plan
        return replace(plan, size=self.request.size, stride=self.request.stride)

    def together(self, x: Tensor) -> int:
        """How many images like ``x`` [N,C,H,W] make a good batch; the same for the same memory
        limit, whatever else the machine does."""
        if isinstance(self.network, str):
            return max(1, min(_MANY // self.positions, self.request.limit // (4 * x[0].nbytes)))
        return images_together(self.network.schedule, self.request.limit, x.element_size())

    @torch.inference_mode(False)
    def __call__(
        self,
        x: Tensor,
        target: object = None,
        classes: object = None,
        advance: Callable[[int], object] = lambda positions: None,
        start: float | None = None,
    ) -> OcclusionResult:
        """Occlude ``x``.

        Args:
            x, target, classes: as :func:`occlusion`; ``x`` of the size that was prepared for.
            advance: called with the number of positions done.
            start: ``perf_counter()`` of the start, for the wall time.
        """
        start = time.perf_counter() if start is None else start
        request, network = self.request, self.network
        with evaluating(self.model):
            if isinstance(network, str):
                found = in_whole_passes(
                    self.model, x, request, self.layers, self.fill, target, classes, advance,
                    self.outputs,
                )  # fmt: skip
            else:
                found = in_cones(
                    network, x, request, self.fill, target, classes, advance, self.outputs
                )
        kept = found.kept if classes is not None else {"logits": found.kept["logits"]}
        return OcclusionResult(
            **kept,
            base_logits=found.base_logits,
            target=found.target,
            boxes=request.boxes,
            grid=request.grid,
            size=request.size,
            stride=request.stride,
            image_size=(x.shape[2], x.shape[3]),
            fill=self.fill,
            layers={layer.layer: layer for layer in found.layers},
            seconds=time.perf_counter() - start,
            score=self.score,
            method="dense" if isinstance(network, str) else network.plan.method,
            classes=found.classes,
            outputs=found.outputs,
        )
