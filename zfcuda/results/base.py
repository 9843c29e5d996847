"""What all results have in common: they can be saved, loaded, drawn and told in short."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import io
import json
import math
import os
import types
import zipfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import (
    IO,
    TYPE_CHECKING,
    Any,
    Literal,
    Self,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np
import torch
from torch import Tensor

from zfcuda.storage.files import atomic_path, checksum

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def in_short(value: Any) -> str:
    """``repr(value)`` with type and shape in the place of a tensor, and of long lists the length
    only."""
    if isinstance(value, Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        return f"{kind} {list(value.shape)}" if value.dim() else repr(value.item())
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {in_short(item)}" for key, item in value.items()) + "}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.repr]
        fields = (f"{name}={in_short(getattr(value, name))}" for name in names)
        return f"{type(value).__name__}({', '.join(fields)})"
    if isinstance(value, tuple | list) and len(value) > 8:
        return f"{len(value)} items"
    return repr(value)


_FORMAT = 1  # of the files; raise it when an older reader would misread what is written


def pair(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The npz and the JSON file; ``path`` may be their common name or either of them."""
    path = Path(path)
    name = path.stem if path.suffix in (".npz", ".json") else path.name
    return path.with_name(f"{name}.npz"), path.with_name(f"{name}.json")


def write(
    path: str | os.PathLike[str],
    kind: str,
    settings: Any,
    arrays: Mapping[str, np.ndarray],
    about: Mapping[str, Any],
) -> None:
    """Write a result of this ``kind``, the arrays first; each file appears whole or not at all.

    Raises:
        OSError: the folder cannot be written.
        ValueError: ``settings`` are no strict JSON.
    """
    npz, header_path = pair(path)
    with atomic_path(npz) as temporary:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)  # projections are mostly zeros
        digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
    header = {
        "kind": kind,
        "format": _FORMAT,
        "zfcuda": _version(),
        "arrays": {"file": npz.name, "sha256": digest},
        "settings": settings,
        "settings_sha256": checksum(settings),
        **about,
    }
    with atomic_path(header_path) as temporary:
        temporary.write_text(json.dumps(header, indent=1, allow_nan=False), encoding="utf-8")


def read(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], bytes]:
    """The settings, and the checked content of the npz file.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: not of this ``kind``, of another format, damaged, or not a pair.
    """
    npz, header_path = pair(path)
    for file in (header_path, npz):
        if file.exists() and not file.is_file():
            raise ValueError(f"{file} is no file: expected those of a zfcuda result")
    text, data = header_path.read_bytes(), npz.read_bytes()
    try:
        header = json.loads(text.decode("utf-8"), parse_constant=_refused)
        found, version = header["kind"], header["format"]
        digest, settings = header["arrays"]["sha256"], header["settings"]
        said = header.get("settings_sha256")  # not in files of 0.1.0
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{header_path} is not the settings file of a zfcuda result") from error
    if found != kind:
        raise ValueError(f"{header_path} holds a {found}, not a {kind}")
    if version != _FORMAT:
        raise ValueError(f"{header_path} has file format {version!r}, this zfcuda reads {_FORMAT}")
    if said is not None and said != checksum(settings):
        raise ValueError(f"{header_path} is damaged: its settings are not what was written")
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(f"{npz} is damaged or was not written together with {header_path}")
    return settings, data


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON's")


def _version() -> str:
    try:
        return importlib.metadata.version("zfcuda")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        return "unknown"


