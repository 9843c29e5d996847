"""From two recordings of a model, of one and of two images, to its graph.

What differs between them is the size of the batch, and must be nothing else. Calls that depend on
constants only are made once.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from zfcuda.graph import activations as _activations  # noqa: F401  (enters its readers)
from zfcuda.graph.axes import axes_of_maps
from zfcuda.graph.calls import Call, Record, Recorded, Ref, end_of, is_cast
from zfcuda.graph.fixed import (
    ALIKE,
    choice,
    constant_map,
    is_fixed_map,
    product_with_weights,
)
from zfcuda.graph.functions import MadeFor, ResultOf, in_any_layout
from zfcuda.graph.growing import Growing
from zfcuda.graph.guards import Untraceable
from zfcuda.graph.layouts import Layout
from zfcuda.graph.moving import chains_followed, moves
from zfcuda.graph.nodes import Graph, Node, Sized, Value, filled, pruned, spelled, values_in
from zfcuda.graph.reading import Reading, read
from zfcuda.graph.recognition import as_torch_does, instance_norm, torchs_contrast
from zfcuda.graph.reductions import InTurn, dims_of, of_whole_maps, one_axis_after_the_other
from zfcuda.graph.resampling import pixels_resampled
from zfcuda.graph.rules import (
    AdaptiveMaxPool,
    Binary,
    Concat,
    Fixed,
    Input,
    Opaque,
    Pointwise,
    Resampling,
    Shape,
)
from zfcuda.graph.schemas import bare, sizes_of
from zfcuda.graph.unpooling import unpooling

aten = torch.ops.aten


_SAME_IF_AS_LARGE = ("view", "expand", "alias", "slice")


def build(
    first: Record,
    second: Record,
    layers: Collection[str],
    mixing: bool = False,
    images: int = 1,
) -> Graph:
    """The graph of the recordings of one image and of two.

    Args:
        mixing: take a model that makes one value of several images, too.
        images: how many the first recording is of; the second is of one more.

    Raises:
        Untraceable: they differ in more than the number of images.
    """
    output, count = end_of(first, layers)
    if (output, count) != end_of(second, layers):
        raise Untraceable("it makes other calls for two images than for one")
    if output is None:
        raise Untraceable(f"it returns {type(first.answer).__name__}, not a tensor")
    builder = _Builder(first, second, images)
    for number in range(count):
        builder.add(number)
    graph = builder.graph(output, count, layers)
    if graph.mixes and not mixing:
        raise Untraceable(f"{graph.mixes} mixes the images of a batch")
    return graph


_ORDERED = (
    "flip", "roll", "cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "_softmax",
    "_log_softmax", "sort", "topk", "index_select", "gather", "scatter", "index",
)  # fmt: skip


def _goes_over_images(call: Call, args: Any, kwargs: Any) -> bool:
    """Whether a call has images change places, or adds up over them."""
    x = args[0] if args else None
    if call.name not in _ORDERED or not isinstance(x, Value):
        return False
    if call.name == "index":
        return isinstance(x.sizes[0], Sized) and args[1][0] is not None
    arguments = call.function._schema.arguments
    given = {a.name: a.default_value for a in arguments}
    given |= dict(zip(given, args, strict=False)) | kwargs
    dims = next((given[n] for n in ("dims", "dim") if n in given), None)
    if call.name == "roll" and not dims:
        return True
    dims = [dims] if isinstance(dims, int) else dims or [0]
    return any(isinstance(d, int) and isinstance(x.sizes[d], Sized) for d in dims)


@dataclass(frozen=True, eq=False)
class _Constant:
    tensor: Tensor


class _Builder:
    def __init__(self, first: Record, second: Record, images: int) -> None:
        self._images = images
        self._first, self._second = first, second
        self._made: dict[int, Value | _Constant] = {}  # by recorded value
        self._bare: dict[int, Tensor] = {}  # constants, by identity
        self._by_call: dict[int, list[int]] = {}
        self._mixing: dict[int, str] = {}  # by node of several images' value, the call
        self._casts: list[tuple[Tensor, Tensor]] = []  # of constants
        for number, value in enumerate(first.values):
            if value.call is not None:
                self._by_call.setdefault(value.call, []).append(number)
        image = self._sizes(0)
        self._grown = Growing(Value(0, *self._about(0)))
        node = Node(0, "x", Input(), (), (), tuple(first.values[0].shape[1:]), _same, (), {})
        self._grown.find_axes(node, image)
        self._add(node, 0, image)

    # --- one call ---------------------------------------------------------------------------------

    def add(self, number: int) -> None:
        try:
            call, other = self._first.calls[number], self._second.calls[number]
        except IndexError:
            raise Untraceable("it makes other calls for two images than for one") from None
        if call.name != other.name or len(call.args) != len(other.args):
            one, two = spelled(call.name), spelled(other.name)
            raise Untraceable(f"it calls {one} for one image and {two} for two{call.place}")
        if number not in self._by_call:
            return
        sizes = sizes_of(call.function)
        args = tuple(
            self._both(call, mine, its, place in sizes)
            for place, (mine, its) in enumerate(zip(call.args, other.args, strict=True))
        )
        kwargs = {
            name: self._both(call, mine, other.kwargs.get(name), name in sizes)
            for name, mine in call.kwargs.items()
        }
        of_type = call.name.startswith("new_") and isinstance(args[0], Value)
        sized = bool(_sizes_in((args[1:], kwargs)))
        if of_type and (call.name in ALIKE or not sized):  # it takes no more of it than its type
            args = (torch.empty(0, dtype=args[0].dtype, device=args[0].device), *args[1:])
        values = self._by_call[number]
        held = values_in((args, kwargs))
        if not held and not _sizes_in((args, kwargs)):
            found = in_any_layout(call.function)(*args, **kwargs)
            if is_cast(call):
                self._casts.append((args[0], found))
            for value in values:
                place = self._first.values[value].place
                self._made[value] = _Constant(found[place] if call.several else found)
            return
        mixed = {value for value in values if self._mixes(held, value)}
        if _goes_over_images(call, args, kwargs) or any(map(self._holds_numbers, mixed)):
            mixed = {*values}  # a call that makes one of its results of several images
        for value in values:
            before = len(self._grown.nodes)
            self._result(call, args, kwargs, value)
            if value in mixed:
                made = range(before, len(self._grown.nodes))
                self._mixing |= dict.fromkeys(made, spelled(call.name) + call.place)

    def _mixes(self, held: list[Value], value: int) -> bool:
        """Whether a call makes one value of several images."""
        of_batch = any(isinstance(size, Sized) for v in held for size in v.sizes)
        alone = any(isinstance(size, Sized) for size in self._sizes(value))
        return of_batch and not alone and self._first.values[value].of_images

    def _holds_numbers(self, value: int) -> bool:
        """Whether a value is more than what kernels return besides: seeds, empty statistics."""
        recorded = self._first.values[value]
        return recorded.dtype.is_floating_point and 0 not in recorded.shape

    def _result(self, call: Call, args: Any, kwargs: Any, value: int) -> None:
        """A node for one result of a call."""
        recorded = self._first.values[value]
        sizes = self._sizes(value)
        given = args[0] if args and isinstance(args[0], Value) else None
        alike = given is not None and (given.sizes, given.dtype) == (sizes, recorded.dtype)
        if alike and call.name in _SAME_IF_AS_LARGE and not call.custom:
            self._made[value] = given
            return
        result = Value(-1, _shape(sizes), recorded.dtype, recorded.device, sizes)
        function = in_any_layout(call.function)
        function = ResultOf(function, recorded.place) if call.several else function
        if not values_in((args, kwargs)):  # made for as many images as there are
            args = (self._grown.image, *args)
            self._fix(call, result, MadeFor(function), args, kwargs, value)
            return
        found, args = self._read(call, recorded.place, args, kwargs, result)
        if found is None and given is not None and given.index in self._grown.local:
            found = pixels_resampled(call, recorded.place, args, kwargs, result)
        if found is None:
            rule, taken = Opaque(), tuple(values_in((args, kwargs)))
        else:
            rule, taken = found[:2]
        if found is not None and len(found) == 3:
            function, args, kwargs = found[2], taken, {}
        inputs = tuple(v.index for v in taken)
        node = self._grown.new_node(call, rule, inputs, result.shape, function, args, kwargs)
        self._grown.find_axes(node, sizes)
        if isinstance(rule, Pointwise | Binary | Resampling | AdaptiveMaxPool):
            node = replace(node, function=rule.function, args=taken, kwargs={})
        if isinstance(rule, Opaque | Binary) and recorded.dtype.is_floating_point:
            node = self._grown.shortened(node)
        if isinstance(node.rule, Opaque | Binary | Concat) and not call.several:
            node = self._grown.instead(node, lambda n: self._in_other_layout(call, n, args, kwargs))
        if isinstance(node.rule, Opaque) and recorded.place == 0:
            node = self._grown.instead(node, lambda n: self._pooled(call, n, args, kwargs, result))
        if _sizes_in((node.args, node.kwargs)) and node._counted is None:
            given = (self._mixing.get(v.index) for v in values_in((args, kwargs)))
            first = next(filter(None, given), node.spelled + call.place)
            raise Untraceable(f"{first} mixes the images of a batch")
        self._add(node, value, sizes)

    def _read(
        self, call: Call, place: int, args: Any, kwargs: Any, result: Value
    ) -> tuple[Reading | None, Any]:
        """The rule of a call, if it has one by itself or with those before it, and its arguments
        with constants that act on maps as maps."""
        taken = tuple(values_in((args, kwargs)))
        if result.is_map and all(isinstance(self._grown.nodes[v.index].rule, Fixed) for v in taken):
            return (Fixed(result.dtype), taken), args
        constant = constant_map(call, args)
        if constant is not None and self._grown.is_map(constant[1]):
            at, x = constant
            fixed = self._grown.constant_map(call, args[at], x)
            given = (*args[:at], fixed, *args[at + 1 :])
            chosen = choice(call, given)
            found = read(call, place, given, kwargs, result) if chosen is None else chosen
            if found is not None:
                return found, given
        match call.name:
            case "div":
                contrast = torchs_contrast(self._grown.nodes, args, call.custom)
                if contrast is not None:
                    return (contrast, args[:1], as_torch_does(contrast)), args
            case "bmm":
                product = product_with_weights(self._grown.nodes, *args)
                if product is not None:
                    return product, args
            case "max_unpool2d":
                found = unpooling(self._grown.nodes, call, args, result)
                if found is not None:
                    taken = (self._grown.switches(call, found), args[0])
                    return (found.unpool, taken, found.put_back), args
            case "view":
                norm = instance_norm(self._grown.nodes, args[0], result)
                if norm is not None:
                    return norm, args
        alike = self._in_one_dtype(call, args, taken, result)
        found = read(call, place, alike, kwargs, result)
        return (found, args) if found is None else (found, alike)

    def _in_one_dtype(self, call: Call, args: Any, taken: Sequence[Value], result: Value) -> Any:
        """The arguments of a call that combines maps of two types of number, as autocast makes them
        meet, with the maps cast to its result's: torch promotes them before it does anything."""
        dtypes = {value.dtype for value in taken}
        two = len(dtypes) == 2 and all(map(self._grown.is_map, taken))
        one_by_one = torch.Tag.pointwise in getattr(call.function, "tags", ()) and len(taken) == 2
        if not two or not (one_by_one or call.name == "cat"):
            return args
        if result.dtype != torch.promote_types(*{value.dtype for value in taken}):
            return args
        cast = {
            v.index: v if v.dtype == result.dtype else self._grown.cast(call, v, result)
            for v in taken
        }
        return filled(args, lambda a: cast[a.index] if isinstance(a, Value) else a)

    def _fix(
        self, call: Call, made: Value, function: MadeFor, args: Any, kwargs: Any, value: int
    ) -> None:
        """A node for what depends on the number of images only."""
        if is_fixed_map(call, made):
            node = self._grown.new_node(
                call, Fixed(made.dtype), (0,), made.shape, function, args, kwargs
            )
            self._grown.axes[node.index] = axes_of_maps(made.shape[0])
            self._grown.grids[node.index] = made.shape[1:]
        else:
            node = self._grown.new_node(call, Shape(), (0,), None, function, args, kwargs)
        self._add(node, value, made.sizes)

    # --- maps in other layouts --------------------------------------------------------------------

    def _in_other_layout(self, call: Call, node: Node, args: Any, kwargs: Any) -> Node | None:
        """A sum, product or concatenation of maps in another layout, as one of the maps themselves:
        the call that brings its result into the layout. None for any other call."""
        layout, taken = self._grown.layout(node.index), values_in((args, kwargs))
        given = [self._grown.layout(value.index) for value in taken]
        if layout is None or layout.is_of_maps or len(given) < 2 or None in given:
            return None
        rule = self._rule_on_maps(call, args, kwargs, taken, given, layout)
        if rule is None:
            return None
        maps, sources = [], set()
        for value, one in zip(taken, given, strict=True):
            found = self._grown.map_of(value, one)
            if found is None:
                return None
            maps.append(found[0])
            sources.add(found[1])
        if len(sources) == 1 and call.name not in ("add", "sub"):  # a chain will do
            return None
        function = rule.function if isinstance(rule, Binary) else _joined
        indices = tuple(value.index for value in maps)
        whole = replace(
            node,
            index=len(self._grown.nodes),
            rule=rule,
            inputs=indices,
            shape=layout.shape,
            function=function,
            args=tuple(maps),
            kwargs={},
        )
        return self._grown.laid_out(
            "from_map", layout, self._grown.appended(whole, maps[0]), node.shape
        )

    def _rule_on_maps(
        self, call: Call, args: Any, kwargs: Any, taken: Any, given: Any, layout: Layout
    ) -> Binary | Concat | None:
        """The rule of a call that does with values in this layout as it would with their maps."""
        if call.name == "cat":
            dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
            alike = all(one.joins_channels(dim, layout) for one in given)
            return Concat() if alike and len({value.dtype for value in taken}) == 1 else None
        if len(args) != 2 or any(one != layout for one in given):
            return None
        maps = [replace(value, shape=layout.shape) for value in taken]
        found = read(call, 0, tuple(maps), kwargs, maps[0])
        return found[0] if found is not None and isinstance(found[0], Binary) else None

    def _pooled(self, call: Call, node: Node, args: Any, kwargs: Any, result: Value) -> Node | None:
        """A reduction of whole maps in another layout, or of one axis after the other, as one of
        the maps themselves."""
        reduction = of_whole_maps(call)
        if reduction is None or not isinstance(args[0], Value) or len(result.shape) == 2:
            return None
        at, below = len(self._grown.nodes), self._grown.nodes[args[0].index]
        maps = one_axis_after_the_other(below, call.name, args, kwargs)
        if maps is not None and self._grown.is_map(maps):
            found = read(reduction, 0, (maps, (2, 3), len(result.shape) == 3), {}, result)
            more = {"function": InTurn(below, node), "args": (maps,), "kwargs": {}}
            inputs = (maps.index,)
            return found and replace(node, index=at, rule=found[0], inputs=inputs, **more)
        layout = self._grown.layout(args[0].index)
        if layout is None or layout.is_of_maps or len(result.shape) != 1:
            return None
        found = None
        if layout.leaves_channels(dims_of(args, kwargs)):
            x = replace(args[0], shape=layout.shape)
            found = read(reduction, 0, (x, (2, 3)), {}, result)
        taken = self._grown.map_of(args[0], layout) if found is not None else None
        if found is None or taken is None:
            return None
        more = {"index": len(self._grown.nodes), "inputs": (taken[0].index,), "kwargs": {}}
        function = reduction.function
        return replace(node, rule=found[0], function=function, args=(taken[0], (2, 3)), **more)

    def _add(self, node: Node, value: int, sizes: Any) -> None:
        recorded = self._first.values[value]
        self._grown.nodes.append(node)
        known = moves(node) or not isinstance(node.rule, Opaque | Shape)
        if known and self._grown.local.issuperset(node.inputs):
            self._grown.local.add(node.index)
        self._made[value] = Value(node.index, _shape(sizes), recorded.dtype, recorded.device, sizes)

    def _about(self, value: int) -> tuple[Any, ...]:
        recorded, sizes = self._first.values[value], self._sizes(value)
        return _shape(sizes), recorded.dtype, recorded.device, sizes

    # --- what both recordings say -----------------------------------------------------------------

    def _size(self, some: int, more: int) -> int | Sized:
        """A number that is ``some`` in the first recording and ``more`` for one image more."""
        each = more - some
        return Sized(some - each * self._images, each) if each else some

    def _sizes(self, value: int) -> tuple[int | Sized, ...]:
        one, two = self._first.values[value], self._second.values[value]
        if len(one.shape) != len(two.shape) or one.dtype != two.dtype:
            raise Untraceable("it makes other calls for two images than for one")
        return tuple(self._size(a, b) for a, b in zip(one.shape, two.shape, strict=True))

    def _both(self, call: Call, mine: Any, its: Any, size: bool) -> Any:
        """An argument in both recordings, as the graph's; a ``size`` may depend on how many images
        there are."""
        if isinstance(mine, Ref):
            if isinstance(its, Ref):
                return self._argument(mine.value, its.value)
        elif isinstance(mine, tuple | list) and isinstance(its, tuple | list):
            if len(mine) == len(its):
                both = [self._both(call, a, b, size) for a, b in zip(mine, its, strict=True)]
                return tuple(both) if isinstance(mine, tuple) else both
        elif size and type(mine) is int and type(its) is int:
            return self._size(mine, its)
        elif mine == its or (mine != mine and its != its):
            return mine
        name = spelled(call.name)
        raise Untraceable(
            f"it calls {name}{call.place} with {mine} for one image and with {its} for two"
        )

    def _argument(self, mine: int, its: int) -> Any:
        one, two = self._first.values[mine], self._second.values[its]
        if one.call is None and not one.of_images:
            return self._constant(one, two)
        if mine != its:
            raise Untraceable("it makes other calls for two images than for one")
        found = self._made[mine]
        return found.tensor if isinstance(found, _Constant) else found

    def _constant(self, one: Recorded, two: Recorded) -> Tensor:
        if one.tensor is two.tensor:
            return self._bare.setdefault(id(one.tensor), bare(one.tensor))
        alike = two.tensor is not None and one.shape == two.shape and one.dtype == two.dtype
        if not alike or not torch.equal(one.tensor, two.tensor):
            raise Untraceable("it uses a tensor that is another one in each pass")
        return bare(one.tensor)

    # --- the whole --------------------------------------------------------------------------------

    def graph(self, output: int, count: int, requested: Collection[str]) -> Graph:
        layers: dict[str, int] = {}
        for done in self._first.returned:
            if done.count <= count:
                made = self._made.get(done.value)
                for name in done.names:
                    layers.pop(name, None)
                    if isinstance(made, Value):
                        layers[name] = made.index
        result = self._made.get(output)
        if not isinstance(result, Value):
            raise Untraceable("it returns a constant")
        if len(result.sizes) < 2 or result.sizes[0] != Sized(0, 1):
            got = [s.of(2) if isinstance(s, Sized) else s for s in result.sizes]
            raise Untraceable(f"it must return a tensor [2,K] for two images, it returns {got}")
        names = [name for name in requested if name in layers]
        tops = {result.index, *(layers[name] for name in names)}
        nodes = chains_followed(self._grown.nodes, tops, layers.values(), self._grown.local)
        graph = pruned(nodes, result.index, layers, names, self._mixing)
        graph.casts = tuple(self._casts)
        return graph


def _same(x: Any) -> Any:
    return x


def _joined(*maps: Tensor) -> Tensor:
    return torch.cat(maps, 1)


def _sizes_in(arguments: Any) -> bool:
    return any(isinstance(a, Sized) for a in _leaves(arguments))


def _leaves(arguments: Any) -> list[Any]:
    if isinstance(arguments, Sized) or not isinstance(arguments, tuple | list | dict):
        return [arguments]
    parts = arguments.values() if isinstance(arguments, dict) else arguments
    return [leaf for part in parts for leaf in _leaves(part)]


def _shape(sizes: tuple[int | Sized, ...]) -> tuple[int, ...]:
    """Per image. One number more than usual where the first axis is not that of the images."""
    if sizes and sizes[0] == Sized(0, 1):
        return tuple(s.of(1) if isinstance(s, Sized) else s for s in sizes[1:])
    return tuple(s.of(1) if isinstance(s, Sized) else s for s in sizes) if len(sizes) != 3 else (
        1, *(s.of(1) if isinstance(s, Sized) else s for s in sizes)
    )  # fmt: skip
