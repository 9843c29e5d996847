"""What the experiments return: small frozen dataclasses of CPU tensors and the settings that made
them.

Every result can be saved, loaded back exactly and drawn. ``save`` writes two files: ``NAME.npz``
holds the arrays (readable with plain NumPy, no pickle) and ``NAME.json`` the settings and the
arrays' names. N is the number of images, K of classes, P of occluder positions, M of
transformations, V of variants.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from zfcuda._files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FORMAT = 1  # of the files; raise it when an older reader would misread what is written


def _version() -> str:
    try:
        return importlib.metadata.version("zfcuda")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        return "unknown"


def _expect(name: str, tensor: Tensor, *shape: int | None) -> None:
    """Raise unless ``tensor`` has this shape (None: any length)."""
    fits = tensor.dim() == len(shape) and all(
        wanted is None or length == wanted
        for length, wanted in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("*" if length is None else str(length) for length in shape)
        raise ValueError(f"{name} must have shape [{wanted}], got {list(tensor.shape)}")


def _pick(logits: Tensor, target: Tensor) -> Tensor:
    """Each image's target entry of ``logits`` [N,...,K] as [N,...]."""
    index = target.view(-1, *(1,) * (logits.dim() - 1)).expand(*logits.shape[:-1], 1)
    return logits.gather(-1, index)[..., 0]


# --- files ----------------------------------------------------------------------------------------


