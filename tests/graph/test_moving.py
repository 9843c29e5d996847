"""Chains of calls that move numbers, and those that do more."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from traces import Model, images, only, rules, traced, values_of

from zfcuda.graph.rules import Concat, Opaque, Rearrangement


def rearranged(rule: Rearrangement, x: Tensor) -> Tensor:
    """The rule on maps [n,C,h,w], element by element."""
    channels = sum(len(part.channels) for part in rule.parts)
    first = rule.parts[0]
    out = torch.full((len(x), channels, len(first.rows), len(first.columns)), torch.nan)
    out = out.to(x.dtype)
    for part in rule.parts:
        for y, row in enumerate(part.rows):
            for c, column in enumerate(part.columns):
                sources = part.sources[part.row_phases[y], part.column_phases[c]]
                copied = x[:, sources, row, column] if min(row, column) >= 0 else rule.fill
                out[:, part.channels, y, c] = copied
    return out


@st.composite
def movements(draw):
    """A function of maps [n,4,h,w], and their size."""
    steps, size, channels = [], [draw(st.integers(2, 7)), draw(st.integers(2, 7))], 4
    first = tuple(size)
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["pad", "crop", "flip", "roll", "shuffle", "unshuffle", "up"]))
        if kind == "pad":
            modes = ["constant", "replicate", "circular"]
            if channels > 16:  # many chains of many maps take long
                continue
            most = min(2, *size)  # it wraps around once
            pad = draw(st.tuples(*[st.integers(0, most)] * 4))
            mode = draw(st.sampled_from(modes))
            steps.append(lambda x, pad=pad, mode=mode: F.pad(x, pad, mode=mode))
            size = [size[0] + pad[2] + pad[3], size[1] + pad[0] + pad[1]]
        elif kind == "crop":
            rows, columns = (
                slice(draw(st.integers(0, min(1, n - 1))), n, draw(st.integers(1, 3))) for n in size
            )
            steps.append(lambda x, rows=rows, columns=columns: x[:, :, rows, columns])
            size = [len(range(n)[s]) for n, s in zip(size, (rows, columns), strict=True)]
        elif kind == "flip":
            dims = draw(st.sampled_from([(1,), (2,), (3,), (1, 3)]))
            steps.append(lambda x, dims=dims: x.flip(dims))
        elif kind == "roll":
            shifts = draw(st.tuples(*[st.integers(-3, 3)] * 3))
            steps.append(lambda x, shifts=shifts: x.roll(shifts, (1, 2, 3)))
        elif kind == "shuffle" and channels % 4 == 0:
            steps.append(lambda x: F.pixel_shuffle(x, 2))
            size, channels = [2 * n for n in size], channels // 4
        elif kind == "unshuffle" and all(n % 2 == 0 for n in size):
            steps.append(lambda x: F.pixel_unshuffle(x, 2))
            size, channels = [n // 2 for n in size], channels * 4
        elif kind == "up":
            steps.append(lambda x: F.interpolate(x, scale_factor=2))
            size = [2 * n for n in size]

    def function(x: Tensor) -> Tensor:
        for step in steps:
            x = step(x)
        return x * 1.0

    return function, first


@given(movements())
def test_chains_of_random_calls(case):
    function, size = case
    x = images(2, size)
    graph = traced(Model(lambda m, x: function(x)), x)
    for node, value in zip(graph.nodes, values := values_of(graph, x), strict=True):
        assert not isinstance(node.rule, Opaque)
        if isinstance(node.rule, Rearrangement):
            (below,) = node.inputs
            assert not isinstance(graph.nodes[below].rule, Rearrangement)
            assert torch.equal(rearranged(node.rule, values[below]), value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_numbers_that_a_type_rounds(dtype):
    """More rows, columns and channels than it can tell apart."""
    x = torch.randn(1, 300, 270, 6).to(dtype)
    function = Model(
        lambda m, x: F.pad(F.pixel_shuffle(x, 2)[:, :, ::2].flip(2), (1, 0, 2, 3), mode="circular")
    )
    (part,) = only(function, x).parts
    assert part.sources[0].tolist() == [[*range(0, 300, 4)], [*range(1, 300, 4)]]
    assert part.rows.tolist() == [1, 0, *range(269, -1, -1), 269, 268, 267]


def test_what_new_memory_holds_does_not_matter():
    def forward(m, x):
        out = torch.empty(len(x), 4, 14, 10, dtype=x.dtype)
        out[:, :, 1:13] = x
        out[:, :, 0] = out[:, :, -1] = 3
        return out

    rule = only(forward)
    assert rule.fill == 3 and len(rule.parts) == 1
    assert rule.parts[0].rows.tolist() == [-1, *range(12), -1]


@pytest.mark.parametrize("size", [(4, 4), (6, 4)])
def test_maps_as_large_as_they_are_many(size):
    def forward(m, x):
        return F.pixel_unshuffle(x.transpose(1, 2).contiguous().transpose(1, 2), 2)

    rule = rules(traced(Model(forward), images(2, size)))[-1]
    assert isinstance(rule, Rearrangement) and len(rule.parts) == 4


def test_a_chain_ends_where_something_else_looks():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pad, self.shuffle = nn.ZeroPad2d(1), nn.PixelShuffle(2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.pad(x)
            return self.shuffle(x[:, :, ::2]) + x.mean((1, 2, 3))[:, None, None, None]

    graph = traced(Net().double())
    assert [node.layers for node in graph.nodes[1:3]] == [("pad",), ("shuffle",)]
    assert all(isinstance(node.rule, Rearrangement) for node in graph.nodes[1:3])


def test_vectors_are_no_maps():
    """What is flattened is known before."""
    graph = traced(Model(lambda m, x: F.pad(x, (1, 1, 1, 1)).flatten(1)))
    assert [type(rule) for rule in rules(graph)] == [Rearrangement, Opaque]


def test_rows_that_depend_on_columns():
    graph = traced(Model(lambda m, x: F.pad(x, (1, 1, 0, 0)).rot90(1, (2, 3)).contiguous()))
    assert isinstance(rules(graph)[0], Rearrangement)
    assert isinstance(rules(graph)[-1], Opaque)


def test_several_maps():
    """Below each other: of one map they are a chain, of two a barrier whose parts are known."""
    assert isinstance(only(lambda m, x: torch.cat([x[:, :, 3:], x], 2)), Rearrangement)
    graph = traced(Model(lambda m, x: torch.cat([F.pad(x.relu(), (1, 1)), F.pad(x, (0, 2))], 2)))
    kinds = [type(rule) for rule in rules(graph)]
    assert kinds.count(Rearrangement) == 2 and kinds[-1] == Opaque
    graph = traced(Model(lambda m, x: torch.cat([x[..., ::2], x[..., 1::2]], 1)))
    assert [type(rule) for rule in rules(graph)] == [Rearrangement, Rearrangement, Concat]


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: F.pad(x, (1, 1)).half().double(),  # rounds
        lambda m, x: torch.cat([x[:, :, :2], x.abs()[:, :, 2:]], 2),  # does more
        lambda m, x: F.pad(F.pad(x, (1, 1)), (1, 1), value=2.0),  # two fillings
    ],
)  # fmt: skip
def test_what_is_more(forward):
    assert not isinstance(rules(traced(Model(forward)))[-1], Rearrangement)


def test_maps_without_rows():
    graph = traced(Model(lambda m, x: F.pad(x[:, :, 12:], (1, 1))))
    assert isinstance(rules(graph)[-1], Opaque)


def test_values_that_tell_where():
    def forward(m, x):
        return x.gather(2, x.argsort(2))

    assert isinstance(rules(traced(Model(forward)))[-1], Opaque)
