"""The k strongest activations of a layer's maps so far, of all layers, and of which maps units
are projected."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from zfcuda.inference.checks import concatenated, is_int
from zfcuda.ops.windows import on_host
from zfcuda.storage.files import write_tensors
from zfcuda.storage.identity import tensor_digest


@dataclass(frozen=True, eq=False)
class Top:
    """The k strongest activations of each of a layer's C maps, at most one an image.

    Larger ones come first, of equal ones that of the earlier image; so it does not matter in which
    order images come, nor in which parts they are looked through before the parts are merged.

    Attributes:
        values: [C,k], descending; -inf where there is none.
        numbers: int64 [C,k], of the images; ascending among equal values; -1 where there is none.
        places: int64 [C,k], on the map in raster order; -1 where there is none.
        undefined: int64 [], number of images with a NaN.
        size: (height, width) of the maps.
    """

    values: Tensor
    numbers: Tensor
    places: Tensor
    undefined: Tensor
    size: tuple[int, int]

    @classmethod
    def none(cls, values: Tensor, k: int, size: tuple[int, int]) -> Self:
        """Of no image yet; ``values`` [n,C] as :meth:`offer` takes them."""
        numbers = torch.full((values.shape[1], k), -1, device=values.device)
        nothing = torch.full(numbers.shape, -torch.inf, dtype=values.dtype, device=values.device)
        return cls(nothing, numbers, numbers.clone(), numbers.new_zeros(()), size)

    def offer(
        self, values: Tensor, places: Tensor, first: int, left_out: Tensor | None = None
    ) -> None:
        """Take in the largest activations of n images from number ``first`` on, all of them later
        than those before.

        Args:
            values, places: [n,C], as :func:`zfcuda.ops.spatial_max` gives them.
            left_out: bool [n], images that do not count.
        """
        undefined = out = values.isnan()
        if left_out is not None:
            out = undefined | left_out[:, None]
            undefined = undefined & ~left_out[:, None]
        self.undefined.add_(undefined.any(1).sum())
        numbers = torch.arange(first, first + len(values), device=values.device)
        rows = slice(None)
        # On a GPU, asking what is new would take longer than sorting: it would be waited for.
        if values.device.type == "cpu":
            new = values > self.values[:, -1]  # no NaN is
            if left_out is not None:
                new &= ~out
            images, rows = new.any(1).nonzero()[:, 0], new.any(0).nonzero()[:, 0]
            if not len(rows):
                return
            values, places, out = (one[images][:, rows] for one in (values, places, out))
            numbers = numbers[images]
        self._merge(rows, values.masked_fill(out, -torch.inf).T, numbers, places.T)

    def _merge(self, rows: slice | Tensor, values: Tensor, numbers: Tensor, places: Tensor) -> None:
        """Take in ``values`` and ``places`` [R,n] of later images, ``numbers`` [n], into these
        maps."""
        own = [one[rows] for one in self._columns()]
        later = (values, numbers.expand_as(places), places)
        # Stable: of equal values the earlier image stays in front.
        merged = _strongest(
            [concatenated(pair, 1) for pair in zip(own, later, strict=True)], own[0]
        )
        for one, new in zip(self._columns(), merged, strict=True):
            one[rows] = new

    def merged(self, other: Top) -> Self:
        """Of the images of both, whichever came first; no image may be in both."""
        pairs = zip(self._columns(), other._columns(), strict=True)
        both = [concatenated(pair, 1) for pair in pairs]
        order = both[1].argsort(dim=1, stable=True)  # by image, before values decide
        values, numbers, places = _strongest([one.gather(1, order) for one in both], self.values)
        return type(self)(values, numbers, places, self.undefined + other.undefined, self.size)

    def _columns(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.values, self.numbers, self.places

    def tensors(self) -> dict[str, Tensor]:
        """All of it, by name."""
        names = ("values", "numbers", "places", "undefined")
        return {name: getattr(self, name) for name in names}

    def like(self, tensors: Mapping[str, Tensor]) -> Self:
        """Of maps like these, from :meth:`tensors`.

        Raises:
            ValueError: a tensor has another shape or dtype than this one's.
        """
        for name, own in self.tensors().items():
            other = tensors.get(name)
            if other is None or other.shape != own.shape or other.dtype != own.dtype:
                got = None if other is None else (list(other.shape), other.dtype)
                raise ValueError(f"{name}: expected {list(own.shape)} {own.dtype}, got {got}")
        own = {name: tensors[name] for name in self.tensors()}
        return replace(self, **own).to(self.values.device)

    def to(self, device: torch.device | str) -> Self:
        """The same on a device."""
        return replace(self, **{name: own.to(device) for name, own in self.tensors().items()})

    @property
    def positions(self) -> Tensor:
        """int64 [C,k,2], (row, column); 0 where there is none."""
        places = self.places.clamp_min(0)
        return torch.stack([places // self.size[1], places % self.size[1]], -1)


def on_cpu(tops: Mapping[str, Top]) -> dict[str, Top]:
    """The same there; a GPU is waited for once."""
    told = iter(on_host([tensor for top in tops.values() for tensor in top.tensors().values()]))
    return {
        name: replace(top, **{part: next(told) for part in top.tensors()})
        for name, top in tops.items()
    }


def _strongest(columns: list[Tensor], like: Tensor) -> list[Tensor]:
    """The k first by value of (values, numbers, places); without number and place where there is
    none."""
    order = columns[0].sort(dim=1, descending=True, stable=True).indices[:, : like.shape[1]]
    values, numbers, places = (one.gather(1, order) for one in columns)
    none = values.isneginf()
    return [values, numbers.masked_fill(none, -1), places.masked_fill(none, -1)]


@dataclass(frozen=True, eq=False)
class State:
    """Blocks of images that were looked through.

    Attributes:
        tops: by layer, the strongest activations there.
        done: bool [B], which of all blocks these are.
        problems: what is wrong with images that could not be read, by number.
    """

    tops: Mapping[str, Top]
    done: Tensor
    problems: dict[int, str] = field(default_factory=dict)

    def merged(self, other: State) -> State:
        """The blocks of both; none may be in both."""
        tops = {name: top.merged(other.tops[name]) for name, top in self.tops.items()}
        return State(tops, self.done | other.done, self.problems | other.problems)

    def to(self, device: torch.device | str) -> State:
        """The same, activations on a device."""
        if torch.device(device).type == "cpu":
            return replace(self, tops=on_cpu(self.tops))
        return replace(self, tops={name: top.to(device) for name, top in self.tops.items()})

    def write(self, path: Path, settings: str, made_of: Sequence[str]) -> None:
        """To a file, with the digest of the settings and the names of the files that it is made
        of."""
        tensors = {
            f"{part}/{index}": tensor
            for index, top in enumerate(on_cpu(self.tops).values())
            for part, tensor in top.tensors().items()
        }
        tensors["done"] = torch.from_numpy(np.packbits(self.done.numpy()))
        about = {
            "settings": settings,
            "problems": json.dumps(self.problems),
            "made_of": json.dumps(made_of),
        }
        write_tensors(path, tensors, {**about, "sha256": _digest(tensors, about)})

    @classmethod
    def read(cls, path: Path, settings: str, like: State) -> tuple[State, list[str]]:
        """From a file; ``like`` has the shapes. And the names of the files that it is made of.

        Raises:
            ValueError, KeyError, SafetensorError: it is damaged, or of other settings.
            OSError: there is no such file.
        """
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        # One of 0.1.0 has no checksum.
        if about.keys() != _TEXTS and about.get("sha256") != _digest(tensors, about):
            raise ValueError("it is damaged")
        if about["settings"] != settings:
            raise ValueError("it is of another run")
        tops = {
            name: top.like({part: tensors[f"{part}/{index}"] for part in top.tensors()})
            for index, (name, top) in enumerate(like.tops.items())
        }
        bits = np.unpackbits(tensors["done"].numpy(), count=len(like.done))
        problems = {int(number): str(t) for number, t in json.loads(about["problems"]).items()}
        state = cls(tops, torch.from_numpy(bits).bool(), problems)
        return state, [str(name) for name in json.loads(about["made_of"])]


_TEXTS = {"settings", "problems", "made_of"}  # of a state, beside its checksum


def _digest(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """sha256 of a state: safetensors has no checksum of its own."""
    texts = json.dumps({name: about[name] for name in sorted(_TEXTS)})
    digest = hashlib.sha256(texts.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensor_digest(tensors[name])}".encode())
    return digest.hexdigest()


Maps = int | str | Sequence[int] | Mapping[str, Any]


def chosen(maps: Maps, layer: str, top: Top) -> Tensor:
    """The channels to project, int64 [M], ascending."""
    if isinstance(maps, Mapping):
        if layer not in maps:
            raise ValueError(f"maps name the layers {list(maps)}, but not {layer!r}")
        return chosen(maps[layer], layer, top)
    total = len(top.values)
    if isinstance(maps, str) and maps == "all":
        return torch.arange(total)
    if is_int(maps) and maps >= 0:
        return _spread(top.values[:, 0].cpu(), int(maps))
    channels = sorted(set(maps)) if isinstance(maps, Sequence | Tensor) and maps != "" else [-1]
    if not all(is_int(channel) and 0 <= channel < total for channel in channels):
        raise ValueError(
            f"maps must be a number of maps, 'all', or channels between 0 and {total - 1} of layer "
            f"{layer!r}, got {maps!r}"
        )
    return torch.tensor(channels, dtype=torch.int64)


def _spread(strongest: Tensor, wanted: int) -> Tensor:
    """So many channels, evenly spread over those that respond; over all if none does."""
    alive = (strongest > 0).nonzero()[:, 0]
    if not len(alive):
        alive = torch.arange(len(strongest))
    wanted = min(wanted, len(alive))
    # The middle of each of as many equal stretches.
    return alive[(torch.arange(wanted) * 2 + 1) * len(alive) // (2 * max(1, wanted))]


def units_of(top: Top, channels: Tensor) -> Tensor:
    """The units to project, int64 [M*k,4], (image number, channel, row, column); -1 as number
    where there is none."""
    own = channels.to(top.numbers.device)
    numbers, positions = top.numbers[own], top.positions[own]
    each = own[:, None].expand_as(numbers)
    return torch.cat([torch.stack([numbers, each], -1), positions], -1).flatten(0, 1).cpu()
