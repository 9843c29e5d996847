"""The deconvnet's rules for going down, as the backward of the calls that go up."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from zfcuda import ops
from zfcuda.inference.interception import (
    Call,
    Handler,
    Interception,
    author_of,
    contrast_norm,
    every_spelling,
    fixed_batch_norm,
    max_pooling,
)

_LARGER_OF_TWO = ("maximum", "max", "fmax", "clamp", "clip", "clamp_min")


def plain_name(function: Any) -> str:
    """Of a function or method of torch, without the underscores that say that it is in place or an
    operator, and without its overload."""
    return str(getattr(function, "__name__", function)).split(".")[0].strip("_")


class Masks:
    """The masks that were made of maps with a signal, for as long as they live."""

    def __init__(self) -> None:
        self._known = WeakTensorKeyDictionary()

    def among(self, tensors: Sequence[Tensor]) -> bool:
        return any(tensor in self._known for tensor in tensors)

    def note(self, name: str, tensors: Sequence[Tensor], result: Any) -> None:
        """Remember what the call ``name`` of these tensors gave, if that is a mask."""
        if not isinstance(result, Tensor) or result.requires_grad:
            return
        made = self.among(tensors)
        if result.dtype == torch.bool or name == "heaviside":
            made = made or any(tensor.requires_grad for tensor in tensors)
        if made and not name.endswith("_like") and not name.startswith("new_"):
            self._known[result] = None

    def rectified(
        self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor]
    ) -> Tensor | None:
        """The map that a call rectifies by a mask, or by taking the larger of it and zeros; None if
        it does something else."""
        signals = {id(tensor): tensor for tensor in tensors if tensor.requires_grad}
        if len(signals) != 1 or "out" in kwargs:
            return None
        (x,) = signals.values()
        if x.is_complex():  # is neither above nor below zero
            return None
        others = [tensor for tensor in tensors if tensor is not x]
        masked = any(tensor.shape == x.shape and tensor in self._known for tensor in others)
        larger = plain_name(function) in _LARGER_OF_TWO
        if not masked and not (larger and any(t.numel() and not t.any() for t in others)):
            return None
        with torch.no_grad():
            y = called(function, args, kwargs, x, x.detach().clone())
            wanted = x.detach().clamp_min(0)
        if not isinstance(y, Tensor) or y.shape != x.shape or y.dtype != x.dtype:
            return None
        same = (y == wanted) | (y.isnan() & wanted.isnan())
        return x if bool(same.all()) else None


def called(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor, instead: Tensor
) -> Any:
    """What a call gives with another tensor in the place of ``x``; assigning to parts of a tensor
    gives that tensor."""
    args, kwargs = tree_map(lambda leaf: instead if leaf is x else leaf, (args, kwargs))
    result = function(*args, **kwargs)
    return instead if plain_name(function) == "setitem" else result


# What nodes of the autograd graph are marked with (their ``metadata``).
_NAME, _LEFT = "zfcuda: the call", "zfcuda: no rule"
_NO_GRADIENT = "WarnNotImplemented"

# Names of autograd nodes (without "Backward0") of calls that are linear in the signal or route it
# as pooling does: their gradient is the deconvnet's transpose.
_TRANSPOSED = re.compile(
    r"Add|Sub|Rsub|Neg|Sum|Mean|Cat|Stack|Clone|Copy|ToCopy|CopySlices|Alias|AsStrided|Detach"
    r"|View|UnsafeView|ReshapeAlias|Permute|Transpose|T|Squeeze\w*|Unsqueeze|Expand|Repeat|Movedim"
    r"|Slice|Select|Split\w*|UnsafeSplit\w*|Unbind|Index\w*|Gather|Flip|Roll|Unfold|Im2Col|Col2Im"
    r"|PixelShuffle|PixelUnshuffle|ConstantPadNd|\w+Pad[123]D|Upsample\w+|\w*AvgPool\w+"
    r"|NativeDropout|\w*MaxPool\w+|MaxUnpool\w+|Max|Amax|\w*BatchNorm|BackwardHookFunction"
    r"|_Carried|_Switched|\w+local_response_norm\w*|\w+max_unpool2d\w*"
)
# Linear in each factor: transposed as long as only one of them depends on the input.
_PRODUCT = re.compile(r"Mul|Mm|Mv|Bmm|Dot|Outer|Ger|Linear|\w*Conv\w+")
_SUM_WITH_PRODUCT = re.compile(r"Addmm|Addmv|Addbmm|Baddbmm|Addcmul|Addr")  # of the last two


def _is_transposed(name: str, signals: list[int]) -> bool:
    """Whether the gradient of the node ``name`` with respect to these operands is its transpose."""
    if _SUM_WITH_PRODUCT.fullmatch(name):
        return not {1, 2} <= {*signals}
    if name in ("Addcdiv", "Lerp"):  # by the last one
        return 2 not in signals
    if len(signals) == 1 and (_PRODUCT.fullmatch(name) or (name == "Div" and signals == [0])):
        return True
    return bool(_TRANSPOSED.fullmatch(name))


def claim(made: Collection[Any], before: Collection[Any], name: str, no_rule: bool = False) -> None:
    """Say of what a call has put into the autograd graph that it is the call's.

    Args:
        made: the nodes of its results.
        before: the nodes of what it took.
        name: the call's, as the model's author knows it.
        no_rule: it is not what its nodes are taken for.
    """
    stack = [node for node in made if node is not None and node not in before]
    for node in stack if no_rule else ():
        node.metadata[_LEFT] = True
    while stack:
        node = stack.pop()
        if node is not None and node not in before and _NAME not in node.metadata:
            node.metadata[_NAME] = name
            stack.extend(below for below, _ in node.next_functions)


def calls_left_to_gradient(output: Tensor, source: Tensor) -> list[str]:
    """Names of the calls between ``source`` (a leaf) and ``output`` that are neither linear in the
    signal nor covered by a rule, and therefore used their gradient at the forward point.

    Read off the autograd graph, so that nothing hidden in a composite or custom function is missed.

    Raises:
        RuntimeError: a call for which torch knows no gradient, and gives zeros.
    """
    carries: dict[Any, bool] = {}  # node -> depends on source; filled from the input upwards
    left: dict[str, None] = {}  # an ordered set
    stack: list[tuple[Any, bool]] = [(output.grad_fn, False)]
    while stack:
        node, inputs_done = stack.pop()
        if inputs_done:
            signals = [i for i, (below, _) in enumerate(node.next_functions) if carries.get(below)]
            carries[node] = bool(signals) or getattr(node, "variable", None) is source
            kind = re.sub(r"Backward\d*$", "", node.name()).rpartition("::")[2]
            if signals and (_LEFT in node.metadata or not _is_transposed(kind, signals)):
                name = node.metadata.get(_NAME) or _spelled(node, kind)
                if kind == _NO_GRADIENT:
                    raise RuntimeError(
                        f"torch knows no gradient of {name}: nothing can be carried through it"
                    )
                left[name] = None
        elif node is not None and node not in carries:
            carries[node] = False
            stack.append((node, True))
            stack.extend((below, False) for below, _ in node.next_functions)
    return [*left]


def _spelled(node: Any, kind: str) -> str:
    """What a node that no call has claimed is called: the class of an author's own function, or the
    name of torch's operation."""
    if hasattr(node, "_forward_cls"):
        return kind
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind).lower().removeprefix("native_")


