"""Results that many figures are of; matplotlib's state, which no figure changes."""

import sys

import matplotlib as mpl
import pytest
import samples


@pytest.fixture(autouse=True)
def untouched_globals():
    before, had_pyplot = dict(mpl.rcParams), "matplotlib.pyplot" in sys.modules
    yield
    assert dict(mpl.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == had_pyplot


@pytest.fixture
def projections():
    return samples.projections()


@pytest.fixture
def background():
    return samples.background()


@pytest.fixture
def predictions():
    return samples.predictions()
