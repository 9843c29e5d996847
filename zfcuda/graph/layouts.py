"""Maps in other layouts: channels last, or with rows and columns in one axis of tokens.

A network that works in such a layout adds and joins values that are no maps [n,C,h,w], but hold
just the numbers of one. They are put into that form, where cones understand the call, and back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from zfcuda.graph.axes import Axes, Factor, Sizes, axes_of_maps, channels_in, size_of

_KEEPING = ("permute", "transpose", "view", "unsqueeze", "squeeze", "clone", "from_map")


@dataclass(frozen=True)
class Layout:
    """How a value of these axes holds the numbers of maps.

    Attributes:
        axes: among them images, rows and columns, each once.
        grid: how many rows and columns.
    """

    axes: Axes
    grid: tuple[int, int]

    @classmethod
    def of(cls, axes: Axes | None, grid: tuple[int, ...] | None) -> Layout | None:
        """None where the axes are not known, or not those of maps."""
        if axes is None or grid is None or len(grid) != 2:
            return None
        named = sorted(f for axis in axes for f in axis if isinstance(f, str))
        return cls(axes, (grid[0], grid[1])) if named == ["h", "n", "w"] else None

    @property
    def channels(self) -> int:
        return math.prod(f for f in self._factors if isinstance(f, int))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image's maps."""
        return (self.channels, *self.grid)

    @property
    def is_of_maps(self) -> bool:
        return self.axes == axes_of_maps(self.channels)

    @property
    def _factors(self) -> list[Factor]:
        return [f for axis in self.axes for f in axis]

    def joins_channels(self, dim: int, joined: Layout) -> bool:
        """Whether values of these axes, one behind the other along an axis, are the ``joined`` one
        with their maps one behind the other."""
        dim %= len(self.axes)
        alike = len(self.axes) == len(joined.axes) and self.grid == joined.grid
        others = [at for at in range(len(self.axes)) if at != dim]
        return (
            alike
            and channels_in(self.axes[dim])
            and keeps_order(self.axes)
            and all(self.axes[at] == joined.axes[at] for at in others)
        )

    def leaves_channels(self, dims: object) -> bool:
        """Whether what is left without these axes is [n,C]."""
        dims = [dims] if isinstance(dims, int) else dims
        told = isinstance(dims, tuple | list) and all(type(d) is int for d in dims)
        if not told or not keeps_order(self.axes):
            return False
        gone = {d % len(self.axes) for d in dims}
        left = [axis for at, axis in enumerate(self.axes) if at not in gone]
        cut = sorted(f for at in gone for f in self.axes[at] if isinstance(f, str))
        return cut == ["h", "w"] and left == [("n",), (self.channels,)]

    def to_map(self, x: Tensor, sizes: Sizes | None = None) -> Tensor:
        """The maps [n,C,h,w]; ``sizes``: of their images, rows and columns, if other ones."""
        sizes = sizes or self._of_images(x)
        apart = x.reshape([_size(f, sizes) for f in self._factors])
        moved = apart.permute(self._order)
        return moved.reshape(sizes["n"], self.channels, sizes["h"], sizes["w"])

    def from_map(self, x: Tensor, _: Sizes | None = None) -> Tensor:
        """The value in its own layout."""
        sizes = {"n": x.shape[0], "h": x.shape[2], "w": x.shape[3]}
        factors = self._factors
        apart = x.reshape([_size(factors[at], sizes) for at in self._order])
        back = sorted(range(len(factors)), key=self._order.__getitem__)
        return apart.permute(back).reshape([size_of(axis, sizes) for axis in self.axes])

    @property
    def _order(self) -> list[int]:
        """The factors in the order of maps."""
        factors = self._factors
        channels = [at for at, f in enumerate(factors) if isinstance(f, int)]
        return [factors.index("n"), *channels, factors.index("h"), factors.index("w")]

    def _of_images(self, x: Tensor) -> Sizes:
        height, width = self.grid
        return {"n": x.numel() // math.prod(self.shape), "h": height, "w": width}


def _size(factor: Factor, sizes: Sizes) -> int:
    return sizes[factor] if isinstance(factor, str) else factor


def keeps_channels(target: str, axes: Sequence[Axes | None]) -> bool:
    """Whether a call of this name, between values of these axes, moves whole axes only: channels
    stay in their order, and every number stays with its pixel."""
    if target not in _KEEPING or any(one is None for one in axes):
        return False
    return all(keeps_order(one) for one in axes)


def keeps_order(axes: Axes) -> bool:
    """Whether all channels are one axis, so that their order is known."""
    return sum(isinstance(f, int) for axis in axes for f in axis) <= 1
