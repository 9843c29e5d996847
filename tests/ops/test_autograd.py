"""Differentiation, forward and reverse: the right derivative or an error, never a silent zero; and
what torch asks of operators (``opcheck``)."""

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from strategies import DTYPES, LAYOUTS, WINDOWS, image
from torch.func import jacfwd, jvp

from zfcuda import ops
from zfcuda.ops import reference

SIZE = (7, 9)
WINDOW = ((3, 3), (2, 2), (1, 1), (1, 1))
SWITCHES = ops.max_pool2d(image(2, 3, SIZE, torch.float64), *WINDOW)[1]
MATRICES = torch.tensor([[[0.8, 0.3, 1.0], [-0.2, 1.1, 0.5]], [[1.0, 0, 0], [0, 1, 0]]]).double()

# The op, and the same in torch's own, differentiable operations.
PAIRS = {
    "max_pool2d": (
        lambda x: ops.max_pool2d(x, *WINDOW)[0],
        lambda x: reference.max_pool2d(x, *WINDOW)[0],
    ),
    "max_pool2d, relu": (
        lambda x: ops.max_pool2d(x, *WINDOW, relu=True)[0],
        lambda x: reference.max_pool2d(x, *WINDOW, relu=True)[0],
    ),
    **{
        f"max_unpool2d, {overlap}{', relu' if relu else ''}": (
            lambda y, *how: ops.max_unpool2d(y, SWITCHES, *WINDOW, SIZE, *how),
            lambda y, *how: reference.max_unpool2d(y, SWITCHES, *WINDOW, SIZE, *how),
            relu,
            overlap,
        )
        for relu in (False, True)
        for overlap in ("sum", "overwrite")
    },
    **{
        f"max_pool2d, {name}": (
            lambda x, *window: ops.max_pool2d(x, *window)[0],
            lambda x, *window: reference.max_pool2d(x, *window)[0],
            *WINDOWS[name],
        )
        for name in ("3/2 ceil, the ZF pool", "dilated", "uneven")
    },
    **{
        f"local_response_norm, {constants}": (
            ops.local_response_norm,
            reference.local_response_norm,
            *constants,
        )
        for constants in ((4, 0.5, 0.75, 2.0), (5, 0.5, 0.75, 1.0), (4, 0.5, 0.6, 1.0))
    },
    "warp_affine": (
        lambda x: ops.warp_affine(x, MATRICES, 0.5),
        lambda x: reference.warp_affine(x, MATRICES, 0.5),
    ),
}


def inputs(name, dtype=torch.float64, layout=torch.contiguous_format):
    size = SWITCHES.shape[2:] if "unpool" in name else SIZE
    return (
        image(2, 3, size, dtype, layout),
        image(2, 3, size, dtype, layout),
    )