def _to_array(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:  # NumPy has none: keep the bits
        tensor = tensor.view(torch.int16)
    return tensor.numpy()


def _pack(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """``value`` as JSON; its tensors go to ``arrays`` and are referred to by name."""
    if isinstance(value, Tensor):
        arrays[name] = _to_array(value)
        dtype = str(value.dtype).removeprefix("torch.")
        return {"array": name, "dtype": dtype, "shape": list(value.shape)}
    if dataclasses.is_dataclass(value):
        return {
            field.name: _pack(getattr(value, field.name), f"{name}{field.name}", arrays)
            for field in dataclasses.fields(value)
        }
    if isinstance(value, dict):
        return {key: _pack(item, f"{name}.{key}.", arrays) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_pack(item, f"{name}.{i}", arrays) for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):  # strict JSON has no NaN
        return {"float": str(value)}
    return value


def _unpack(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, list):
        return tuple(_unpack(item, arrays) for item in value)
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("float"), str):
        return float(value["float"])
    if isinstance(value.get("array"), str):
        tensor = torch.from_numpy(arrays[value["array"]])
        if value["dtype"] == "bfloat16":
            tensor = tensor.view(torch.bfloat16)
        if str(tensor.dtype) != f"torch.{value['dtype']}" or list(tensor.shape) != value["shape"]:
            raise ValueError(
                f"array {value['array']!r} should be {value['dtype']} {value['shape']}, "
                f"got {tensor.dtype} {list(tensor.shape)}"
            )
        return tensor
    return {key: _unpack(item, arrays) for key, item in value.items()}


def _file_pair(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The two files of a result; ``path`` may be their common name or either of them."""
    path = Path(path)
    name = path.stem if path.suffix in (".npz", ".json") else path.name
    return path.with_name(f"{name}.npz"), path.with_name(f"{name}.json")


class Result:
    """Saving, loading and drawing, common to all results."""

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
        settings = _pack(self, "", arrays)
        npz, header_path = _file_pair(path)
        with atomic_path(npz) as temporary:
            with temporary.open("wb") as file:
                np.savez_compressed(file, **arrays)  # projections are mostly zeros
            digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
        header = {
            "kind": type(self).__name__,
            "format": _FORMAT,
            "zfcuda": _version(),
            "arrays": {"file": npz.name, "sha256": digest},
            "settings": settings,
            **(about or {}),
        }
        with atomic_path(header_path) as temporary:
            temporary.write_text(json.dumps(header, indent=1, allow_nan=False), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read back what :meth:`save` wrote; nothing is unpickled.

        Raises:
            FileNotFoundError: one of the two files is missing.
            ValueError: not files of this kind of result, of a newer format, damaged, or not a pair.
        """
        npz, header_path = _file_pair(path)
        text, data = header_path.read_text(encoding="utf-8"), npz.read_bytes()
        try:
            header = json.loads(text)
            kind, version = header["kind"], header["format"]
            digest, settings = header["arrays"]["sha256"], header["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{header_path} is not the settings file of a zfcuda result"
            ) from error
        if kind != cls.__name__:
            raise ValueError(f"{header_path} holds a {kind}, not a {cls.__name__}")
        if version != _FORMAT:
            raise ValueError(
                f"{header_path} has file format {version!r}, this zfcuda reads {_FORMAT}"
            )
        if hashlib.sha256(data).hexdigest() != digest:
            raise ValueError(f"{npz} is damaged or was not written together with {header_path}")
        try:
            with np.load(npz, allow_pickle=False) as file:
                arrays = dict(file)
            return cls._restore(_unpack(settings, arrays))
        except (ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
            raise ValueError(f"{npz} does not hold a {cls.__name__}: {error}") from error

    @classmethod
    def _restore(cls, settings: dict[str, Any]) -> Self:
        return cls(**settings)

    def __repr__(self) -> str:
        """The fields, of tensors the type and shape only."""
        return _in_short(self)

    def plot(self, **kwargs: Any) -> Figure:
        """Draw the result, with the arguments of its figure function in :mod:`zfcuda.figures`
        (most take ``images``, as RGB in 0..1, ``class_names`` and ``title``): for an occlusion
        :func:`~zfcuda.figures.occlusion_row`, for projections
        :func:`~zfcuda.figures.projection_grid`, for a curve
        :func:`~zfcuda.figures.invariance_curve`."""
        from zfcuda import figures

        return getattr(figures, self._figure)(self, **kwargs)


def _in_short(value: Any) -> str:
    if isinstance(value, Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        return f"{kind} {list(value.shape)}" if value.dim() else repr(value.item())
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {_in_short(item)}" for key, item in value.items()) + "}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.repr]
        fields = (f"{name}={_in_short(getattr(value, name))}" for name in names)
        return f"{type(value).__name__}({', '.join(fields)})"
    if isinstance(value, tuple | list) and len(value) > 8:
        return f"{len(value)} items"
    return repr(value)


# --- the results ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions(Result):
    """What the model says about N images.

    Attributes:
        logits: [N,K], the model's output.
    """

    logits: Tensor
    _figure = "prediction"

    def __post_init__(self) -> None:
        _expect("logits", self.logits, None, None)

    @property
    def probabilities(self) -> Tensor:
        """[N,K], the softmax of the logits."""
        return self.logits.softmax(-1)

    @property
    def entropy(self) -> Tensor:
        """[N], entropy of the probabilities in nats: 0 when certain, ln K when uniform."""
        return torch.special.entr(self.probabilities).sum(-1)

    def top(self, k: int = 5) -> tuple[Tensor, Tensor]:
        """The ``k`` most probable classes: probabilities [N,k], descending, and labels [N,k]."""
        if not 1 <= k <= self.logits.shape[1]:
            raise ValueError(f"k must be between 1 and {self.logits.shape[1]} classes, got {k}")
        probabilities, labels = self.probabilities.topk(k)
        return probabilities, labels


@dataclasses.dataclass(frozen=True, eq=False)
class Projections(Result):
    """Units of some layers projected to the input (Zeiler & Fergus 2014, section 2.1).

    Attributes:
        layers: the layers' names.
        columns: V labels, one per projected unit of each layer.
        units: per layer int64 [V,3], the unit as (channel, row, column); (channel, 0, 0) in a
            layer of vectors.
        activations: per layer [V], the units' values.
        projections: per layer [V,C,H,W], in network input space.
        images: [V,C,H,W], the network input each column belongs to.
    """

    layers: tuple[str, ...]
    columns: tuple[str, ...]
    units: dict[str, Tensor]
    activations: dict[str, Tensor]
    projections: dict[str, Tensor]
    images: Tensor
    _figure = "projection_grid"

    def __post_init__(self) -> None:
        _expect("images", self.images, len(self.columns), None, None, None)
        for layer in self.layers:
            _expect(f"units[{layer!r}]", self.units[layer], len(self.columns), 3)
            _expect(f"activations[{layer!r}]", self.activations[layer], len(self.columns))
            _expect(f"projections[{layer!r}]", self.projections[layer], *self.images.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class Patches(Result):
    """V units projected to the input, each as the patch of its image that it depends on (Zeiler &
    Fergus 2014, section 2.1).

    Outside its patch a unit's projection is zero; :meth:`full` pastes it in place.
    ``plot(preprocessing=...)``, with the network's own, draws projections and patches of the images
    in the colours that they stand for.

    Attributes:
        layers: the layers' names.
        layer: int64 [V], each unit's layer, as an index into ``layers``.
        image: int64 [V], each unit's image.
        units: int64 [V,3], (channel, row, column); row and column are 0 in a layer of vectors and
            -1 where the whole map was projected.
        activations: [V], the units' values; of a whole map the largest.
        boxes: int64 [V,4], (y0, x0, y1, x1), half open, pixels: where the patches lie.
        values: [sum of C*h*w], the patches one after the other; see :meth:`patch`.
        images: [N,C,H,W], the network input.
    """

    layers: tuple[str, ...]
    layer: Tensor
    image: Tensor
    units: Tensor
    activations: Tensor
    boxes: Tensor
    values: Tensor
    images: Tensor
    _figure = "projection_patches"

    def __post_init__(self) -> None:
        count = len(self.layer)
        _expect("layer", self.layer, None)
        _expect("image", self.image, count)
        _expect("units", self.units, count, 3)
        _expect("activations", self.activations, count)
        _expect("boxes", self.boxes, count, 4)
        _expect("images", self.images, None, None, None, None)
        _expect("values", self.values, self._starts[-1])

    def __len__(self) -> int:
        return len(self.layer)

    @functools.cached_property
    def _starts(self) -> list[int]:
        """Where each patch begins in ``values``, and where the last one ends."""
        sizes = (self.boxes[:, 2:] - self.boxes[:, :2]).prod(1) * self.images.shape[1]
        return [0, *sizes.cumsum(0).tolist()]

    def patch(self, index: int) -> Tensor:
        """One unit's patch [C,h,w], a view of ``values``."""
        index = range(len(self))[index]
        y0, x0, y1, x1 = self.boxes[index].tolist()
        flat = self.values[self._starts[index] : self._starts[index + 1]]
        return flat.view(self.images.shape[1], y1 - y0, x1 - x0)

    def of(self, layer: str, image: int | None = None) -> Tensor:
        """int64, the indices of a layer's units (in one image)."""
        if layer not in self.layers:
            raise ValueError(f"layer {layer!r} was not projected; projected: {list(self.layers)}")
        own = self.layer == self.layers.index(layer)
        return (own if image is None else own & (self.image == image)).nonzero()[:, 0]

    def full(self, indices: int | slice | Sequence[int] | Tensor | None = None) -> Tensor:
        """The projections as pictures [V,C,H,W] (all, or those of ``indices``; one index gives
        [C,H,W])."""
        one = isinstance(indices, int)
        order = torch.arange(len(self))
        chosen = order if indices is None else order[[indices] if one else indices]
        # calloc'ed: what no patch touches costs no page
        shape = (len(chosen), *self.images.shape[1:])
        pictures = torch.from_numpy(np.zeros(shape, self.values.numpy().dtype))
        boxes = self.boxes[chosen].tolist()
        for picture, index, (y0, x0, y1, x1) in zip(pictures, chosen.tolist(), boxes, strict=True):
            picture[:, y0:y1, x0:x1] = self.patch(index)
        return pictures[0] if one else pictures


@dataclasses.dataclass(frozen=True, eq=False)
class LayerSums:
    """Activity of one map of a layer under occlusion (Zeiler & Fergus 2014, figure 7b).

    Attributes:
        layer: the layer's name.
        channels: int64 [N], the map that holds the largest single activation without occluder.
        base: [N], that map's spatial sum without occluder.
        sums: [N,P], its spatial sum at every occluder position.
    """

    layer: str
    channels: Tensor
    base: Tensor
    sums: Tensor

    def __post_init__(self) -> None:
        _expect("channels", self.channels, self.sums.shape[0])
        _expect("base", self.base, self.sums.shape[0])
        _expect("sums", self.sums, None, None)


@dataclasses.dataclass(frozen=True, eq=False)
class OcclusionResult(Result):
    """The model's output at every position of an occluder (Zeiler & Fergus 2014, section 4.2).

    Attributes:
        logits: [N,P,K]; of the chosen ``classes`` only, if there are any.
        base_logits: [N,K], without occluder, always of all classes.
        target: int64 [N], the class the scores are about.
        boxes: int64 [P,4], (y0, x0, y1, x1), half open, pixels; row by row of the grid.
        grid: (rows, columns) of positions, P of them; None for positions of the caller's own.
        size, stride: (height, width) of the occluder and its steps, pixels; None likewise.
        image_size: (H, W).
        fill: what the occluder showed, in network input space: a number, [C], or [C,H,W].
        layers: for every recorded layer, its strongest map's activity.
        seconds: wall time.
        score: what :meth:`to_attribution` is made of, ``"logit"`` or ``"probability"``.
        method: how it was computed: ``"cone"``, only what an occluder can change, or ``"dense"``.
        classes: int64, the classes whose logits were kept, ascending; None for all. With them come
            ``best``, int64 [N,P], the most probable of all classes, and ``log_total``, [N,P], the
            logarithm of the sum over all classes of exp(logit).
    """

    logits: Tensor
    base_logits: Tensor
    target: Tensor
    boxes: Tensor
    grid: tuple[int, int] | None
    size: tuple[int, int] | None
    stride: tuple[int, int] | None
    image_size: tuple[int, int]
    fill: float | Tensor
    layers: dict[str, LayerSums]
    seconds: float
    score: Literal["logit", "probability"] = "logit"
    method: Literal["cone", "dense"] = "dense"
    classes: Tensor | None = None
    best: Tensor | None = None
    log_total: Tensor | None = None
    _figure = "occlusion_row"

    def __post_init__(self) -> None:
        count = self.grid[0] * self.grid[1] if self.grid else None
        _expect("logits", self.logits, None, count, None)
        n, positions, classes = self.logits.shape
        if self.classes is None:
            _expect("base_logits", self.base_logits, n, classes)
        else:
            _expect("classes", self.classes, classes)
            _expect("best", self.best, n, positions)
            _expect("log_total", self.log_total, n, positions)
        _expect("target", self.target, n)
        _expect("boxes", self.boxes, positions, 4)
        for layer, sums in self.layers.items():
            _expect(f"layers[{layer!r}].sums", sums.sums, n, positions)
        if self.score not in ("logit", "probability"):
            raise ValueError(f"score must be 'logit' or 'probability', got {self.score!r}")

    @classmethod
    def _restore(cls, settings: dict[str, Any]) -> Self:
        layers = {name: LayerSums(**sums) for name, sums in settings["layers"].items()}
        return cls(**{**settings, "layers": layers})

    @property
    def probabilities(self) -> Tensor:
        """[N,P,K], the softmax over all classes, of the classes that ``logits`` holds."""
        if self.classes is None:
            return self.logits.softmax(-1)
        return (self.logits - self.log_total[..., None]).exp()

    @property
    def labels(self) -> Tensor:
        """int64 [N,P], the most probable class at every position."""
        return self.logits.argmax(-1) if self.best is None else self.best

    @property
    def target_probability(self) -> Tensor:
        """[N,P], probability of the target class at every position."""
        return _pick(self.probabilities, self._target_column)

    @property
    def _target_column(self) -> Tensor:
        """Where ``logits`` holds the target class [N]."""
        if self.classes is None:
            return self.target
        return torch.searchsorted(self.classes, self.target)

    def _on_grid(self, values: Tensor) -> Tensor:
        if self.grid is None:
            raise ValueError(
                "positions of the caller's own form no map; use target_probability, labels and "
                "layers, or to_attribution()"
            )
        return values.view(self.grid)

    def heatmap(self, image: int = 0) -> Tensor:
        """[rows, columns], probability of the target class as a map (figure 7d)."""
        return self._on_grid(self.target_probability[image])

    def label_map(self, image: int = 0) -> Tensor:
        """int64 [rows, columns], the most probable class as a map (figure 7e)."""
        return self._on_grid(self.labels[image])

    def layer_map(self, layer: str, image: int = 0) -> Tensor:
        """[rows, columns], the spatial sum of the layer's strongest map as a map (figure 7b)."""
        if layer not in self.layers:
            raise ValueError(f"layer {layer!r} was not recorded; recorded: {sorted(self.layers)}")
        return self._on_grid(self.layers[layer].sums[image])

    def to_attribution(self) -> Tensor:
        """Captum's occlusion map [N,1,H,W]: score without minus score with occluder, averaged at
        every pixel over the positions that cover it (0 where none does, possible when the stride
        exceeds the size)."""
        scores, base = self.logits, self.base_logits
        if self.score == "probability":
            scores, base = self.probabilities, base.softmax(-1)
        drop = _pick(base, self.target)[:, None] - _pick(scores, self._target_column)
        total = torch.zeros(len(drop), *self.image_size, dtype=torch.float64)
        covering = torch.zeros(self.image_size, dtype=torch.float64)
        for p, (y0, x0, y1, x1) in enumerate(self.boxes.tolist()):
            total[:, y0:y1, x0:x1] += drop[:, p, None, None]
            covering[y0:y1, x0:x1] += 1
        return (total / covering.clamp_min(1))[:, None].to(drop.dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class InvarianceResult(Result):
    """The model's output under a family of transformations (Zeiler & Fergus 2014, section 4.1,
    figure 5).

    Attributes:
        kind: "rotation", "translation" or "scaling".
        values: [M] counter-clockwise degrees or scale factors, or [M,2] shifts (down, right) in
            pixels.
        logits: [N,M,K].
        base_logits: [N,K], of the untransformed images.
        target: int64 [N], the class the probabilities are about.
        distances: per layer [N,M], Euclidean distance of its output to the untransformed image's.
        fill: what shows outside the image, in network input space: a number or [C].
        seconds: wall time.
        norms: per layer [N], Euclidean norm of its output for the untransformed image.
    """

    kind: Literal["rotation", "translation", "scaling"]
    values: Tensor
    logits: Tensor
    base_logits: Tensor
    target: Tensor
    distances: dict[str, Tensor]
    fill: float | Tensor
    seconds: float
    norms: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    _figure = "invariance_curve"

    def __post_init__(self) -> None:
        if self.kind not in ("rotation", "translation", "scaling"):
            raise ValueError(
                f"kind must be 'rotation', 'translation' or 'scaling', got {self.kind!r}"
            )
        _expect("values", self.values, *((None, 2) if self.kind == "translation" else (None,)))
        _expect("logits", self.logits, None, len(self.values), None)
        n, count, classes = self.logits.shape
        _expect("base_logits", self.base_logits, n, classes)
        _expect("target", self.target, n)
        for layer, distances in self.distances.items():
            _expect(f"distances[{layer!r}]", distances, n, count)
        for layer, norms in self.norms.items():
            _expect(f"norms[{layer!r}]", norms, n)

    @property
    def probabilities(self) -> Tensor:
        """[N,M,K], the softmax of the logits."""
        return self.logits.softmax(-1)

    @property
    def labels(self) -> Tensor:
        """int64 [N,M], the most probable class under every transformation."""
        return self.logits.argmax(-1)

    @property
    def target_probability(self) -> Tensor:
        """[N,M], probability of the target class under every transformation."""
        return _pick(self.probabilities, self.target)

    def relative_distances(self, layer: str) -> Tensor:
        """[N,M], the layer's distances over the norm of its output for the untransformed image:
        images and layers compare, whatever the scale of their features."""
        if layer not in self.norms:
            raise ValueError(f"layer {layer!r} was not recorded; recorded: {sorted(self.norms)}")
        return self.distances[layer] / self.norms[layer][:, None]


@dataclasses.dataclass(frozen=True, eq=False)
class BackgroundResult(Result):
    """One object on its own background, on plain colours and cut out (the talk's figures 3 and 4).

    Attributes:
        variants: V names, "original" first, "cut-out" last.
        images: [V,C,H,W], the network inputs.
        logits: [V,K].
        target: the class the probabilities are about.
        projections: per layer [V,C,H,W], each variant's strongest activation of its strongest map.
        projection_change: per layer [V], norm of (projection - the original's) over norm of the
            original's.
        units: per layer int64 [V,3], the projected unit as (channel, row, column).
        activations: per layer [V], the projected unit's value.
        mask: [H,W] in 0..1, 1 on the object.
        on_object: per layer [V], the share of the projection's energy (its sum of squares) that
            lies on the object; NaN for a projection that is zero.
    """

    variants: tuple[str, ...]
    images: Tensor
    logits: Tensor
    target: int
    projections: dict[str, Tensor]
    projection_change: dict[str, Tensor]
    units: dict[str, Tensor]
    activations: dict[str, Tensor]
    mask: Tensor
    on_object: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    _figure = "background_effect"

    def __post_init__(self) -> None:
        count = len(self.variants)
        _expect("images", self.images, count, None, None, None)
        _expect("logits", self.logits, count, None)
        _expect("mask", self.mask, *self.images.shape[2:])
        for layer, projections in self.projections.items():
            _expect(f"projections[{layer!r}]", projections, *self.images.shape)
            _expect(f"projection_change[{layer!r}]", self.projection_change[layer], count)
            _expect(f"units[{layer!r}]", self.units[layer], count, 3)
            _expect(f"activations[{layer!r}]", self.activations[layer], count)
        for layer, shares in self.on_object.items():
            _expect(f"on_object[{layer!r}]", shares, count)

    @property
    def probabilities(self) -> Tensor:
        """[V,K], the softmax of the logits."""
        return self.logits.softmax(-1)

    @property
    def probability_change(self) -> Tensor:
        """[V], probability of the target class minus the original's."""
        probability = self.probabilities[:, self.target]
        return probability - probability[0]

    def top(self, k: int = 5) -> tuple[Tensor, Tensor]:
        """The ``k`` most probable classes: probabilities [V,k], descending, and labels [V,k]."""
        return Predictions(self.logits).top(k)


@dataclasses.dataclass(frozen=True, eq=False)
class InvarianceStudy(Result):
    """Several images under several families of transformations (Zeiler & Fergus 2014, figure 5).

    Attributes:
        names: N, one for each image.
        images: [N,C,H,W], the network inputs.
        layers: whose features are compared, early ones first.
        experiments: by family ("vertical translation", ...), what the model says and how far the
            features move; each of all N images.
        examples: by family [E,C,H,W], the first image under some of the transformations.
        example_values: by family [E], which ones: pixels down or right, factors, degrees.
    """

    names: tuple[str, ...]
    images: Tensor
    layers: tuple[str, ...]
    experiments: dict[str, InvarianceResult]
    examples: dict[str, Tensor]
    example_values: dict[str, Tensor]
    _figure = "invariance_study"

    def __post_init__(self) -> None:
        _expect("images", self.images, len(self.names), None, None, None)
        for family, result in self.experiments.items():
            _expect(f"experiments[{family!r}].logits", result.logits, len(self.names), None, None)
            _expect(f"examples[{family!r}]", self.examples[family], None, *self.images.shape[1:])
            _expect(
                f"example_values[{family!r}]",
                self.example_values[family],
                len(self.examples[family]),
            )
            unknown = {*self.layers} - result.distances.keys()
            if unknown:
                raise ValueError(f"experiments[{family!r}] lacks the layers {sorted(unknown)}")

    @classmethod
    def _restore(cls, settings: dict[str, Any]) -> Self:
        experiments = {
            family: InvarianceResult(**result) for family, result in settings["experiments"].items()
        }
        return cls(**{**settings, "experiments": experiments})
