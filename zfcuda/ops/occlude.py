"""Every image under every occluder."""

from __future__ import annotations

from torch import Tensor

from zfcuda.ops.library import check_tensor, define, empty_copies, fill_of, kernels, no_derivative


def occlude(x: Tensor, boxes: Tensor, fill: float | Tensor = 0.0) -> Tensor:
    """Every image under every occluder, each output byte written once (Zeiler & Fergus 2014,
    section 4.2).

    Args:
        x: [N,C,H,W].
        boxes: int64 [P,4] of (y0, x0, y1, x1), half open, in pixels; may hang over the edge. Boxes
            on another device are copied to x's.
        fill: what the occluder shows: a number, one per channel [C], or an image [C,H,W].

    Returns:
        [N,P,C,H,W]; for a channels_last x each image is channels_last.

    Raises:
        ValueError: wrong ranks or shapes.
        TypeError: boxes that are not int64.
    """
    check_tensor(boxes, "boxes")
    return kernels.occlude(x, boxes.to(x.device), fill_of(x, fill, with_image=True))


define("occlude", lambda x, boxes, fill: empty_copies(x, boxes.shape[0]))
no_derivative("occlude", "occlusion is a forward experiment; detach x")
