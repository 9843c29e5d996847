"""What an operator does, kind by kind: the registries that operators enter themselves in.

A kind of rule (:mod:`zfcuda.graph.rules`) has all that it does in one file of this room, each
function entered into the behaviour that it is a case of. A kind that is not entered has the
behaviour's default, or is a barrier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from torch import Tensor

from zfcuda.cones.operators.patches import Patches
from zfcuda.cones.operators.rectangles import Boxes, ReceptiveField, clip, is_empty, join_boxes
from zfcuda.cones.operators.signals import Signal
from zfcuda.graph.nodes import Node
from zfcuda.graph.rules import Affine, Fixed, Pair, Pointwise, Rule, Shape

Result = TypeVar("Result")
Case = TypeVar("Case", bound=Callable[..., Any])


@dataclass(frozen=True, eq=False)
class Step:
    """One pass over memory: a node, and those behind it that come for nothing.

    Attributes:
        value: the graph node whose value it makes (the last of those it covers).
        node: the node it begins with.
        rule: that node's rule; a convolution may have a batch norm folded into it, a pool the ReLU
            before it (whose step then leaves it out).
        inputs: the nodes whose values it takes.
        then: what is applied to the result, unless ``prepared`` does it.
        shape: of its value, per image.
        prepared: what its kind makes of the rule beforehand (:data:`prepared`).
        owned: for each input, whether this step alone takes it and may overwrite it.
    """

    value: int
    node: Node
    rule: Rule
    inputs: tuple[int, ...]
    then: tuple[Pointwise | Affine, ...]
    shape: tuple[int, ...] | None
    prepared: Any = None
    owned: tuple[bool, ...] = ()

    @property
    def local(self) -> bool:
        """Whether a change in a rectangle of its input changes a rectangle of its value."""
        return has_cone(self.rule) and self.shape is not None and len(self.shape) in (1, 3)

    @property
    def size(self) -> Pair:
        """(height, width) of its maps; a vector's numbers are maps of one pixel."""
        return (1, 1) if len(self.shape) == 1 else self.shape[1:]

    @property
    def counts_only(self) -> bool:
        """Whether it takes the images only to know how many there are."""
        fixed = isinstance(self.rule, Fixed) and self.inputs == (0,)
        return fixed or isinstance(self.rule, Shape)


class Naming(NamedTuple):
    """What a call does, and what the deconvnet does in its place
    (:class:`zfcuda.results.diagram.Step`)."""

    kind: str
    detail: str
    back: str
    back_detail: str


class Behaviour(Generic[Result]):
    """A function of a rule and more, case by case.

    Args:
        name: of what it tells, for errors.
        default: what it does for kinds that are not entered; None: it raises.
    """

    def __init__(self, name: str, default: Callable[..., Result] | None = None) -> None:
        self._name, self._default = name, default
        self._cases: dict[type[Rule], Callable[..., Result]] = {}

    def of(self, *kinds: type[Rule]) -> Callable[[Case], Case]:
        """Enter the function below for these kinds."""

        def enter(function: Case) -> Case:
            for kind in kinds:
                if kind in self._cases:
                    raise ValueError(f"{self._name} of {kind.__name__} is entered already")
                self._cases[kind] = function
            return function

        return enter

    def knows(self, rule: Rule) -> bool:
        return type(rule) in self._cases

    def __call__(self, rule: Rule, *arguments: Any) -> Result:
        """
        Raises:
            TypeError: the rule's kind is not entered, and there is no default.
        """
        case = self._cases.get(type(rule), self._default)
        if case is None:
            raise TypeError(
                f"{type(rule).__name__} has no {self._name}: anything may depend on anything"
            )
        return case(rule, *arguments)


# --- geometry -------------------------------------------------------------------------------------

reached: Behaviour[Boxes] = Behaviour("forward cone")
"""``(rule, boxes, in_size, out_size)``: what of its value can change when these boxes [P,4] of its
inputs do, which are clipped; those that are empty do not matter."""

needed: Behaviour[Boxes] = Behaviour("backward cone")
"""``(rule, boxes, in_size, out_size)``: what of each input these clipped boxes [P,4] of its value
depend on."""

field: Behaviour[ReceptiveField | None] = Behaviour("receptive field", lambda rule, below: below)
"""``(rule, field)``: what its units see, from what those of its inputs see; None where that is not
evenly spaced."""


