"""Tables of a batch of positions, which further images find again, as many as there is room for."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import Model

from zfcuda.cones.operators.patches import Kept, _bytes_of
from zfcuda.experiments.occlusion.engines import Cones, Request, engine_for

PLENTY = 2**40


def every_kind(m: Model, x: Tensor) -> Tensor:
    """A step of every kind that has tables of its own, of places and of pixels."""
    x = F.avg_pool2d(m.first(x).relu(), 3, 2, 1)
    x = m.up(x)
    pooled, switches = m.pool(x)
    x = x + m.unpool(pooled, switches)
    x = F.pad(x, (1, 2, 1, 2), mode="reflect")
    x = F.interpolate(x, scale_factor=2, mode="bilinear")
    x = F.pixel_unshuffle(x, 2)[:, ::4] * x[:, :, ::2, ::2]
    x = torch.cat([x, F.adaptive_max_pool2d(x, x.shape[2:])], 1)
    return m.last(x.mean((2, 3)))


def engine_of(size: int, stride: int) -> Cones:
    torch.manual_seed(0)
    net = Model(
        every_kind,
        first=nn.Conv2d(3, 8, 3, padding=1),
        up=nn.ConvTranspose2d(8, 8, 2, stride=2),
        pool=nn.MaxPool2d(2, return_indices=True),
        unpool=nn.MaxUnpool2d(2),
        last=nn.Linear(16, 5),
    ).eval()
    request = Request(size, stride, method="cone", layers=["first", "up"], max_memory=2**22)
    found = engine_for(net, torch.zeros(1, 3, 24, 24), request)
    assert isinstance(found, Cones)
    return found


def taken(engine: Cones) -> int:
    """Bytes of all tables that an engine keeps."""
    return sum(_bytes_of([*one._made.values()]) for one in engine.tables._of.values())


def test_tables_take_no_more_than_their_share_of_the_memory() -> None:
    """Most are of every pixel of every rectangle: no number of positions tells how much they
    are."""
    engine = engine_of(9, 1)
    wanted = replace(engine, tables=Kept(PLENTY))
    x = torch.randn(1, 3, 24, 24)
    wanted(x)
    share = engine.tables.room
    assert share == 2**22 // 16 < taken(wanted) == PLENTY - wanted.tables.room
    engine(x)
    assert 0 < taken(engine) <= share


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_however_many_are_kept_they_fit_each_other(share: float) -> None:
    engine = engine_of(5, 4)
    torch.manual_seed(1)
    x = torch.randn(3, 3, 24, 24)
    x[1, :, 3, 4] = torch.nan
    engine = replace(engine, tables=Kept(PLENTY))
    groups = [[0], [1, 2], [2], [0, 1], [2, 0]]
    wanted = [engine(x[group], target=0) for group in groups]
    some = replace(engine, tables=Kept(int(share * (PLENTY - engine.tables.room))))
    for group, one in zip(groups, wanted, strict=True):
        found = some(x[group], target=0)
        torch.testing.assert_close(found.logits, one.logits, rtol=0, atol=0, equal_nan=True)
        for name, sums in one.layers.items():
            own = found.layers[name].sums
            torch.testing.assert_close(own, sums.sums, rtol=0, atol=0, equal_nan=True)
    assert (some.tables.room < 0) == (share < 1)


def test_what_hides_its_tables_is_refused() -> None:
    table = np.zeros(4)
    assert _bytes_of(partial(np.add, [table], None)) > table.nbytes
    with pytest.raises(TypeError, match="nobody can tell"):
        _bytes_of(lambda: table)
