"""Figures 3 and 4 of the talk: what is said about each variant is that variant's."""

import dataclasses

import pytest
import torch
from samples import CLASS_NAMES
from tidy import assert_tidy

from zfcuda import figures
from zfcuda.data import Preprocessing


@pytest.mark.parametrize("preprocessing", [None, Preprocessing()])
def test_numbers_of_every_variant(background, preprocessing):
    shares = {layer: torch.tensor([0.5, 0.25, 1.0, torch.nan, 0.0]) for layer in
              background.projections}  # fmt: skip
    result = dataclasses.replace(background, on_object=shares)
    figure = figures.background_effect(result, preprocessing=preprocessing)
    written = assert_tidy(figure)
    p = result.probabilities[:, result.target]
    assert f"P(class 7) {p[0]:.2f}" in written
    for column in (1, 2, 3):
        change = f"{p[column] - p[0]:+.2f}".replace("-", "−")
        shown = {f"P {p[column]:.2f} ({change})", f"P {p[column]:.2f} (+0.00)"}
        assert shown & {*written}
    assert "not a number" in written  # the last variant's logits
    said = " ".join(written)
    assert "moved 10%" in said and "moved 350%" in said and "the reference" in said
    assert sum("25% on object" in text for text in written) == len(shares)
    assert sum("100% on object" in text for text in written) == len(shares)


def test_the_most_probable_classes(background):
    figure = figures.background_effect(background, class_names=CLASS_NAMES, k=3)
    assert_tidy(figure)
    probabilities, _ = background.top(1)
    bars = [ax for ax in figure.axes if ax.patches and not ax.images]
    # Of each class a pale bar for the whole and one for its share.
    for ax, p in list(zip(bars, probabilities[:, 0].tolist(), strict=False))[:4]:
        widths = [patch.get_width() for patch in ax.patches]
        assert len(widths) == 6 and widths[0] == 1 and widths[1] == pytest.approx(p)


def test_colours_are_shown_only_where_they_are_known(background):
    def first_is_grey(figure):
        picture = figure.axes[0].images[0].get_array()
        return bool((picture.max(axis=-1) - picture.min(axis=-1)).max() < 1e-6)

    stretched = 7 * background.images - 3
    raw = dataclasses.replace(background, images=stretched)
    shown = figures.background_effect(raw).axes[0].images[0].get_array()
    low, high = stretched[0].min(), stretched[0].max()
    expected = ((stretched[0] - low) / (high - low)).permute(1, 2, 0)
    assert torch.as_tensor(shown) == pytest.approx(expected, abs=1e-5)
    six = dataclasses.replace(
        background,
        images=background.images.repeat(1, 2, 1, 1),
        projections={n: own.repeat(1, 2, 1, 1) for n, own in background.projections.items()},
    )
    assert first_is_grey(figures.background_effect(six))
    assert not first_is_grey(figures.background_effect(background, preprocessing=Preprocessing()))


@pytest.mark.parametrize("variants", [2, 3, 7])
def test_any_number_of_variants(background, variants):
    """All pictures of a column are of one size."""
    chosen = [0, *[1] * (variants - 2), 4]
    fields = ("projections", "projection_change", "units", "activations")
    result = dataclasses.replace(
        background,
        variants=tuple(background.variants[i] for i in chosen),
        images=background.images[chosen],
        logits=background.logits[chosen],
        on_object={layer: torch.ones(variants) for layer in background.projections},
        sizes=dict.fromkeys(background.projections, (150, 1, 1)),
        **{
            name: {layer: value[chosen] for layer, value in getattr(background, name).items()}
            for name in fields
        },
    )
    figure = figures.background_effect(result, title="a title")
    assert any(text.startswith("unit 131: ") for text in assert_tidy(figure))
    assert figure.get_figwidth() == 7
    pictures = [ax for ax in figure.axes if ax.images and ax.get_subplotspec() is not None]
    widths = {round(ax.get_window_extent().width) for ax in pictures}
    assert len(pictures) == 4 * variants and max(widths) - min(widths) <= 1