class _Carried(torch.autograd.Function):
    """Any call; backward carries the signal down in a way of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, call: Call, down: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.down = down
        y = call(x)
        if y is x:  # the call was in place
            ctx.mark_dirty(x)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor, None, None]:
        return ctx.down(signal), None, None


class _Switched(torch.autograd.Function):
    """Max-pooling; backward unpools with the switches and, after a fused ReLU, rectifies."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, window: tuple[Any, ...], ceil_mode: bool, relu: bool, overlap: Any
    ) -> tuple[Tensor, Tensor]:
        y, switches = ops.max_pool2d(x, *window, ceil_mode, relu)
        ctx.save_for_backward(switches)
        ctx.mark_non_differentiable(switches)
        ctx.window, ctx.size, ctx.relu, ctx.overlap = window, x.shape[-2:], relu, overlap
        return y, switches

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, signal: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        (switches,) = ctx.saved_tensors
        signal = ops.max_unpool2d(
            signal, switches, *ctx.window, ctx.size, relu=ctx.relu, overlap=ctx.overlap
        )
        return signal, None, None, None, None


def _rectified(call: Call, x: Tensor, *_: Any, **__: Any) -> Tensor:
    """A ReLU-like call; the signal is rectified, whatever the sign forward was."""
    return _Carried.apply(x, call, lambda signal: signal.clamp_min(0))


def _unchanged(call: Call, x: Tensor, *_: Any, **__: Any) -> Tensor:
    return _Carried.apply(x, call, lambda signal: signal)


def _quantised(call: Call, x: Tensor, packed: Any, *_: Any, **__: Any) -> Tensor:
    """A linear layer whose weights are quantised: torch lacks its transpose."""
    weight = packed.unpack()[0].detach().dequantize()
    return _Carried.apply(x, call, lambda signal: signal @ weight.to(signal.dtype))


def _is_zero(value: Any) -> bool:
    return isinstance(value, int | float) and value == 0


def _clamp(call: Call, x: Tensor, min: Any = None, max: Any = None, *, out: Any = None) -> Tensor:
    rectifies = _is_zero(min) and not isinstance(max, Tensor) and out is None
    return _rectified(call, x) if rectifies else call(x)


def _hardtanh(  # type: ignore[no-untyped-def]
    call, x, min_val=-1.0, max_val=1.0, inplace=False
) -> Tensor:
    return _clamp(call, x, min_val, max_val)


