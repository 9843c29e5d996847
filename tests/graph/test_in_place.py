"""Values that change where they are, seen through views: graphs against eager execution."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from traces import Model, images, traced, values_of

from zfcuda.graph import Graph, Untraceable, trace


def assigns(m, x):
    x = x * 1
    x[:, 0] = 0
    return x


def rectifies_a_part(m, x):
    y = m.conv(x)
    y[:, :2].relu_()
    return y


def fills_by_parts(m, x):
    out = x.new_zeros(len(x), 6, *x.shape[2:])
    out[:, :4] = x
    out[:, 4:] = m.conv(x)[:, 1:3]
    return out


def looks_again(m, x):
    y = m.conv(x)
    part = y[:, 1:3]
    turned = part.transpose(2, 3)
    y.mul_(2)
    turned.add_(1)
    return torch.cat([y, part], 1)


def halves(m, x):
    a, b = m.conv(x).chunk(2, 1)
    a += b
    b *= a
    return torch.cat([a, b], 1)


def one_by_one(m, x):
    y = m.conv(x)
    for number, one in enumerate(y.unbind(1)):
        one.sub_(number)
    return y


def flattened(m, x):
    y = m.conv(x)
    y.view(len(y), -1)[:, ::2].neg_()
    return y


def borders(m, x):
    y = m.conv(x)
    y[:, :, 0] = 1
    y[..., -1].exp_()
    return y


def squared(m, x):
    x.mul_(x)  # the images themselves
    return m.conv(x)


def parts_of_what_is_gone(m, x):
    a, b = m.conv(x).chunk(2, 1)
    m.conv(x)  # its memory is free to be taken
    b.add_(1)
    del a
    return torch.cat([b, b.transpose(2, 3).transpose(2, 3)[:, :1]], 1)


def another_name_of_what_is_gone(m, x):
    y = m.conv(x)
    other = y.data  # of which torch tells no call
    del y
    x = m.conv(x)
    return other.relu_() + x


def again_and_again(m, x):
    for number in range(20):  # each in the place of one that is gone
        x = m.conv(x.mul_(0.5))
        x = x * 2 if number % 2 else x.add_(number)
    return x


def turned_where_it_is(m, x):
    y = m.conv(x)
    part = y[:, 1:3]
    y.transpose_(2, 3).relu_()
    y.unsqueeze_(1).add_(1).squeeze_(1)
    part.neg_()
    return torch.cat([y.mT, part], 1)


def another_by_data(m, x):
    y, z = m.conv(x), m.conv(x * 2)
    part = y[:, :2]
    y.data = z
    y.mul_(2)
    return torch.cat([y, z, part], 1)


def into_what_is_given(m, x):
    y = torch.mul(x, 2, out=x.new_empty(0))
    torch.cat([x[:, 2:], y[:, :2] * 3], 1, out=y)
    torch.clamp(y, min=0, out=y)
    return torch.add(y[:, :2], 1, out=y[:, 2:])


def in_strides(m, x):
    y = m.conv(x)
    wide = y.as_strided((len(y), *y.shape[:0:-1]), (y.stride(0), *y.stride()[:0:-1]))
    wide = wide.as_strided(wide.shape, wide.stride())  # says nothing
    return torch.cat([wide.flatten(1), y.as_strided((len(y), 7), (y.stride(0), 3), 2)], 1)


PROGRAMS = [
    assigns, rectifies_a_part, fills_by_parts, looks_again, halves, one_by_one, flattened, borders,
    squared, parts_of_what_is_gone, another_name_of_what_is_gone, again_and_again,
    turned_where_it_is, another_by_data, into_what_is_given, in_strides,
]  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)
def test_changes_through_views(program):
    in_any_order(Model(program, conv=nn.Conv2d(4, 4, 3, padding=1).double()))


def in_any_order(model):
    """The graph is the model's, whatever order of memory the images have."""
    graph, x = traced(model), images(3)
    with torch.no_grad():
        expected = model(x.clone())
    last = values_of(graph, x.contiguous(memory_format=torch.channels_last))[graph.output]
    assert torch.allclose(last, expected, 1e-10, 1e-12)


def test_values_are_let_go_of(monkeypatch):
    """Else all of them would be there at once, and their memory new for each."""
    living, most = [], []

    def note(value):
        living.append(weakref.ref(value))
        living[:] = [one for one in living if one() is not None]
        most.append(len(living))
        return value

    def run(m, x):
        for _ in range(8):
            x = note(x * 2).relu()
        return x

    evaluate = Graph.evaluate
    monkeypatch.setattr(Graph, "evaluate", lambda *args: note(evaluate(*args)))
    trace(Model(run).eval(), images())
    assert len(most) >= 8 * 4 and max(most) <= 3


UNDONE = {
    "through expand": lambda y: y.unsqueeze(1).expand(-1, 2, -1, -1, -1)[:, 0].mul_(2),
    "through as_strided": lambda y: y.as_strided((len(y), 9), (y.stride(0), 1)).mul_(2),
    "resizes a tensor": lambda y: torch.mul(y.sum(1, keepdim=True), 2, out=y),
    "another place in memory": lambda y: y.set_(y * 2),
    "other memory": lambda y: y[:, :2].as_strided((len(y), 9), (y.stride(0), 50)),
    "several tensors at once": lambda y: torch._foreach_mul_([y, y * 2], 2),
}


