"""Nothing is made on the host on the way to a kernel: it would be waited for, and no CUDA graph
could be captured."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zfcuda import ops


class Devices(TorchDispatchMode):
    """Collects the devices of all tensors that calls return."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.seen |= {t.device.type for t in tree_leaves(result) if isinstance(t, torch.Tensor)}
        return result


def windows(x):
    """The arguments that say what of ``x`` goes where."""
    return torch.empty(7, 13, dtype=torch.int64, device="meta"), x[1, 0].clone(), 8


def backward(call):
    """``call`` and its derivative, under a gradient that is expanded as a sum's is."""

    def both(x):
        inner = x.detach().requires_grad_()
        call(inner).sum().backward()
        assert inner.grad.shape == x.shape

    return both


CALLS = {
    "pool": lambda x: ops.max_unpool2d(*ops.max_pool2d(x, 2, relu=True), 2),
    "lrn": lambda x: ops.local_response_norm(x, 5),
    "occlude": lambda x: ops.occlude(x, torch.empty(7, 4, dtype=torch.int64, device="meta"), 0.5),
    "occlude with an image": lambda x: ops.occlude(
        x, torch.empty(7, 4, dtype=torch.int64, device="meta"), x[0]
    ),
    "spatial_max": ops.spatial_max,
    "warp_affine": lambda x: ops.warp_affine(x, torch.empty(7, 2, 3, device="meta"), 1),
    "gather_windows": lambda x: ops.gather_windows(x, [x[0, 0]], *windows(x)),
    "pool_windows": lambda x: ops.pool_windows(x, [x[0, 0]], *windows(x), 3, 2),
    "unpool_windows": lambda x: ops.unpool_windows(x.byte(), [x[0, 0]], *windows(x), 3, 2),
    "pool's backward": backward(
        lambda x: ops.max_unpool2d(*ops.max_pool2d(x, 2, relu=True), 2, relu=True)
    ),
}
CALLS |= {f"{name}'s backward": backward(CALLS[name]) for name in ("lrn", "warp_affine")}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_only_on_the_inputs_device(call):
    with Devices() as devices:
        call(torch.empty(2, 3, 8, 8, device="meta", dtype=torch.float16))
    assert devices.seen == {"meta"}
