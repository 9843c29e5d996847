"""Results that zfcuda 0.1.0 wrote, by their kinds, and whether two results are the same."""

import dataclasses
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from zfcuda import results

WRITTEN = Path(__file__).parents[1] / "written_by_0_1_0" / "written.zip"
with zipfile.ZipFile(WRITTEN) as _archive:
    _paths = [Path(name) for name in _archive.namelist()]
KINDS = {
    path.stem: getattr(results, path.stem)
    for path in _paths
    if path.parent.name == "results" and path.suffix == ".npz"
}


def assert_same(one, other, exact=True):
    """Results, or parts of them: to the bit, or but for rounding, the seconds they took, and the
    precision, which 0.1.0 did not note."""
    assert type(one) is type(other)
    if isinstance(one, Tensor):
        assert one.dtype == other.dtype and one.shape == other.shape
        if exact:
            assert torch.equal(
                *(t.reshape(-1).contiguous().view(torch.uint8) for t in (one, other))
            )
        else:
            assert np.allclose(one, other, rtol=1e-5, atol=1e-6, equal_nan=True)
    elif dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            if exact or field.name not in ("seconds", "precision"):
                assert_same(getattr(one, field.name), getattr(other, field.name), exact)
    elif isinstance(one, dict):
        assert list(one) == list(other) if exact else one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key], exact)
    elif isinstance(one, tuple):
        for own, item in zip(one, other, strict=True):
            assert_same(own, item, exact)
    elif isinstance(one, float) and not exact:
        assert one == pytest.approx(other, nan_ok=True)
    else:
        assert one == other or (one != one and other != other)


assert_close = partial(assert_same, exact=False)
