"""Which calls had no rule and kept their gradient, read off the autograd graph."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

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
_PRODUCT = re.compile(
    r"Mul|Mm|Mv|Bmm|Dot|Addmm|Addmv|Addbmm|Baddbmm|Addcmul|Outer|Ger|Linear|\w*Conv\w+"
)


def _is_transposed(name: str, signals: list[int]) -> bool:
    """Whether the gradient of the node ``name`` with respect to these operands is its transpose."""
    if len(signals) == 1 and (_PRODUCT.fullmatch(name) or (name == "Div" and signals == [0])):
        return True
    return bool(_TRANSPOSED.fullmatch(name))


def calls_left_to_gradient(output: Tensor, source: Tensor) -> list[str]:
    """Names of the calls between ``source`` (a leaf) and ``output`` that are neither linear in the
    signal nor covered by a rule, and therefore used their gradient at the forward point.

    Read off the autograd graph, so that nothing hidden in a composite or custom function is missed.
    """
    carries: dict[Any, bool] = {}  # node -> depends on source; filled from the input upwards
    left: dict[str, None] = {}  # an ordered set
    stack: list[tuple[Any, bool]] = [(output.grad_fn, False)]
    while stack:
        node, inputs_done = stack.pop()
        if inputs_done:
            signals = [i for i, (below, _) in enumerate(node.next_functions) if carries.get(below)]
            carries[node] = bool(signals) or getattr(node, "variable", None) is source
            name = re.sub(r"Backward\d*$", "", node.name()).rpartition("::")[2]
            if signals and not _is_transposed(name, signals):
                left[re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()] = None
        elif node is not None and node not in carries:
            carries[node] = False
            stack.append((node, True))
            stack.extend((below, False) for below, _ in node.next_functions)
    return [name.removeprefix("native_") for name in left]