def _threshold(  # type: ignore[no-untyped-def]
    call, x, threshold, value, inplace=False
) -> Tensor:
    return _rectified(call, x) if _is_zero(threshold) and _is_zero(value) else call(x)


class Rules(Interception):
    """Calls with their rules as backward, and who made them.

    Args:
        masks: ReLUs that are spelled as a mask rectify, too.
    """

    def __init__(self, handlers: dict[Any, Handler], measure: bool, masks: bool) -> None:
        quantised = torch.ops.quantized
        linears = (quantised.linear_dynamic, quantised.linear_dynamic_fp16)
        super().__init__(handlers | dict.fromkeys(linears, _quantised), measure)
        self._masks = Masks() if masks else None
        self._makers: list[tuple[str, list[Any]]] = []  # modules that run: whose calls, of what

    def _answer(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not tensors or not torch.is_grad_enabled():
            return super()._answer(func, args, kwargs)
        name, before = plain_name(func), _nodes_of(tensors)
        masks = self._masks
        rectified = masks.rectified(func, args, kwargs, tensors) if masks else None
        if rectified is not None:
            result = _rectified(lambda x: called(func, args, kwargs, rectified, x), rectified)
        elif name == "heaviside":  # torch knows no derivative, not even zero
            with torch.no_grad():
                result = func(*args, **kwargs)
        else:
            result = super()._answer(func, args, kwargs)
        if masks:
            masks.note(name, tensors, result)
        changed = args[0] if name == "setitem" else result
        masked = masks is not None and rectified is None and masks.among(tensors)
        maker = self._makers[-1][0] if self._makers else ""
        claim(_nodes_of(changed), before, maker or name, no_rule=masked)
        return None if name == "setitem" else result

    @contextmanager
    def told_by(self, model: nn.Module) -> Iterator[None]:
        """While entered, calls are known by the modules of the model that make them."""
        names = {module: name for name, module in model.named_modules()}

        def begin(module: nn.Module, args: Any, kwargs: Any) -> None:
            self._makers.append((author_of(module, names[module]), _nodes_of((args, kwargs))))

        def end(module: nn.Module, args: Any, output: Any) -> None:
            maker, before = self._makers.pop()
            if maker:  # what calls put there that cannot be intercepted
                claim(_nodes_of(output), before, maker)

        with ExitStack() as stack:
            for module in names:
                hook = module.register_forward_pre_hook(begin, with_kwargs=True)
                stack.callback(hook.remove)
                stack.callback(module.register_forward_hook(end, always_call=True).remove)
            yield


def _nodes_of(tensors: Any) -> list[Any]:
    """Of the autograd graph, those that these tensors come from."""
    return [leaf.grad_fn for leaf in tree_leaves(tensors) if isinstance(leaf, Tensor)]


def gradient_rules(measure: bool = False) -> Rules:
    """Every call with its gradient, also where torch has none."""
    return Rules({}, measure, masks=False)


def deconvnet_rules(
    overlap: Literal["sum", "overwrite"] = "sum",
    norm: Literal["identity", "gradient"] = "identity",
    measure: bool = False,
) -> Rules:
    """The deconvnet's backward rules (Zeiler & Fergus 2014, section 2.1).

    ReLU, ReLU6, leaky, parametric and randomised ReLU, clamping at zero and masks of what is
    positive rectify the signal; max-pooling unpools it with the forward switches; contrast
    normalisation hands it through (``norm="gradient"``: its gradient); batch norm scales it. Every
    other call keeps its gradient.
    """

    def switched(
        x: Tensor, window: tuple[Any, ...], ceil_mode: bool, relu: bool = False
    ) -> tuple[Tensor, Tensor]:
        return _Switched.apply(x, window, ceil_mode, relu, overlap)

    def our_pool(  # type: ignore[no-untyped-def]
        call, x, kernel_size, stride, padding, dilation, ceil_mode, relu
    ) -> tuple[Tensor, Tensor]:
        return switched(x, (kernel_size, stride, padding, dilation), ceil_mode, relu)

    def with_indices(call: Call, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return pool(call, x, *args[:5], **{**kwargs, "return_indices": True})

    pool = max_pooling(switched)
    calls = every_spelling(
        ("relu relu_ relu6 leaky_relu leaky_relu_ prelu rrelu rrelu_", _rectified),
        ("clamp clamp_ clip clip_ clamp_min clamp_min_", _clamp),
        ("hardtanh hardtanh_", _hardtanh),
        ("threshold threshold_ _threshold", _threshold),
        ("max_pool2d", pool),
        ("max_pool2d_with_indices", with_indices),
    )
    calls[F.batch_norm] = fixed_batch_norm
    calls[torch.ops.zfcuda.max_pool2d] = our_pool
    lrn = contrast_norm if norm == "gradient" else _unchanged
    calls[F.local_response_norm] = calls[torch.ops.zfcuda.local_response_norm] = lrn
    return Rules(calls, measure, masks=True)