def expect_shape(name: str, tensor: Tensor, *shape: int | None) -> None:
    """Raise unless ``tensor``, called ``name``, has this shape (None: any length).

    Raises:
        ValueError: it has another; both are named.
    """
    fits = tensor.dim() == len(shape) and all(
        wanted is None or length == wanted
        for length, wanted in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("*" if length is None else str(length) for length in shape)
        raise ValueError(f"{name} must have shape [{wanted}], got {list(tensor.shape)}")


def expect_types(result: Any) -> None:
    """Raise unless the fields of a dataclass, and of those in it, are what they are declared to be.

    Raises:
        ValueError: one is not; it is named.
    """
    hints = get_type_hints(type(result))
    for field in dataclasses.fields(result):
        value, hint = getattr(result, field.name), hints[field.name]
        if not _is(value, hint):
            wanted = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
            raise ValueError(f"its {field.name} is of another type than {wanted}")


def _is(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_is(value, one) for one in arguments)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin is dict:
        of_name, of_item = arguments
        return isinstance(value, dict) and all(
            _is(name, of_name) and _is(item, of_item) for name, item in value.items()
        )
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        each = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        return len(value) == len(each) and all(map(_is, value, each))
    if dataclasses.is_dataclass(hint) and isinstance(value, hint):
        expect_types(value)
        return True
    wanted = (int, float) if hint is float else hint  # JSON's 1.0 may have been written as 1
    return isinstance(value, wanted) and (hint is bool or not isinstance(value, bool))


_DEFLATED = 1032  # bytes that a byte of deflate's can stand for at most
_PIECE = 1 << 20


def pack(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """``value`` as strict JSON; its tensors go to ``arrays``, under names that begin with ``name``,
    and are referred to by these."""
    if isinstance(value, Tensor):
        arrays[name] = _to_array(value)
        dtype = str(value.dtype).removeprefix("torch.")
        return {"array": name, "dtype": dtype, "shape": list(value.shape)}
    if dataclasses.is_dataclass(value):
        return {
            field.name: pack(getattr(value, field.name), f"{name}{field.name}", arrays)
            for field in dataclasses.fields(value)
        }
    if isinstance(value, dict):
        return {key: pack(item, f"{name}.{key}.", arrays) for key, item in value.items()}
    if isinstance(value, tuple):
        return [pack(item, f"{name}.{i}", arrays) for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):  # strict JSON has no NaN
        return {"float": str(value)}
    return value


class Arrays:
    """The arrays in the content of an npz file, each read when it is asked for by the type and
    shape that the settings have for it: memory is taken for what both agree about.

    Raises:
        ValueError: entries that claim more than compression can give, or that overlap.
    """

    def __init__(self, data: bytes) -> None:
        self._archive = zipfile.ZipFile(io.BytesIO(data))
        entries = self._archive.infolist()
        packed = sum(entry.compress_size for entry in entries)
        if packed > len(data) or any(_impossible(entry) for entry in entries):
            raise ValueError(f"its arrays claim more than its {len(data):,} bytes can hold")

    def read(self, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """An array of this type and shape.

        Raises:
            KeyError: there is none of this name.
            ValueError: it is of another type or shape, or its bytes are not as many.
        """
        with self._archive.open(f"{name}.npy") as stream:
            form, fortran = _header(stream)
            if form != (dtype, shape):
                raise ValueError(
                    f"array {name!r} should be {dtype} {list(shape)}, got {form[0]} {list(form[1])}"
                )
            size = math.prod(shape) * dtype.itemsize
            if size > self._archive.getinfo(f"{name}.npy").file_size:
                raise ValueError(f"array {name!r} {list(shape)} is cut short")
            content = np.empty(size, np.uint8)
            done = 0
            while done < size and (piece := stream.read(min(_PIECE, size - done))):
                content[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
                done += len(piece)
            if done < size or stream.read(1):  # at its end the checksum is compared
                raise ValueError(f"array {name!r} {list(shape)} has another length than it says")
        return content.view(dtype).reshape(shape, order="F" if fortran else "C")


def _impossible(entry: zipfile.ZipInfo) -> bool:
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return True
    return entry.file_size > _DEFLATED * entry.compress_size + _PIECE


def _header(stream: IO[bytes]) -> tuple[tuple[np.dtype, tuple[int, ...]], bool]:
    """Type and shape of the array that follows; whether its columns come first."""
    if np.lib.format.read_magic(stream) == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    else:  # what NumPy writes for the longest headers
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    return (dtype, shape), fortran


def unpack(value: Any, arrays: Arrays) -> Any:
    """What :func:`pack` was given; of dataclasses their fields as a dict.

    Raises:
        KeyError, TypeError, ValueError: ``value`` and ``arrays`` do not belong together.
    """
    if isinstance(value, list):
        return tuple(unpack(item, arrays) for item in value)
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("float"), str):
        return float(value["float"])
    if isinstance(value.get("array"), str):
        return _to_tensor(value, arrays)
    return {key: unpack(item, arrays) for key, item in value.items()}


def _to_array(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:  # NumPy has none: keep the bits
        tensor = tensor.view(torch.int16)
    return tensor.numpy()


def _to_tensor(packed: Mapping[str, Any], arrays: Arrays) -> Tensor:
    name, dtype, shape = packed["array"], str(packed["dtype"]), packed["shape"]
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"array {name!r} has no proper shape: {shape!r}")
    if not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ValueError(f"array {name!r} is of no type of numbers: {dtype!r}")
    # NumPy has no bfloat16: its bits were kept.
    stored = np.dtype("int16" if dtype == "bfloat16" else dtype)
    tensor = torch.from_numpy(arrays.read(name, stored, tuple(shape)))
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor


Outputs = Literal["logits", "probabilities", "logit", "probability", "value"]
_Z = 1.959963984540054  # of the normal distribution 95 % lie within so many deviations
OUTPUTS: tuple[Outputs, ...] = get_args(Outputs)
_OF_ONE = ("logit", "probability")  # of networks with one output only
_SENTENCES = {
    "logits": "",
    "probabilities": " Probabilities are the network's own: its last step makes them.",
    "logit": " The probability is the sigmoid of the network's one output.",
    "probability": " The probability is the network's own: its one output is one.",
    "value": " Shown is what the network answers, a value and no probability.",
}


def check_outputs(outputs: object, count: int | None = None) -> None:
    """Raise unless ``outputs`` is one of the kinds there are, and one of ``count`` outputs.

    Raises:
        ValueError: it is not.
    """
    if outputs not in OUTPUTS:
        shown = ", ".join(map(repr, OUTPUTS))
        raise ValueError(f"outputs must be one of {shown}, got {outputs!r}")
    if outputs in _OF_ONE and count not in (None, 1):
        raise ValueError(
            f"outputs={outputs!r} is for networks with one output, this one has {count}: expected "
            "'logits' or 'probabilities'"
        )


def probabilities_of(answers: Tensor, outputs: Outputs) -> Tensor:
    """What a network's ``answers`` [...,K] say: the probabilities of the classes, or the values of
    a regression as they are."""
    if outputs == "logits":
        return answers.softmax(-1)
    return answers.sigmoid() if outputs == "logit" else answers


def entropy_of(probabilities: Tensor, outputs: Outputs) -> Tensor:
    """[...], nats, of ``probabilities`` [...,K]; of classes that do not exclude one another, each
    with a sigmoid of its own or a single one, the sum over all; of values NaN."""
    if outputs == "value":
        return torch.full_like(probabilities[..., 0], torch.nan)
    entropy = torch.special.entr(probabilities).sum(-1)
    if outputs != "logits" and not _are_distributions(probabilities, 1e-2):
        entropy = entropy + torch.special.entr(1 - probabilities).sum(-1)
    return entropy


def looks_like_probabilities(answers: Tensor) -> bool:
    """Whether ``answers`` [N,K], as far as they are finite, are 0 or more and sum to 1."""
    return _are_distributions(answers, 1e-4)


def _are_distributions(answers: Tensor, tolerance: float) -> bool:
    known = answers[answers.isfinite().all(-1)].double()
    sums = (known.sum(-1) - 1).abs()
    return len(known) > 0 and bool((known >= 0).all()) and bool((sums <= tolerance).all())


def answer_of(answers: Tensor, outputs: Outputs) -> Tensor:
    """int64 [...] of ``answers`` [...,K]: the most probable class; of a single probability 1 where
    it is above one half, else 0."""
    if outputs in _OF_ONE:
        return (probabilities_of(answers, outputs)[..., 0] > 0.5).long()
    return answers.argmax(-1)


def same_answers(logits: Tensor, labels: Tensor, base_logits: Tensor, outputs: Outputs) -> Tensor:
    """bool [N,P], whether ``labels``, the most probable classes of ``logits`` [N,P,K], are those of
    ``base_logits`` [N,K]; of one output, whether its probability stays on its side of one half."""
    single = base_logits.shape[1] == 1
    answers = answer_of(logits, outputs) if single else labels
    return answers == answer_of(base_logits, outputs)[:, None]


def called(outputs: Outputs, name: str) -> str:
    """What the score of the class ``name`` is called in a sentence; without a name, that of the
    network's one output."""
    if not name:
        return "the value" if outputs == "value" else "P"
    return f"the value of {name}" if outputs == "value" else f"P({name})"


def in_words(outputs: Outputs) -> str:
    """A sentence, after a space, about where the probabilities come from; empty for logits."""
    return _SENTENCES[outputs]


def of_target(scores: Tensor, target: Tensor) -> Tensor:
    """Each image's entry of ``scores`` [N,...,K] for its ``target`` int64 [N], as [N,...]."""
    index = target.view(-1, *(1,) * (scores.dim() - 1)).expand(*scores.shape[:-1], 1)
    return scores.gather(-1, index)[..., 0]


def wilson(share: Tensor | float, count: Tensor | int) -> Tensor:
    """Wilson's 95 % interval of a share, float64 [...,2], (low, high) within 0..1.

    Unlike share ± error, it is never empty: of ten right answers out of ten it says 72 to 100 %.
    Of no answers at all nothing is known: 0 to 1.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22, 209.

    Args:
        share: [...], found among ``count`` independent answers.
        count: [...] or one for all.
    """
    share, count = (torch.as_tensor(given, dtype=torch.float64) for given in (share, count))
    # Times n, so that n = 0 divides nothing by zero.
    middle = share.nan_to_num() * count + _Z**2 / 2
    half = _Z * (share.nan_to_num() * (1 - share.nan_to_num()) * count + _Z**2 / 4).sqrt()
    ends = torch.stack([middle - half, middle + half], -1) / (count + _Z**2)[..., None]
    return ends.clamp(0, 1)


def differ(first: Tensor | float, second: Tensor | float, count: Tensor | int) -> bool:
    """Whether two shares, each of ``count`` answers, differ by more than chance explains: 0 lies
    outside Newcombe's 95 % interval of their difference, which is made of Wilson's two.

    Source: Newcombe 1998, Statistics in Medicine 17, 873 (method 10). Of answers to the same
    questions, which go together, it says so later rather than sooner.
    """
    low, high = sorted((float(first), float(second)))
    below, above = wilson(low, count)[1] - low, high - wilson(high, count)[0]
    return high - low > float((below**2 + above**2).sqrt())


def with_interval(share: Tensor | float, ends: Tensor) -> str:
    """A share with its interval (low, high), as "91.2% (90.6 to 91.8)"."""
    return f"{float(share):.1%} ({100 * float(ends[0]):.1f} to {100 * float(ends[1]):.1f})"


class Result:
    """Saving, loading and drawing; for frozen dataclasses of tensors, numbers, strings, and tuples,
    dicts and dataclasses of these."""

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
        write(path, type(self).__name__, settings, arrays, about or {})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read back what :meth:`save` wrote; nothing is unpickled.

        Raises:
            FileNotFoundError: one of the two files is missing.
            ValueError: not files of this kind of result, of a newer format, damaged, or not a pair.
        """
        settings, data = read(path, cls.__name__)
        try:
            result = cls._restore(unpack(settings, Arrays(data)))
            expect_types(result)
        except Exception as error:  # what a damaged file says can go wrong in any way it likes
            npz, _ = pair(path)
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
        figures = import_module("zfcuda.figures")  # by name: results know nothing of figures
        return figures.show_with_pyplot(figures.draw(self, **kwargs))
