"""Forward passes without gradient: images as they are, and variants of them."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from numbers import Real
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from zfcuda.inference.beside import stands_alone
from zfcuda.inference.checks import concatenated, evaluating, settings_of, to_result, to_results
from zfcuda.inference.interception import Interception, Operations, fast_forward
from zfcuda.inference.layers import feature_maps, layer_outputs
from zfcuda.results.base import Outputs, check_outputs, looks_like_probabilities
from zfcuda.storage import terminal
from zfcuda.storage.identity import precision


def memory_limit(max_memory: int | None, device: torch.device, recorded: bool = False) -> int:
    """Bytes that the activations of one batch may take: what ``max_memory`` means everywhere.

    As given; by default half of what is free on a GPU, and on a CPU a quarter of what is free, 64
    to 128 MiB (there larger batches only fault pages in). What is free changes from run to run, and
    batches with it: where the number is ``recorded``, so that a run can be resumed to the bit, the
    default is 1 GiB on a GPU, 128 MiB on a CPU.

    Raises:
        ValueError: ``max_memory`` is not a positive, finite number.
    """
    if max_memory is not None:
        number = isinstance(max_memory, Real) and not isinstance(max_memory, bool)
        if not number or not 0 < max_memory < math.inf:
            raise ValueError(f"max_memory must be a positive number of bytes, got {max_memory!r}")
        return int(max_memory)
    if recorded:
        return 2**30 if device.type == "cuda" else 2**27
    if device.type == "cuda":
        # What other passes have left in torch's cache is as free as what the driver has.
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (torch.cuda.mem_get_info(device)[0] + cached) // 2
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not every system tells
        return 2**27
    return max(2**26, min(free // 4, 2**27))


def spans(start: int, stop: int, step: int) -> Iterator[slice]:
    """Slices of at most ``step`` that cover start..stop."""
    for begin in range(start, stop, step):
        yield slice(begin, min(begin + step, stop))


def even_spans(start: int, stop: int, most: int) -> Iterator[slice]:
    """As few slices of at most ``most`` as cover start..stop, of about the same length."""
    count = max(1, math.ceil((stop - start) / most))
    return spans(start, stop, max(1, math.ceil((stop - start) / count)))


@contextmanager
def progress_bar(total: int, shown: bool, title: str) -> Iterator[Callable[[int], Any]]:
    """A function that moves a progress bar (or nothing)."""
    if not shown:
        yield lambda steps: None
        return
    with terminal.progress(total=total, desc=title, leave=False) as bar:
        yield bar.update


_SOFTMAX_OR_SIGMOID = {
    "softmax", "softmin", "specialsoftmax", "sigmoid", "hardsigmoid", "specialexpit", "expit",
}  # fmt: skip
# What no probability comes out of; the softmax of log-probabilities are the probabilities.
_SCORES = {
    "linear", "conv2d", "conv1d", "convolution", "addmm", "addbmm", "bmm", "baddbmm", "matmul",
    "mm", "rmatmul", "bilinear", "einsum", "batchnorm", "layernorm", "logsoftmax", "logsigmoid",
    "speciallogsoftmax",
}  # fmt: skip

# Of the largest value: how far another memory format's rounding may be off, by what convolutions
# round the numbers to that they multiply.
_ROUNDING = {"float32": 1e-3, "tf32": 1e-2, "float16": 1e-2, "bfloat16": 5e-2}
# Images from which on another memory format is worth a pass of the first in both.
_WORTH = 8
# Larger blocks glibc's malloc takes from the system, and their pages are faulted in, every time.
_REUSED = 2**25

# By model, for which images its answers in channels_last were those in contiguous memory.
_agreed: WeakKeyDictionary[nn.Module, set[Any]] = WeakKeyDictionary()

Receive = Callable[[str, Tensor], Any]  # (layer, maps [n,C,H,W]) -> what is kept of them


def fitting(calls: Interception, image: Tensor, limit: int) -> int:
    """How many images fit in ``limit`` bytes, by the measured ``calls`` of one [1,C,H,W]."""
    return max(1, limit // (calls.peak_bytes + 2 * image.nbytes))


def fastest_layout(
    image: Tensor, answers: Callable[[torch.memory_format], Iterable[Tensor]]
) -> torch.memory_format:
    """The memory format for images like this one.

    On a CPU torch's float32 convolutions and pools are 1.04 to 1.9 times as fast in channels_last,
    and a GPU's tensor cores take numbers in this order: that it is, unless the model does not take
    it or ``answers`` in it otherwise than as given.
    """
    kind = image.device.type
    # What a CPU is asked for is float32, whatever autocast makes of it.
    rounded = precision(image.device, image.dtype).convolutions if kind == "cuda" else "float32"
    by_tiles = kind == "cuda" and rounded in ("tf32", "float16", "bfloat16")
    if not by_tiles and not (kind == "cpu" and image.dtype == torch.float32):
        return torch.preserve_format
    given = answers(torch.preserve_format)
    try:
        own = answers(torch.channels_last)
    except Exception:  # a .view() of maps, an assertion: as it was given it worked
        return torch.preserve_format
    agree = [
        _close(values.double(), expected.double(), _ROUNDING[rounded])
        for values, expected in zip(own, given, strict=True)
    ]
    # One question, however many answers there are: a GPU would be waited for at each.
    return torch.channels_last if bool(torch.stack(agree).all()) else torch.preserve_format


def _close(values: Tensor, expected: Tensor, share: float) -> Tensor:
    """Whether numbers are the same, or off by no more than a share of the largest finite one that
    is expected; a bool on their device."""
    same = (values == expected) | (values.isnan() & expected.isnan())
    most = share * expected.nan_to_num(0, 0, 0).abs().max()
    return (same | ((values - expected).abs() <= most)).all()


class Passes:
    """Whole passes of a model in eval mode, without gradient, over images of one size.

    How many images go through it together, and in which memory format, is found out on the first.
    The model is left as it is: images are converted, weights are not.

    Attributes:
        together: images at a time.
        layout: their memory format.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str], limit: int) -> None:
        """For the outputs of these ``layers``, besides the logits; ``limit``: bytes that the
        activations of one batch may take."""
        self._model, self._layers, self._limit = model, layers, limit
        self._seen = Operations()
        self.together, self.layout = 0, torch.preserve_format

    def images(
        self, x: Tensor, receive: Receive = lambda layer, maps: None, more: int = 0
    ) -> tuple[Tensor, dict[str, list[Any]]]:
        """Every image as it is; ``more``: how many :meth:`variants` will follow.

        Returns the logits [N,K], and what ``receive(layer, maps)`` made of each batch.
        """
        parts = [] if self.together else [self._first(x[:1], receive, len(x) + more)]
        for some in even_spans(len(parts), len(x), self.together):
            parts.append(self._run(x[some].to(memory_format=self.layout, copy=True), receive))
        logits = concatenated([own for own, _ in parts])
        return logits, {layer: [found[layer] for _, found in parts] for layer in self._layers}

    def variants(
        self,
        x: Tensor,
        make: Callable[[Tensor, slice], Tensor],
        count: int,
        measure: Callable[[str, Tensor, slice], Tensor],
        advance: Callable[[int], Any],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """``count`` variants of every image, after a call of :meth:`images`.

        Args:
            make: ``(images [n,C,H,W], variants) -> [n,p,C,H,W]``.
            measure: ``(layer, maps [n,p,C,H,W], images) -> [n,p]``, a number for each variant.
            advance: called with the number of variants done.

        Returns:
            Logits [N,count,K] and each layer's numbers [N,count], on the CPU.
        """
        x = x.to(memory_format=self.layout)

        def block(images: slice, variants: slice) -> tuple[Tensor, dict[str, Tensor]]:
            copies = make(x[images], variants)
            shape = copies.shape[:2]
            logits, found = self._run(
                copies.flatten(0, 1),
                lambda layer, maps: measure(layer, maps.unflatten(0, shape), images),
            )
            numbers = to_results({None: logits, **found})
            advance(shape.numel())
            return numbers.pop(None).unflatten(0, shape), numbers

        rows = [
            _joined([block(images, some) for some in even_spans(0, count, self.together)], 1)
            for images in even_spans(0, len(x), max(1, self.together // count))
        ]
        return _joined(rows, 0)

    def outputs(self, said: Outputs | None, logits: Tensor) -> Outputs:
        """What the ``logits`` [N,K] of :meth:`images` are; see :func:`outputs_of`."""
        return outputs_of(said, logits, self._seen)

    def _first(self, image: Tensor, receive: Receive, count: int) -> tuple[Tensor, dict[str, Any]]:
        """The first of ``count`` passes in all, which decides how the others are run."""
        tried: dict[torch.memory_format, tuple[Interception, tuple[Tensor, dict[str, Any]]]] = {}

        def answers(layout: torch.memory_format) -> list[Tensor]:
            calls, copy = fast_forward(measure=True), image.to(memory_format=layout, copy=True)
            with self._seen:
                tried[layout] = calls, self._run(copy, receive, calls)
            return [tried[layout][1][0]]

        self.layout = self._layout(image, answers) if count >= _WORTH else torch.preserve_format
        if self.layout not in tried:
            answers(self.layout)
        calls, found = tried[self.layout]
        self._seen.end(found[0])
        self.together = self._best_batch(calls, image)
        if min(count, self.together) > 1 and not self._alone(image, found[0], calls):
            self.together = 1
        return found

    def _alone(self, image: Tensor, logits: Tensor, calls: Interception) -> bool:
        """Whether an image's answers, of which ``logits`` are known, do not depend on what is
        beside it."""

        def run(batch: Tensor) -> list[Tensor]:
            keep = lambda layer, maps: maps.clone()  # noqa: E731
            logits, found = self._run(batch.to(memory_format=self.layout), keep)
            return [logits, *found.values()]

        known = () if self._layers else (logits,)
        return stands_alone(
            self._model, self._layers, run, image, self.together, calls.dtypes, 3, known
        )

    def _kind(self, image: Tensor) -> tuple[Any, ...]:
        """What an agreement holds for: images like this one, and the model and torch as they are
        set up."""
        rounded = precision(image.device, image.dtype)
        return (image.shape[1:], image.dtype, image.device, rounded, settings_of(self._model))

    def _layout(
        self, image: Tensor, answers: Callable[[torch.memory_format], list[Tensor]]
    ) -> torch.memory_format:
        """As :func:`fastest_layout`; a model that agreed before need not run as given again."""
        agreed = _agreed.setdefault(self._model, set())
        kind = self._kind(image)
        if kind in agreed:
            with suppress(Exception):  # it may have changed in between
                answers(torch.channels_last)
                return torch.channels_last
        layout = fastest_layout(image, answers)
        (agreed.add if layout is torch.channels_last else agreed.discard)(kind)
        return layout

    def _best_batch(self, calls: Interception, image: Tensor) -> int:
        most = fitting(calls, image, self._limit)
        if image.device.type != "cpu":
            return most
        # Memory that malloc keeps is faster than new one, unless a pass mostly reads weights.
        reused = max(1, _REUSED // max(1, calls.largest_bytes))
        weights = sum(weight.nbytes for weight in self._model.parameters())
        return most if weights > reused * calls.total_bytes else min(most, reused)

    def _run(
        self, batch: Tensor, receive: Receive, calls: Interception | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """A batch that the model may overwrite; see :func:`layer_outputs`."""
        n = len(batch)
        with layer_outputs(
            self._model, self._layers, lambda name, out: receive(name, feature_maps(out, name, n))
        ) as found:
            logits = _forward(self._model, batch, calls or fast_forward())
        return logits, {layer: found[layer] for layer in self._layers}


def _joined(
    parts: Sequence[tuple[Tensor, dict[str, Tensor]]], dim: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and each layer's numbers of several parts, along a dimension."""
    layers = parts[0][1]
    numbers = {layer: torch.cat([found[layer] for _, found in parts], dim) for layer in layers}
    return torch.cat([logits for logits, _ in parts], dim), numbers


def answers(
    model: nn.Module, x: Tensor, max_memory: int | None, said: Outputs | None
) -> tuple[Tensor, Outputs]:
    """The model's answers [N,K] to images, on the CPU, and what they are."""
    passes = Passes(model, (), memory_limit(max_memory, x.device))
    with evaluating(model):
        logits = to_result(passes.images(x)[0])
    return logits, passes.outputs(said, logits)


def _forward(model: nn.Module, batch: Tensor, calls: Interception) -> Tensor:
    with calls:
        try:
            output = model(batch)
        except RuntimeError as error:  # of the type it has, with what torch's text leaves out
            if type(error) is RuntimeError and len(error.args) == 1:
                error.args = (f"{error} (in the model's forward of images {list(batch.shape)})",)
            raise
        return logits_of(output, len(batch))


def logits_of(output: Any, n: int) -> Tensor:
    """What a model returned for ``n`` images, if that is logits [n,K]; else a ValueError says how
    to get at the tensor in it."""
    if isinstance(output, Tensor) and output.dim() == 2 and len(output) == n:
        return output
    got = list(output.shape) if isinstance(output, Tensor) else _described(output)
    raise ValueError(f"the model must return logits [{n},K], it returned {got}")


def _described(output: Any) -> str:
    """What a model returned that is no tensor, and how to get at the tensor in it."""
    if isinstance(output, Mapping):
        parts = {
            f'["{key}"]' if isinstance(key, str) else f"[{key!r}]": output[key] for key in output
        }
    elif isinstance(output, tuple | list):
        parts = {f"[{place}]": value for place, value in enumerate(output)}
    elif dataclasses.is_dataclass(output):
        fields = [field.name for field in dataclasses.fields(output)]
        parts = {f".{name}": getattr(output, name) for name in fields}
    else:
        parts = {f".{name}": value for name, value in getattr(output, "__dict__", {}).items()}
    tensors = {place: value for place, value in parts.items() if isinstance(value, Tensor)}
    kind = f"a {type(output).__name__}"
    if not tensors:
        return kind
    rows = [place for place, value in tensors.items() if value.dim() == 2]
    logits = (rows or [*tensors])[0]
    shapes = ", ".join(f"{place} {list(value.shape)}" for place, value in tensors.items())
    return (
        f"{kind} with {shapes}; wrap it in a module that returns the logits alone, as "
        f"`class Logits(nn.Module): ... return self.model(x){logits}`"
    )


def outputs_of(said: Outputs | None, base: Tensor, seen: Operations) -> Outputs:
    """What the network's outputs are, decided once a call.

    Args:
        said: by the user, who has the last word.
        base: [N,K], the answers to the images as they are.
        seen: the calls of (a part of) that pass.

    Raises:
        ValueError: what is said is for one output only, and there are more.
    """
    count = base.shape[1]
    if said is not None:
        check_outputs(said, count)
        return said
    if seen.last in _SOFTMAX_OR_SIGMOID:
        return "probability" if count == 1 else "probabilities"
    if count == 1:
        return "logit"
    known = seen.last in _SCORES or not looks_like_probabilities(base)
    return "logits" if known else "probabilities"
