"""Which calls had no rule and kept their gradient, read off the autograd graph, by the names that
the model's author gave them."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from torch import Tensor

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
    r"|_Rectified|_Unchanged|_Switched|\w+local_response_norm\w*"
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
