"""The pass over all images, for all layers at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from zfcuda import ops
from zfcuda.data.images import Source
from zfcuda.experiments.maxima.top import Maps, Top, chosen
from zfcuda.inference.beside import stands_alone
from zfcuda.inference.checks import check_input, device_of, evaluating
from zfcuda.inference.interception import fast_forward
from zfcuda.inference.layers import feature_maps, layer_outputs
from zfcuda.inference.passes import fastest_layout, fitting, progress_bar, spans


def scan(
    model: nn.Module,
    source: Source,
    layers: Sequence[str],
    k: int,
    maps: Maps,
    limit: int,
    progress: bool,
) -> tuple[dict[str, Top], int, Tensor]:
    """The strongest activations of every map of ``layers`` over ``source``; how many images these
    are, and the first [1,C,H,W]."""
    tops: dict[str, Top] = {}
    spotter: Spotter | None = None
    count = 0
    with evaluating(model), progress_bar(source.total, progress, "images") as advance:
        for images in source.batches():
            # A copy, since a model may work in place.
            images = images.to(device_of(model), non_blocking=True, copy=True)
            if spotter is None:
                check_input(model, images)
                example = images[:1].clone()
                spotter = Spotter.of(model, layers, example, limit)
                tops = spotter.tops(k, maps)
            spotter.take(images, tops, count)
            count += len(images)
            advance(len(images))
    if spotter is None:
        raise ValueError("there are no images")
    return tops, count, spotter.example


@dataclass(frozen=True, eq=False)
class Spotter:
    """Runs images through a model and finds the largest activation of every map. ``example``
    [1,C,H,W] is what all images are like.

    Attributes:
        together: how many images go through the model at a time. A convolution's last bits may
            depend on it.
        layout: their memory format; last bits depend on it too.
    """

    model: nn.Module
    layers: Sequence[str]
    example: Tensor
    together: int
    layout: torch.memory_format = torch.preserve_format

    @classmethod
    def of(
        cls,
        model: nn.Module,
        layers: Sequence[str],
        example: Tensor,
        limit: int,
        most: int | None = None,
    ) -> Self:
        """For a model in eval mode.

        Images go through it in the memory format that
        :func:`zfcuda.inference.passes.fastest_layout` finds.

        Args:
            limit: bytes that the activations of a batch may take.
            most: images that go through the model at a time at most.
        """
        calls = fast_forward(measure=True)
        with calls:
            model(example.clone())
        fits = fitting(calls, example, limit)
        spotter = cls(model, layers, example, fits if most is None else min(most, fits))

        def answers(layout: torch.memory_format) -> list[Tensor]:
            found = replace(spotter, layout=layout).largest(example.clone())
            return [values for values, _, _ in found.values()]

        spotter = replace(spotter, layout=fastest_layout(example, answers))

        def run(images: Tensor) -> list[Tensor]:
            return [values for values, _, _ in spotter.largest(images).values()]

        alone = stands_alone(model, layers, run, example, spotter.together, calls.dtypes)
        return spotter if alone else replace(spotter, together=1)

    def tops(self, k: int, maps: Maps) -> dict[str, Top]:
        """By layer, the k strongest activations before the first image.

        Raises:
            ValueError: a layer does not have ``maps``, which are needed after the last image only.
        """
        found = self.largest(self.example.clone())
        tops = {name: Top.none(values, k, size) for name, (values, _, size) in found.items()}
        for layer, top in tops.items():
            chosen(maps, layer, top)
        return tops

    def take(
        self,
        images: Tensor,
        tops: Mapping[str, Top],
        first: int,
        left_out: Tensor | None = None,
    ) -> None:
        """Offer images [n,C,H,W] from number ``first`` on to ``tops``. The model may overwrite the
        images.

        Raises:
            ValueError: they are not like the example, or a layer gives something else than maps.
        """
        if images.shape[1:] != self.example.shape[1:] or images.dtype != self.example.dtype:
            raise ValueError(
                f"images must all be alike: image {first} is {list(images.shape[1:])} "
                f"{images.dtype}, image 0 {list(self.example.shape[1:])} {self.example.dtype}"
            )
        for some in spans(0, len(images), self.together):
            out = None if left_out is None else left_out[some]
            for name, (values, places, _) in self.largest(images[some]).items():
                tops[name].offer(values, places, first + some.start, out)

    def largest(self, images: Tensor) -> dict[str, tuple[Tensor, Tensor, tuple[int, int]]]:
        """By layer the largest activations [n,C], their places [n,C], and the maps' size."""

        def receive(name: str, output: Any) -> tuple[Tensor, Tensor, tuple[int, int]]:
            maps = feature_maps(output, name, len(images))
            return *ops.spatial_max(maps), tuple(maps.shape[2:])

        with layer_outputs(self.model, self.layers, receive) as found, fast_forward():
            self.model(images.to(memory_format=self.layout))
        return found
