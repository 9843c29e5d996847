"""What is asked for: which units, and how their signals go down."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from zfcuda.cones.descent import Projected
from zfcuda.cones.observing import Manner
from zfcuda.inference.checks import holds_ints, is_int, per_image
from zfcuda.inference.deconvnet_rules import Rules, deconvnet_rules, gradient_rules

Channel = int | Sequence[int] | Tensor | None
Position = Literal["max"] | tuple[int, int]
Units = str | int | tuple[Any, ...] | Sequence[Any] | Tensor

WHOLE = -1


class Choice(Protocol):
    """A rule by which units are chosen."""

    def choose(self, maps: Tensor, layer: str, images: slice, total: int) -> Tensor:
        """The units int64 [n,k,3] among the layer's ``maps`` [n,C,h,w] of these ``images`` out of
        ``total``."""


def activations_of(maps: Tensor, places: Tensor) -> Tensor:
    """The units' values [n,k]; of a whole map the largest."""
    image = torch.arange(len(maps), device=maps.device)[:, None]
    channel, row, column = places.unbind(-1)
    values = maps[image, channel, row, column]
    whole = row == WHOLE
    if whole.any():
        values = torch.where(whole, maps.amax((2, 3)).gather(1, channel), values)
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
            channels = channels[images].to(maps.device)[:, None]
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
        return chosen


@dataclass(frozen=True)
class Strongest:
    """The strongest unit of every map; with ``k`` of the k maps that hold the largest."""

    k: int | None = None

    def choose(self, maps: Tensor, layer: str, images: slice, total: int) -> Tensor:
        if self.k is not None:
            _require(self.k, maps.shape[1], layer, "maps")
        return _strongest(maps, self.k)


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
        return own[images].to(maps.device)

    def _shown(self, number: int) -> tuple[int, ...]:
        channel, row, column = self.places.reshape(-1, 3)[number].tolist()
        return (channel,) if self.vectors_only or row == WHOLE else (channel, row, column)


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
    try:
        places = units.cpu() if isinstance(units, Tensor) else torch.tensor(units)
    except (TypeError, ValueError, RuntimeError):
        places = torch.empty(0)
    if places.dim() == 1:
        places = places[:, None]
    valid = places.dim() in (2, 3) and places.numel() and places.shape[-1] in (1, 3)
    if not valid or not holds_ints(places):
        raise ValueError(
            "units must be (channel, row, column), (channel,) in a layer of vectors, or a list of "
            f"these (or one list for each image, all of one length), got {units!r}"
        )
    places = places.long()
    vectors = places.shape[-1] == 1
    if bool((places < 0).any()):
        raise ValueError(f"units must not be negative, got {units!r}")
    if vectors:
        places = torch.cat([places, torch.zeros_like(places).repeat_interleave(2, -1)], -1)
    return Given(places, vectors)


@dataclass(frozen=True, eq=False)
class Carried:
    """Units of one layer, as many of every image.

    Attributes:
        places: int64 [n,k,3], (channel, row, column).
        activations: [n,k], their values.
        projected: n*k, image by image.
        size: of the layer, (maps, rows, columns).
    """

    places: Tensor
    activations: Tensor
    projected: list[Projected]
    size: tuple[int, ...]

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Those of all batches of images, in their order."""
        return cls(
            torch.cat([part.places for part in parts]),
            torch.cat([part.activations for part in parts]),
            [projected for part in parts for projected in part.projected],
            parts[0].size,
        )


@dataclass(frozen=True, eq=False)
class CarriedListed:
    """P units of one layer, of any images, filled in as batches of images are done.

    Attributes:
        activations: [P], their values.
        projected: P of them.
    """

    activations: Tensor
    projected: list[Projected]

    @classmethod
    def none_yet(cls, x: Tensor, count: int) -> Self:
        """Room for ``count`` units of the images ``x`` [N,C,H,W]."""
        return cls(x.new_zeros(count), [nowhere(x, x.shape[1])] * count)

    def fill(
        self, numbers: np.ndarray, activations: Tensor, projected: Sequence[Projected]
    ) -> None:
        """Set the units with these ``numbers``, int64 [p]."""
        self.activations[numbers] = activations
        for number, one in zip(numbers, projected, strict=True):
            self.projected[number] = one


def nowhere(like: Tensor, channels: int) -> Projected:
    """A unit that depends on nothing: a patch [channels,0,0] of ``like``'s dtype and device."""
    return Projected((0, 0, 0, 0), like.new_empty(channels, 0, 0))


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
