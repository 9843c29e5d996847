"""Values that change where they are, seen through views: graphs against eager execution."""

import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from traces import Model, images, traced

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


PROGRAMS = [
    assigns, rectifies_a_part, fills_by_parts, looks_again, halves, one_by_one, flattened, borders,
    squared, parts_of_what_is_gone, another_name_of_what_is_gone, again_and_again,
]  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)
def test_changes_through_views(program):
    traced(Model(program, conv=nn.Conv2d(4, 4, 3, padding=1).double()))


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
    "turned": lambda t, n: t.transpose(-1, -2),
    "wider": lambda t, n: t.unsqueeze(1),
    "half": lambda t, n: t.chunk(2, 1)[n % 2] if t.shape[1] > 1 else t,
    "deeper": lambda t, n: t.unsqueeze(-1),
    "same": lambda t, n: t[:],
}
CHANGES = {
    "relu_": lambda t, n: t.relu_(),
    "add_": lambda t, n: t.add_(n),
    "mul_": lambda t, n: t.mul_(0.5 + n),
    "fill": lambda t, n: t[:, :1].fill_(n),
    "copy": lambda t, n: t.copy_(t.flip(1)),
}
INSTRUCTION = st.tuples(
    st.sampled_from([*VIEWS, *CHANGES, "sum"]), st.integers(0, 5), st.integers(0, 5)
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(INSTRUCTION, min_size=2, max_size=9))
def test_random_programs(program):
    def run(m, x):
        tensors = [m.conv(x)]
        for name, which, number in program:
            given = tensors[which % len(tensors)]
            if name in VIEWS:
                if given.dim() >= 3:
                    tensors.append(VIEWS[name](given, number))
            elif name in CHANGES:
                CHANGES[name](given, number)
            else:
                tensors.append(given * 2)
        return torch.cat([t.reshape(len(x), -1) for t in tensors], 1)

    traced(Model(run, conv=nn.Conv2d(4, 4, 3, padding=1).double()))
