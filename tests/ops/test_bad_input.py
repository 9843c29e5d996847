"""What an op refuses: an argument changed in a good call, the error, and what it says."""

import gc
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from zfcuda import ops
from zfcuda.ops.library import _translated

NONE = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
GOOD = {
    ops.max_pool2d: {"x": torch.zeros(1, 1, 8, 8), "kernel_size": 3},
    ops.max_unpool2d: {
        "y": torch.zeros(1, 1, 4, 4),
        "switches": NONE,
        "kernel_size": 3,
        "stride": 2,
        "output_size": (9, 9),
    },
    ops.local_response_norm: {"x": torch.zeros(1, 1, 2, 2), "size": 5},
    ops.occlude: {"x": torch.zeros(1, 3, 4, 4), "boxes": torch.tensor([[0, 0, 3, 4]])},
    ops.spatial_max: {"x": torch.zeros(1, 3, 4, 4)},
    ops.warp_affine: {"x": torch.zeros(1, 3, 4, 4), "matrices": torch.zeros(1, 2, 3)},
}
MAPS = r"\[N,C,H,W\], got shape \[3, 4, 4\]"
REFUSED = {
    ops.max_pool2d: [
        ({"kernel_size": 0}, ValueError, "kernel_size must be two ints of at least 1"),
        ({"stride": -1}, ValueError, "stride must be two ints of at least 1"),
        ({"stride": 0}, ValueError, "stride must be two ints of at least 1"),
        ({"padding": 2}, ValueError, "at most half"),
        ({"dilation": 0}, ValueError, "dilation must be two ints of at least 1"),
        ({"kernel_size": 9}, ValueError, "too small for kernel_size"),
        ({"kernel_size": (1, 2, 3)}, ValueError, r"pair of ints, got \(1, 2, 3\)"),
        ({"kernel_size": 3.0}, ValueError, "kernel_size must be an int or a pair of ints, got"),
        ({"kernel_size": "3"}, ValueError, "kernel_size must be an int or a pair of ints, got"),
        ({"kernel_size": (3, None)}, ValueError, "must be an int or a pair of ints, got"),
        ({"x": torch.zeros(3, 4, 4)}, ValueError, MAPS),
        ({"x": torch.zeros(1, 1, 8, 8, dtype=torch.int32)}, TypeError, "got Int"),
        ({"x": torch.zeros(1, 1, 0, 8)}, ValueError, "too small"),
    ],
    ops.max_unpool2d: [
        ({"overlap": "mean"}, ValueError, "'sum' or 'overwrite', got 'mean'"),
        ({"switches": torch.zeros(1, 1, 4, 4)}, TypeError, "got Float"),
        ({"switches": NONE.long()}, TypeError, "got Long"),
        ({"switches": None}, TypeError, "switches of a 3x3 window are Byte, got"),
        ({"switches": torch.zeros(1, 1, 4, 5, dtype=torch.uint8)}, ValueError, "must have shape"),
        ({"output_size": (20, 9)}, ValueError, "does not come from an input of size"),
        ({"output_size": (0, 9)}, ValueError, "two positive ints"),
        ({"y": torch.zeros(4, 4)}, ValueError, r"\[N,C,OH,OW\], got shape \[4, 4\]"),
    ],
    ops.local_response_norm: [
        ({"size": 0}, ValueError, "size must be at least 1, got 0"),
        ({"x": torch.zeros(2, 2)}, ValueError, r"\[N,C,H,W\], got shape \[2, 2\]"),
        ({"x": torch.zeros(1, 1, 2, 2, dtype=torch.int64)}, TypeError, "got Long"),
        ({"x": torch.empty(1, 1, 2, 2, dtype=torch.uint4)}, TypeError, "got UInt4"),
    ],
    ops.occlude: [
        ({"boxes": torch.zeros(2, 3).long()}, ValueError, r"\[P,4\].*got shape \[2, 3\]"),
        ({"boxes": torch.zeros(2, 4)}, TypeError, "boxes must be int64, got Float"),
        ({"boxes": [[0, 0, 1, 1]]}, TypeError, "boxes must be a tensor, got list"),
        ({"fill": torch.zeros(2)}, ValueError, r"or of shape \[3\] or \[3, 4, 4\], got \[2\]"),
        ({"x": torch.zeros(3, 4, 4)}, ValueError, MAPS),
    ],
    ops.spatial_max: [
        ({"x": torch.zeros(3, 4, 4)}, ValueError, MAPS),
        ({"x": torch.zeros(1, 3, 4, 4).int()}, TypeError, r"float32.*got"),
    ],
    ops.warp_affine: [
        ({"matrices": torch.zeros(2, 3)}, ValueError, r"\[M,2,3\], got shape \[2, 3\]"),
        ({"matrices": torch.zeros(1, 2, 3, requires_grad=True)}, ValueError, "no gradient"),
        ({"matrices": [[[1, 0, 0], [0, 1, 0]]]}, TypeError, "matrices must be a tensor, got list"),
        ({"fill": torch.zeros(3, 4, 4)}, ValueError, r"or of shape \[3\], got \[3, 4, 4\]"),
        ({"x": torch.zeros(3, 4, 4)}, ValueError, MAPS),
    ],
}