@pytest.mark.parametrize("name", PAIRS)
def test_equals_the_derivative_of_the_reference(name):
    ours, truth, *how = PAIRS[name]
    for layout in LAYOUTS.values():
        x, dx = inputs(name, layout=layout)
        y, dy = jvp(lambda t: ours(t, *how), (x,), (dx,))
        expected, expected_dy = jvp(lambda t: truth(t, *how), (x,), (dx,))
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(dy, expected_dy)
        assert dy.abs().sum() > 0


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dual_numbers_of_every_dtype(name, dtype):
    ours, _, *how = PAIRS[name]
    x, dx = inputs(name, dtype)
    expected = jvp(lambda t: ours(t, *how), (x.double(),), (dx.double(),))[1]
    with forward_ad.dual_level():
        y, dy = forward_ad.unpack_dual(ours(forward_ad.make_dual(x, dx), *how))
    assert dy.dtype == y.dtype == dtype
    tolerance = 1e-4 if dtype in (torch.float32, torch.float64) else 3e-2
    torch.testing.assert_close(dy.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", PAIRS)
def test_beside_reverse_mode(name):
    """A dual number that requires grad has both derivatives."""
    ours, truth, *how = PAIRS[name]
    x, dx = inputs(name)
    found = []
    for op in (ours, truth):
        x.requires_grad_().grad = None
        with forward_ad.dual_level():
            y, dy = forward_ad.unpack_dual(op(forward_ad.make_dual(x, dx), *how))
        y.square().sum().backward()
        found.append((dy.detach(), x.grad))
    torch.testing.assert_close(found[0], found[1])


def test_tangent_of_a_fill():
    x, dx = inputs("warp_affine")
    fill, dfill = torch.rand(2, 3, dtype=torch.float64)
    both = [
        jvp(lambda x, fill, warp=warp: warp(x, MATRICES, fill), (x, fill), (dx, dfill))[1]
        for warp in (ops.warp_affine, reference.warp_affine)
    ]
    torch.testing.assert_close(*both)
    alone = jvp(lambda fill: ops.warp_affine(x, MATRICES, fill), (fill,), (dfill,))[1]
    torch.testing.assert_close(alone, both[1] - ops.warp_affine(dx, MATRICES))


def windows_op(name):
    """One of the windows' ops, with a window of one pixel, as a function of its map."""
    window = torch.tensor([[0, -1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0]])

    def call(x):
        out = x.new_zeros(1, 3)
        pixels = x.permute(0, 2, 3, 1)
        if name == "unpool_windows":
            taps = torch.zeros(2, *SIZE, 3, dtype=torch.uint8)
            ops.unpool_windows(taps, [pixels.flatten(0, 2)], window, out, 1, 2)
        elif name == "pool_windows":
            ops.pool_windows(pixels, [], window, out, 1, 2)
        else:
            ops.gather_windows(pixels, [], window, out, 1)
        return out

    return call


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("occlude", lambda x: ops.occlude(x, torch.tensor([[0, 0, 2, 2]]))),
        ("spatial_max", lambda x: ops.spatial_max(x)[0]),
        *((name, windows_op(f"{name}")) for name in ("gather_windows", "pool_windows")),
        ("unpool_windows", windows_op("unpool_windows")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_others_refuse(name, call):
    x, dx = inputs(name)
    call(x)
    message = f"zfcuda::{name} has no derivative"
    with pytest.raises(RuntimeError, match=message):
        jvp(call, (x,), (dx,))
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match=message):
        call(forward_ad.make_dual(x, dx))
    with pytest.raises(RuntimeError, match=f"{name} has no derivative"):
        call(x.requires_grad_()).sum().backward()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("name", PAIRS)
def test_gradcheck(name, layout):
    ours, _, *how = PAIRS[name]
    x, _ = inputs(name, layout=layout)
    assert torch.autograd.gradcheck(lambda t: ours(t, *how), x.requires_grad_())


@pytest.mark.parametrize("name", PAIRS)
def test_second_derivative_says_so(name):
    ours, _, *how = PAIRS[name]
    x, _ = inputs(name)
    y = ours(x.requires_grad_(), *how)
    (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        grad.sum().backward()


def overloads(layout):
    """Each operator by its name, and arguments."""
    x = image(2, 3, SIZE, torch.float32, layout)
    leaf, window = x.clone().requires_grad_(), tuple(map(list, WINDOW))
    boxes, constants = torch.tensor([[0, 0, 3, 4], [-4, -5, 2, 3]]), (5, 1e-4, 0.75, 1.0)
    last = layout is torch.channels_last
    y, switches = (t.contiguous(memory_format=layout) for t in ops.max_pool2d(x, *WINDOW))
    for relu in (False, True):
        yield "max_pool2d", (leaf, *window, True, relu)
        yield "max_pool2d_backward", (y, switches, y if relu else None, *window, list(SIZE))
    yield "max_unpool2d", (y.requires_grad_(), switches, *window, list(SIZE), True, False, False)
    yield "max_unpool2d_backward", (x, switches, x, *window, True)
    yield "local_response_norm", (leaf, *constants)
    yield "local_response_norm_backward", (x, x, *constants)
    yield "occlude", (x, boxes, torch.zeros(3))
    yield "spatial_max", (x,)
    yield "warp_affine", (leaf, MATRICES, torch.zeros(3))
    yield "warp_affine_backward", (ops.warp_affine(x, MATRICES), MATRICES, last)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_opcheck(layout):
    for name, arguments in overloads(layout):
        torch.library.opcheck(getattr(torch.ops.zfcuda, name).default, arguments)


@pytest.mark.parametrize("name", PAIRS)
def test_forward_over_reverse_refuses(name):
    ours, _, *how = PAIRS[name]
    x, dx = inputs(name)
    op = name.split(",")[0]
    loss = torch.sum if op == "local_response_norm" else lambda y: y.square().sum()
    with forward_ad.dual_level():
        y = ours(forward_ad.make_dual(x.requires_grad_(), dx), *how)
        with pytest.raises(RuntimeError, match=f"{op}_backward has no derivative"):
            loss(y).backward()


def test_matrices_and_a_fill_that_would_lose_their_gradient():
    x, _ = inputs("warp_affine")
    with pytest.raises(RuntimeError, match="no gradient for its matrices"):
        jvp(lambda m: ops.warp_affine(x, m), (MATRICES,), (MATRICES,))
    with pytest.raises(ValueError, match="no gradient for its fill"):
        ops.warp_affine(x, MATRICES, torch.zeros(3, requires_grad=True))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", ["max_pool2d, relu", "warp_affine"])
def test_whole_jacobians(name):
    ours, truth = PAIRS[name]
    x = image(1, 2, (3, 4), torch.float64)
    torch.testing.assert_close(jacfwd(ours)(x), jacfwd(truth)(x))
