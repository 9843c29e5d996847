"""What is asked for: which units, and how their signals go down."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from zfcuda.cones.operators.batch import Manner
from zfcuda.cones.operators.signals import Windows
from zfcuda.inference.checks import as_ints, concatenated, is_int, per_image
from zfcuda.inference.deconvnet_rules import Rules, deconvnet_rules, gradient_rules
from zfcuda.ops.windows import on_device

Channel = int | Sequence[int] | Tensor | None
Position = Literal["max"] | tuple[int, int]
Units = str | int | tuple[Any, ...] | Sequence[Any] | Tensor

WHOLE = -1


class Choice(Protocol):
    """A rule by which units are chosen."""

    def choose(self, maps: Tensor, layer: str, images: slice, total: int) -> Tensor:
        """Units int64 [p,4], (image of the batch, channel, row, column), images ascending, of the
        layer's ``maps`` [n,C,h,w] of these ``images`` out of ``total``; on the maps' device or the
        CPU, wherever they are found."""


def _of_every_image(places: Tensor) -> Tensor:
    """Units [p,4] from as many of each image, [n,k,3]."""
    n, k, _ = places.shape
    image = torch.arange(n, device=places.device)[:, None, None].expand(-1, k, 1)
    return torch.cat([image, places], -1).flatten(0, 1)


def activations_of(maps: Tensor, units: Tensor) -> Tensor:
    """The values [p] of units [p,4], on the CPU, of ``maps``; of a whole map the largest."""
    image, channel, row, column = on_device(units.numpy(), maps.device).unbind(-1)
    values = maps[image, channel, row, column]
    if bool((units[:, 2] == WHOLE).any()):
        values = torch.where(row == WHOLE, maps.amax((2, 3))[image, channel], values)
    return values


def _strongest(maps: Tensor, k: int | None) -> Tensor:
    """The strongest unit of every map, or of the k maps that hold the largest, strongest first."""
    values, places = maps.flatten(2).max(2)
    channels = torch.arange(maps.shape[1], device=maps.device).expand_as(places)
    if k is not None:
        channels = values.sort(descending=True, stable=True).indices[:, :k]
        places = places.gather(1, channels)
    return _units(channels, places, maps.shape[3])


def _units(channels: Tensor, places: Tensor, width: int) -> Tensor:
    return torch.stack([channels, places // width, places % width], dim=-1)


def _require(k: int, candidates: int, layer: str, of: str) -> None:
    if k > candidates:
        raise ValueError(f"k is {k}, but layer {layer!r} has only {candidates} {of}")


@dataclass(frozen=True)
class OneChoice:
    """The arguments of these names of :func:`zfcuda.deconv`."""

    channel: Channel
    position: Position
    k: int

    def __post_init__(self) -> None:
        if not is_int(self.k) or self.k < 1:
            raise ValueError(f"k must be a positive int, got {self.k!r}")
        if not isinstance(self.position, str) or self.position != "max":
            valid = isinstance(self.position, tuple | list) and len(self.position) == 2
            if not valid or not all(map(is_int, self.position)):
                raise ValueError(f"position must be 'max' or (row, column), got {self.position!r}")
            if self.channel is not None and self.k > 1:
                raise ValueError(
                    f"channel and position name one unit, but k is {self.k}; leave one of them out"
                )

    def choose(self, maps: Tensor, layer: str, images: slice, total: int) -> Tensor:
        n, count, height, width = maps.shape
        if self.channel is None:
            _require(self.k, count, layer, "maps")
            chosen = _strongest(maps, self.k)
        else:
            _require(self.k, height * width, layer, "positions in a map")
            channels = per_image(self.channel, total, count, f"channel in layer {layer!r}")
            channels = on_device(channels[images].numpy(), maps.device)[:, None]
            own = maps[torch.arange(n, device=maps.device)[:, None], channels].flatten(1)
            places = own.sort(descending=True, stable=True).indices[:, : self.k]
            chosen = _units(channels.expand(n, self.k), places, width)
        if not isinstance(self.position, str) or self.position != "max":
            row, column = self.position
            if not (0 <= row < height and 0 <= column < width):
                raise ValueError(
                    f"position must be within the {height}x{width} maps of layer {layer!r}, "
                    f"got {self.position!r}"
                )
            chosen[..., 1], chosen[..., 2] = row, column
        return _of_every_image(chosen)


@dataclass(frozen=True)
class Strongest:
    """The strongest unit of every map; with ``k`` of the k maps that hold the largest."""

    k: int | None = None

    def choose(self, maps: Tensor, layer: str, images: slice, total: int) -> Tensor:
        if self.k is not None:
            _require(self.k, maps.shape[1], layer, "maps")
        return _of_every_image(_strongest(maps, self.k))


@dataclass(frozen=True, eq=False)
class Given:
    """Units by name: [k,3], or [N,k,3] for every image its own."""

    places: Tensor
    vectors_only: bool  # only the channels were given

    def choose(self, maps: Tensor, layer: str, images: slice, total: int) -> Tensor:
        places = self.places
        if self.vectors_only and maps.shape[2:] != (1, 1):
            raise ValueError(
                f"layer {layer!r} has {maps.shape[2]}x{maps.shape[3]} maps: name a unit as "
                f"(channel, row, column), a whole map as ('map', channel); got {self._shown(0)}"
            )
        if places.dim() == 3 and len(places) != total:
            raise ValueError(f"units are given for {len(places)} images, x has {total}")
        bounds = torch.tensor(maps.shape[1:])
        whole = places[..., 1:].eq(WHOLE).all(-1)
        inside = ((places >= 0) & (places < bounds)).all(-1)
        inside |= whole & (places[..., 0] >= 0) & (places[..., 0] < bounds[0])
        if not inside.all():
            wrong = int((~inside).flatten().nonzero()[0])
            raise ValueError(
                f"units must be within the {bounds.tolist()} maps of layer {layer!r} "
                f"(channels, rows, columns), got {self._shown(wrong)}"
            )
        own = places.expand(total, -1, -1) if places.dim() == 2 else places
        return _of_every_image(own[images])

    def _shown(self, number: int) -> tuple[int, ...]:
        channel, row, column = self.places.reshape(-1, 3)[number].tolist()
        return (channel,) if self.vectors_only or row == WHOLE else (channel, row, column)


@dataclass(frozen=True, eq=False)
class Listed:
    """Units int64 [P,4], (image, channel, row, column), all on the maps, images ascending."""

    units: Tensor

    def choose(self, maps: Tensor, layer: str, images: slice, total: int) -> Tensor:
        image = self.units[:, 0]
        own = self.units[(image >= images.start) & (image < images.stop)]
        return own - torch.tensor([images.start, 0, 0, 0])


def parse(units: Units) -> Choice:
    """``units`` of :func:`zfcuda.project`."""
    if isinstance(units, str):
        top = re.fullmatch(r"top-([1-9]\d*)", units)
        if units != "strongest" and not top:
            raise ValueError(f"units must be 'strongest' or as 'top-9', got {units!r}")
        return Strongest(int(top[1]) if top else None)
    if isinstance(units, tuple) and len(units) == 2 and isinstance(units[0], str):
        kind, value = units
        if kind == "top" and is_int(value) and value > 0:
            return Strongest(int(value))
        channels = [value] if is_int(value) else value
        several = isinstance(channels, list | tuple | range) and len(channels) > 0
        if kind == "map" and several and all(map(is_int, channels)):
            return Given(torch.tensor([(c, WHOLE, WHOLE) for c in channels]), False)
        raise ValueError(f"units must be ('top', k) or ('map', channel or channels), got {units!r}")
    if is_int(units) or (isinstance(units, tuple) and units and all(map(is_int, units))):
        units = [units]  # a tuple is one unit, a list several
    places = as_ints(units)
    if places is not None and places.dim() == 1:
        places = places[:, None]
    shaped = places is not None and places.dim() in (2, 3) and places.shape[-1] in (1, 3)
    if not shaped or not places.numel():
        raise ValueError(
            "units must be (channel, row, column), (channel,) in a layer of vectors, or a list of "
            f"these (or one list for each image, all of one length), got {units!r}"
        )
    places = places.cpu()
    vectors = places.shape[-1] == 1
    if bool((places < 0).any()):
        raise ValueError(f"units must not be negative, got {units!r}")
    if vectors:
        places = torch.cat([places, torch.zeros_like(places).repeat_interleave(2, -1)], -1)
    return Given(places, vectors)


@dataclass(frozen=True, eq=False)
class Carried:
    """P units of one layer, carried down to their images.

    Attributes:
        units: int64 [P,4], (image, channel, row, column), on the CPU.
        activations: [P], their values.
        projected: what arrived at the images, of disjoint sets of units; of some maybe nothing.
        size: of the layer, (maps, rows, columns).
    """

    units: Tensor
    activations: Tensor
    projected: list[Windows]
    size: tuple[int, ...]

    @classmethod
    def of(cls, maps: Tensor, units: Tensor, projected: list[Windows], images: slice) -> Self:
        """The ``units`` of a batch of images, of which the layer has these ``maps`` [n,C,h,w]."""
        own = units + torch.tensor([images.start, 0, 0, 0])
        return cls(own, activations_of(maps, units), projected, tuple(maps.shape[1:]))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Those of all batches of images."""
        units = torch.cat([part.units for part in parts])
        values = concatenated([part.activations for part in parts])
        starts = np.cumsum([0, *(len(part.units) for part in parts)])
        projected = [
            replace(one, units=one.units + start)
            for part, start in zip(parts, starts, strict=False)
            for one in part.projected
        ]
        return cls(units, values, projected, parts[0].size)


Seed = Literal["activation"] | float
Overlap = Literal["sum", "overwrite"]
Rule = Literal["deconv", "gradient"]
Norm = Literal["identity", "gradient"]


@dataclass(frozen=True)
class SeededManner(Manner):
    """How signals begin and go down; the arguments of :func:`zfcuda.deconv` of these names.

    Raises:
        ValueError: an argument that needs no model to be wrong.
    """

    seed: Seed = "activation"

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

    def rules(self, measure: bool) -> Rules:
        """The rules, as autograd gets them."""
        if self.rule == "gradient":
            return gradient_rules(measure)
        return deconvnet_rules(self.overlap, self.norm, measure)