@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized")
@pytest.mark.parametrize("said", UNDONE)
def test_what_is_refused_says_why(said):
    def run(m, x):
        y = m.conv(x)
        UNDONE[said](y)
        return y * 1

    with pytest.raises(Untraceable, match=said):
        trace(Model(run, conv=nn.Conv2d(4, 4, 3, padding=1).double()).eval(), images())


def test_what_cannot_be_undone_is_told():
    def spreads(m, x):
        y = x.sum(1, keepdim=True) * 1
        y.unfold(2, 2, 1).mul_(2)
        return y

    with pytest.raises(Untraceable, match="through unfold"):
        trace(Model(spreads).eval(), images())


VIEWS = {
    "channels": lambda t, n: t[:, n % 2 : 2 + n % 3],
    "one channel": lambda t, n: t[:, n % t.shape[1]],
    "rows": lambda t, n: t[:, :, n % 3 :],
    "every other": lambda t, n: t[..., n % 2 :: 2],
    "turned": lambda t, n: t.transpose(-1, -2),
    "moved": lambda t, n: t.movedim(-1, 1),
    "wider": lambda t, n: t.unsqueeze(1),
    "half": lambda t, n: t.chunk(2, 1)[n % 2] if t.shape[1] > 1 else t,
    "split": lambda t, n: t.split([1, t.shape[-1] - 1], -1)[n % 2],
    "unbound": lambda t, n: t.unbind(1)[-1],
    "deeper": lambda t, n: t.unsqueeze(-1),
    "flat": lambda t, n: t.flatten(2) if n % 2 else t.flatten(1, 2),
    "same": lambda t, n: t[:],
    "data": lambda t, n: t.data,
    "detached": lambda t, n: t.detach(),
    "strided": lambda t, n: t.as_strided(t.shape, t.stride()),
    "diagonal": lambda t, n: t.diagonal(0, -2, -1),
}
CHANGES = {
    "relu_": lambda t, o, n: t.relu_(),
    "leaky_relu": lambda t, o, n: F.leaky_relu(t, 0.1, inplace=True),
    "hardtanh": lambda t, o, n: F.hardtanh(t, inplace=True),
    "add_": lambda t, o, n: t.add_(n),
    "mul_": lambda t, o, n: t.mul_(0.5 + n),
    "sub_": lambda t, o, n: t.sub_(t * 0.5),
    "fill": lambda t, o, n: t[:, :1].fill_(n),
    "item": lambda t, o, n: t[..., n % t.shape[-1]].copy_(t[..., 0] * 1),
    "list": lambda t, o, n: t.index_fill_(1, torch.tensor([0]), n),
    "mask": lambda t, o, n: t.masked_fill_(t > 0.3, n),
    "copy": lambda t, o, n: t.copy_(t.flip(1)),
    "copy other": lambda t, o, n: t.copy_(o) if t.shape == o.shape else t,
    "its data": lambda t, o, n: t.data.mul_(2),
    "other data": lambda t, o, n: setattr(t, "data", o * 2),
    "turn": lambda t, o, n: t.transpose_(-1, 1 + n % (t.dim() - 1)),
    "widen": lambda t, o, n: t.unsqueeze_(1 + n % 2),
    "narrow": lambda t, o, n: t.squeeze_(1 + n % (t.dim() - 1)),
    "out": lambda t, o, n: torch.mul(t, 2, out=t),
    "out of a part": lambda t, o, n: torch.mul(t[:, :1] * 1, 3, out=t[:, -1:]),
    "out of all": lambda t, o, n: torch.cat([t[:, 1:] * 1, t[:, :1] * 1], 1, out=t),
    "out of nothing": lambda t, o, n: torch.add(t, 1, out=t.new_empty(0)),
}
INSTRUCTION = st.tuples(
    st.sampled_from([*VIEWS, *CHANGES, "new", "forget"]), st.integers(0, 5), st.integers(0, 5)
)


@settings(max_examples=200)
@given(st.lists(INSTRUCTION, min_size=2, max_size=10))
def test_random_programs(program):
    def run(m, x):
        tensors = [m.conv(x)]
        for name, which, number in program:
            given, other = tensors[which % len(tensors)], tensors[number % len(tensors)]
            if name == "new":
                tensors.append(given * 2)
            elif name == "forget" and len(tensors) > 1:
                del tensors[which % len(tensors)]
            elif name in VIEWS and 3 <= given.dim() < 6:
                tensors.append(VIEWS[name](given, number))
            elif name in CHANGES and 2 <= given.dim() < 6:
                CHANGES[name](given, other, number)
            del given, other
        return torch.cat([t.reshape(len(x), -1) for t in tensors], 1)

    in_any_order(Model(run, conv=nn.Conv2d(4, 4, 3, padding=1).double()))