@pytest.mark.parametrize(
    ("op", "change", "error", "sentence"),
    [(op, *row) for op, rows in REFUSED.items() for row in rows],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_refused(op, change, error, sentence):
    op(**GOOD[op])
    with pytest.raises(error, match=sentence):
        op(**GOOD[op] | change)


@pytest.mark.parametrize(
    ("op", "change", "error", "sentence"),
    [
        (ops.spatial_max, {"x": torch.zeros(1, 3, 4, 4).int()}, TypeError, "float32.*got Int"),
        (ops.local_response_norm, {"size": 0}, ValueError, "size must be at least 1, got 0"),
    ],
    ids=["type", "value"],
)
def test_compiled_graphs_raise_the_same(op, change, error, sentence):
    compiled = torch.compile(lambda **given: op(**given), backend="aot_eager", fullgraph=True)
    with pytest.raises(error, match=sentence):
        compiled(**GOOD[op] | change)


@pytest.mark.parametrize("error", [ValueError, TypeError])
def test_ops_that_fail_leave_nothing_behind(error):
    """Also through torch's C interface, which hands over what it owns."""
    x = torch.zeros(1, 1, 8, 8, dtype=torch.float32 if error is ValueError else torch.int32)
    storage = weakref.ref(x.untyped_storage())
    for _ in range(3):
        with pytest.raises(error):
            ops.max_pool2d(x, 3, padding=2)
    del x
    gc.collect()
    assert storage() is None


def test_memory_that_is_not_there():
    x = torch.zeros(1).expand(2**20, 3, 2**10, 2**10)
    with pytest.raises(RuntimeError, match=r"\[1048576, 3, 1024, 1024\] on cpu failed"):
        ops.local_response_norm(x, 5)


def test_memory_that_is_not_there_for_a_gradient():
    grad = torch.zeros(2, 1, 1, 1, 1).expand(2, 2**40, 1, 1, 1)
    matrices = torch.zeros(1, 2, 3, dtype=torch.float64).expand(2**40, 2, 3)
    with pytest.raises(RuntimeError, match=r"^zfcuda: copying a tensor of shape \[2, 1099"):
        torch.ops.zfcuda.warp_affine_backward(grad, matrices, False)


@pytest.mark.parametrize(
    ("raised", "seen"),
    [(IndexError, TypeError), (RuntimeError, ValueError), (ValueError, ValueError)],
)
def test_whatever_torch_makes_of_an_error(raised, seen):
    """Versions of torch differ in it."""

    def op():
        raise raised("max_pool2d: what is wrong")

    with pytest.raises(seen, match="max_pool2d: what is wrong"):
        _translated(op)()


def test_errors_of_others_stay_theirs():
    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            raise IndexError("list index out of range")

    x = torch.zeros(1, 3, 4, 4)
    with Mode(), pytest.raises(IndexError):
        ops.spatial_max(x)


def test_memory_that_a_gpu_has_not():
    def op():
        raise RuntimeError("zfcuda: CUDA out of memory: allocating a tensor of shape [9] failed")

    with pytest.raises(torch.OutOfMemoryError, match=r"shape \[9\]"):
        _translated(op)()
