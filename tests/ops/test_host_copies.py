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


@pytest.mark.parametrize(
    "call",
    [
        lambda x: ops.max_unpool2d(*ops.max_pool2d(x, 2, relu=True), 2),
        lambda x: ops.local_response_norm(x, 5),
        lambda x: ops.occlude(x, torch.empty(7, 4, dtype=torch.int64, device="meta"), 0.5),
        lambda x: ops.occlude(x, torch.empty(7, 4, dtype=torch.int64, device="meta"), x[0]),
        lambda x: ops.spatial_max(x),
        lambda x: ops.warp_affine(x, torch.empty(7, 2, 3, device="meta"), 1),
        lambda x: ops.gather_windows(x, [x[0, 0]], *windows(x)),
        lambda x: ops.pool_windows(x, [x[0, 0]], *windows(x), 3, 2),
        lambda x: ops.unpool_windows(x.byte(), [x[0, 0]], *windows(x), 3, 2),
        backward(lambda x: ops.max_unpool2d(*ops.max_pool2d(x, 2, relu=True), 2, relu=True)),
        backward(lambda x: ops.local_response_norm(x, 5)),
        backward(lambda x: ops.warp_affine(x, torch.empty(7, 2, 3, device="meta"), 1)),
    ],
    ids=[
        *("pool", "lrn", "occlude", "occlude with an image", "spatial_max"),
        "warp_affine",
        *("gather_windows", "pool_windows", "unpool_windows"),
        *("pool's backward", "lrn's backward", "warp_affine's backward"),
    ],
)
def test_only_on_the_inputs_device(call):
    with Devices() as devices:
        call(torch.empty(2, 3, 8, 8, device="meta", dtype=torch.float16))
    assert devices.seen == {"meta"}
