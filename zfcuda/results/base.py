"""What all results have in common: they can be saved, loaded, drawn and told in short."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from zfcuda.results import files
from zfcuda.results.checks import expect_types
from zfcuda.results.in_short import in_short
from zfcuda.results.packing import Arrays, pack, unpack

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Result:
    """Saving, loading and drawing; for frozen dataclasses of tensors, numbers, strings, and tuples,
    dicts and dataclasses of these."""

    _figure: ClassVar[str]  # the function of zfcuda.figures that draws it

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__repr__ = Result.__repr__  # or @dataclass writes one that prints whole tensors

    def save(self, path: str | os.PathLike[str], about: Mapping[str, Any] | None = None) -> None:
        """Write ``path.npz`` and ``path.json``; each appears whole or not at all.

        ``about`` adds entries to the JSON file that :meth:`load` leaves alone, such as where the
        result comes from.

        Raises:
            OSError: the folder cannot be written.
        """
        arrays: dict[str, np.ndarray] = {}
        settings = pack(self, "", arrays)
        files.write(path, type(self).__name__, settings, arrays, about or {})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read back what :meth:`save` wrote; nothing is unpickled.

        Raises:
            FileNotFoundError: one of the two files is missing.
            ValueError: not files of this kind of result, of a newer format, damaged, or not a pair.
        """
        settings, data = files.read(path, cls.__name__)
        try:
            result = cls._restore(unpack(settings, Arrays(data)))
            expect_types(result)
        except Exception as error:  # what a damaged file says can go wrong in any way it likes
            npz, _ = files.pair(path)
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise ValueError(f"{npz} does not hold a {cls.__name__}: {reason}") from error
        return result

    @classmethod
    def _restore(cls, settings: dict[str, Any]) -> Self:
        """The result with these fields, dataclasses among which are dicts of theirs."""
        return cls(**settings)

    def __repr__(self) -> str:
        """The fields, of tensors the type and shape only."""
        return in_short(self)

    def plot(self, **kwargs: Any) -> Figure:
        """Draw the result, with the arguments of its figure function in :mod:`zfcuda.figures`
        (most take ``images``, as RGB in 0..1, ``class_names`` and ``title``): for an occlusion
        :func:`~zfcuda.figures.occlusion_row`, for projections
        :func:`~zfcuda.figures.projection_grid`, for a curve
        :func:`~zfcuda.figures.invariance_curve`.

        A notebook shows it, and so does ``pyplot.show()``; the functions themselves show
        nothing."""
        from zfcuda import figures

        return figures.show_with_pyplot(getattr(figures, self._figure)(self, **kwargs))
