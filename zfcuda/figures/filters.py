"""First-layer filters, and what the first layers' maps see (Zeiler & Fergus 2014, figure 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from zfcuda.figures import style
from zfcuda.figures.maxima import PAGE, fired, given_or_own, mosaic, stacked
from zfcuda.figures.style import INK, MUTED, PALETTE, Array, draws, fit, to_array
from zfcuda.results.filters import FilterComparison, FilterResult

DEAD = "#D55E00"
_TITLE, _CAPTION, _CHARTS = 0.45, 0.42, 1.75  # inches
_LETTERS = 112  # of a caption across the page


@draws(FilterResult)
def first_layer_filters(
    result: FilterResult, filters: Array | None = None, title: str | None = None
) -> Figure:
    """The filters on one common scale, zero at mid grey and nothing clipped, dead ones marked, with
    their sizes and how much of them aliases.

    `filters` ``[M,3,h,w]`` are the result's own in the order red, green, blue.
    """
    figure, (upper, lower) = stacked([_CAPTION + PAGE * _height(result.filters), _CHARTS], title)
    _draw_filters(upper.subplots(), result, filters)
    sizes, aliasing = lower.subplots(1, 2)
    _draw_sizes(sizes, [result], [""])
    _draw_aliasing(aliasing, [result])
    return figure


@draws(FilterComparison)
def first_layers(
    result: FilterComparison,
    filters: Sequence[Array] | None = None,
    projections: Sequence[Mapping[str, Array]] | None = None,
    title: str | None = None,
) -> Figure:
    """A column for each model: its first-layer filters, what maps of its first layers see, each
    cell the projection of a map's strongest activation; below, how many filters are dead and how
    much of them aliases.

    `filters` ``[M,3,h,w]`` are the models' own in the order red, green, blue; `projections` are
    display arrays ``[M,1,h,w,3]`` in 0..1 by layer. Without them the results' own are drawn.
    """
    count = len(result.names)
    side = PAGE / count - 0.15
    caption = _CAPTION * (1 + (count > 2))  # narrow columns need twice the lines
    levels = [*zip_longest(*(top.layers for top in result.tops))]
    heights = [_TITLE + caption + side * max(_height(one.filters) for one in result.filters)]
    for level in levels:
        shown = [(top, layer) for top, layer in zip(result.tops, level, strict=True) if layer]
        heights.append(caption + side * max(_height(t.projections[layer]) for t, layer in shown))
    figure, (*rows, foot) = stacked([*heights, _CHARTS], title)
    axes = rows[0].subplots(1, count, squeeze=False)[0]
    for index, ax in enumerate(axes):
        own = None if filters is None else filters[index]
        _draw_filters(ax, result.filters[index], own, _LETTERS // count)
        name = fit(style.fit_name(result.names[index], 140 // count), 70 // count)
        ax.set_title(name, color=PALETTE[index % 2], fontweight="bold")
    for level, row in zip(levels, rows[1:], strict=True):
        axes = row.subplots(1, count, squeeze=False)[0]
        for index, (ax, top, layer) in enumerate(zip(axes, result.tops, level, strict=True)):
            own = None if projections is None else projections[index]
            if layer is None:
                ax.axis("off")
            else:
                _draw_projections(ax, top, layer, own, _LETTERS // count)
    sizes, aliasing = foot.subplots(1, 2)
    names = [fit(name, 40, 1) for name in result.names]
    _draw_sizes(sizes, result.filters, names)
    _draw_aliasing(aliasing, result.filters)
    return figure


def _columns(count: int) -> int:
    """Cells beside each other, twice as many as rows."""
    return max(1, int(np.ceil(np.sqrt(count * 2))))


def _height(pictures: Any) -> float:
    """Of a mosaic of pictures [M,...,h,w], in its width."""
    count, height, width = len(pictures), *pictures.shape[-2:]
    columns = _columns(count)
    return -(-count // columns) * max(1, height) / (columns * max(1, width))


def _draw_filters(
    ax: Axes, result: FilterResult, filters: Array | None, letters: int = _LETTERS
) -> None:
    weights = to_array(result.filters if filters is None else filters).astype(float)
    if weights.shape[1] != 3:
        weights = np.repeat(weights.mean(1, keepdims=True), 3, 1)
    largest = np.nanmax(np.abs(weights), initial=0.0) or 1.0
    shown = np.moveaxis(0.5 + 0.5 * np.nan_to_num(weights) / largest, 1, -1)
    columns = _columns(len(shown))
    picture, grid = mosaic(list(shown), columns)
    weak, silent = to_array(result.weak), to_array(result.silent)
    height, width = weights.shape[2:]
    stride = "×".join(map(str, dict.fromkeys(result.stride)))
    size = f"{len(shown)} filters {height}×{width}, stride {stride}"
    dead = f"{int((weak | silent).sum())} dead"
    if result.strongest is None:
        dead += f" (below {result.threshold:.0%} of the largest)"
    else:
        dead += (
            f" ({int(weak.sum())} below {result.threshold:.0%} of the largest, "
            f"{int(silent.sum())} never active)"
        )
    name = style.fit_name(result.layer, 24)
    style.show_image(
        ax, picture, caption="\n".join(fit(part, letters) for part in (f"{name}: {size}", dead))
    )
    for index in np.flatnonzero(weak | silent):
        top, left = (at - grid.gap / 2 for at in grid.corner(int(index)))
        box = (top, left, top + grid.height + grid.gap, left + grid.width + grid.gap)
        style.add_box(ax, box, fill=False, edgecolor=DEAD, linewidth=1.0)


def _draw_projections(
    ax: Axes, top: Any, layer: str, projections: Mapping[str, Array] | None, letters: int
) -> None:
    shown = given_or_own(projections, top.projections, layer, style.display_signal)
    maps = to_array(top.channels[layer])
    there = fired(*(to_array(one[layer])[maps, 0] for one in (top.images, top.values)))
    cells = [one[0] if ok else None for one, ok in zip(shown, there, strict=True)]
    height, width = to_array(top.projections[layer]).shape[-2:]
    name = style.fit_name(layer, 24)
    caption = f"{name}: strongest activations of {len(cells)} maps, {height}×{width} px"
    if not cells:
        ax.axis("off")
        return
    picture = mosaic(cells, _columns(len(cells)))[0]
    style.show_image(ax, picture, caption=fit(caption, letters))


def _draw_sizes(ax: Axes, results: Sequence[FilterResult], names: Sequence[str]) -> None:
    for index, (result, name) in enumerate(zip(results, names, strict=True)):
        rms = to_array(result.rms).astype(float)
        rms = np.sort(rms[np.isfinite(rms)])[::-1]
        share = rms / (rms.max(initial=0.0) or 1.0)
        ax.plot(
            np.linspace(0, 1, len(share)), np.maximum(share, 1e-3),
            color=PALETTE[index % 2], linestyle=style.LINE_STYLES[index % 4], label=name,
        )  # fmt: skip
    ax.axhline(results[0].threshold, color=DEAD, linewidth=0.8)
    ax.text(
        1.0, results[0].threshold / 1.1, "dead below", color=DEAD, fontsize=6.5,
        ha="right", va="top",
    )  # fmt: skip
    ax.set_yscale("log")
    lowest = min(0.02, max(results[0].threshold / 2, 1e-3))
    ax.set_ylim(lowest, 1.3)
    marks = [mark for mark in (0.001, 0.01, 0.1, 1.0) if mark >= lowest]
    ax.set_yticks(marks, [style.number(mark) for mark in marks])
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("filters, strongest first (share)")
    ax.set_ylabel("RMS / largest RMS")
    if any(names):
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.2)


def _draw_aliasing(ax: Axes, results: Sequence[FilterResult]) -> None:
    """A bar for each model: of its filters, with the mark of white noise, and of its responses."""
    groups = ["filters"]
    if any(result.response_aliasing is not None for result in results):
        groups.append("responses\n(median)")
    thick = 0.8 / len(results)
    for index, result in enumerate(results):
        shares = [result.aliasing_of_all]
        if result.response_aliasing is not None:
            shares.append(float(np.nanmedian(to_array(result.response_aliasing))))
        for group, share in enumerate(shares):
            at = group + (index - (len(results) - 1) / 2) * thick
            ax.barh(at, np.nan_to_num(share), 0.85 * thick, color=PALETTE[index % 2])
            inside = share > 0.25
            ax.text(
                share - 0.015 if inside else share + 0.02, at,
                style.number(share if not abs(share) < 1e-9 else 0.0), va="center",
                ha="right" if inside else "left", fontsize=6.5, color="white" if inside else INK,
            )  # fmt: skip
        noise = result.aliasing_of_noise
        at = (index - (len(results) - 1) / 2) * thick
        ax.plot([noise, noise], [at - thick / 2, at + thick / 2], color=INK, linewidth=1.0)
    ax.text(1.0, -0.52, "line: white noise", fontsize=6.5, color=MUTED, ha="right", va="bottom")
    ax.set_yticks(range(len(groups)), groups)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(groups) - 0.45, -0.55)
    ax.set_xlim(0, 1)
    ax.set_xlabel("energy above the Nyquist frequency (share)")
