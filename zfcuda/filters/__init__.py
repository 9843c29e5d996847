"""The first layer's filters: which of them are dead, and how much of them aliases (Zeiler & Fergus
2014, section 4.1 and figure 6).

:mod:`.first_layer` looks at one model (what images make of its filters is :mod:`.looking`, what the
stride cannot represent :mod:`.aliasing`), :mod:`.comparing` at several; :mod:`.result` is what
comes out.
"""

from zfcuda.filters.aliasing import aliased_share
from zfcuda.filters.comparing import compare_filters
from zfcuda.filters.first_layer import first_layer_filters
from zfcuda.results.filters import FilterComparison, FilterResult

__all__ = [
    "FilterComparison",
    "FilterResult",
    "aliased_share",
    "compare_filters",
    "first_layer_filters",
]