def has_cone(rule: Rule) -> bool:
    """Whether a rectangle of its input reaches a rectangle of its value."""
    return reached.knows(rule)


def forward_boxes(
    rule: Rule, boxes: Sequence[Boxes], in_sizes: Sequence[Sequence[int]], out_size: Sequence[int]
) -> Boxes:
    """What can change in a rule's value when these boxes change in its inputs.

    Args:
        boxes: [P,4] for each input.
        in_sizes: (height, width) of each input's maps.
        out_size: of the value's.

    Raises:
        TypeError: a rule without a cone (opaque, shapes).
    """
    joined = join_boxes(*(clip(box, size) for box, size in zip(boxes, in_sizes, strict=True)))
    return _without(is_empty(joined), reached(rule, joined, in_sizes[0], out_size))


def backward_boxes(
    rule: Rule, boxes: Boxes, in_size: Sequence[int], out_size: Sequence[int]
) -> Boxes:
    """What these boxes of a rule's value depend on, in each of its inputs (whose maps are of one
    size).

    Raises:
        TypeError: a rule without a cone (opaque, shapes).
    """
    boxes = clip(boxes, out_size)
    return _without(is_empty(boxes), needed(rule, boxes, in_size, out_size))


def _without(empty: np.ndarray, boxes: Boxes) -> Boxes:
    boxes[empty | is_empty(boxes)] = 0
    return boxes


# --- going up -------------------------------------------------------------------------------------

whole: Behaviour[Tensor] = Behaviour("way to make whole maps")
"""``(rule, step, *inputs)``: its value on whole maps [n,C,h,w], without ``step.then``."""

patched: Behaviour[Patches] = Behaviour("cone")
"""``(rule, step, sources, bases, boxes)``: its value at ``boxes`` [P,4], ``step.then`` included;
see :func:`zfcuda.cones.forward.advance`."""

around: Behaviour[Any] = Behaviour("surroundings", lambda rule, pixels: pixels)
"""``(rule, pixels)``: what :data:`patched` is given as the base of its input, the base pass's maps
[n,H,W,C]; made once for all positions of these images."""

each_pixel: Behaviour[Tensor] = Behaviour("function of pixels")
"""``(rule, step, pixels)``: its value on pixels [n,C], of which it treats each by itself, without
``step.then``. Kinds that have it need not be :data:`patched`."""

alone: Behaviour[bool] = Behaviour("way with pixels", lambda rule, step: each_pixel.knows(rule))
"""``(rule, step)``: whether this step treats every pixel by itself."""

prepared: Behaviour[Step] = Behaviour("preparation", lambda rule, step: step)
"""``(rule, step)``: the step with what is made of the rule once, for many batches."""

folded: Behaviour[Rule | None] = Behaviour("folding", lambda rule, affine: None)
"""``(rule, affine)``: the rule and scales and shifts after it, as one rule."""

finishes: Behaviour[bool] = Behaviour("finish", lambda rule: False)
"""``(rule)``: whether what comes right after it may be done in the memory of its result."""

# --- going down -----------------------------------------------------------------------------------

below: Behaviour[list[tuple[int, Signal]]] = Behaviour("way down")
"""``(rule, batch, node, signal)``: which nodes get which signals."""

looks_back: Behaviour[bool] = Behaviour("forward point", lambda rule, manner: False)
"""``(rule, manner)``: whether the way down needs the maps that it took."""

# --- telling --------------------------------------------------------------------------------------

growth: Behaviour[float] = Behaviour("growth", lambda rule, sides: 1.0)
"""``(rule, sides)``: pixels read over pixels made, in rectangles of these sides [P,2]."""

reads: Behaviour[float] = Behaviour(
    "reading", lambda rule, sides, changed: sides.prod(1).mean() * growth(rule, sides)
)
"""``(rule, sides, changed)``: pixels of each input that it reads for a rectangle of its value, the
mean over rectangles of these sides [P,2] for which those of these sides changed in its first
input."""

macs: Behaviour[float] = Behaviour("multiply-adds", lambda rule: 0.0)
"""``(rule)``: multiply-adds for each number it makes."""

words: Behaviour[Naming | None] = Behaviour("name", lambda rule, node: None)
"""``(rule, node)``: what it does, and what is done in its place on the way down."""
