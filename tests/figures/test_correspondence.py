"""Table 1 as a figure: a row for each part, whatever it is called and how often it was drawn."""

import numpy as np
import pytest
import torch
from tidy import assert_tidy, drawn_texts

from zfcuda import figures
from zfcuda.results.correspondence import CorrespondenceResult

LAYERS = ("features.3.expand3x3_activation", "a.very.deeply.nested.module.named.conv", "fc7")
PARTS = ("right eye", "the tip of the left ear of a cat with $5$", "random, the same for all")


@pytest.fixture
def result():
    def make(parts=PARTS, layers=LAYERS, n=6, draws=4, elements=100_000):
        rng = torch.Generator().manual_seed(0)
        counts = dict(zip(parts, [1] * (len(parts) - 1) + [draws], strict=True))
        differing = {
            layer: {
                part: torch.randint(elements // 2, (count, n, n), generator=rng)
                for part, count in counts.items()
            }
            for layer in layers
        }
        return CorrespondenceResult(
            layers=layers,
            parts=parts,
            controls=parts[-1:],
            boxes={p: torch.tensor([3, 4, 9, 12]).expand(c, n, 4) for p, c in counts.items()},
            differing=differing,
            changed={
                layer: {p: torch.ones(c, n).double() for p, c in counts.items()} for layer in layers
            },
            elements=dict.fromkeys(layers, elements),
            tolerance=0.0,
            fill=0.0,
            image_size=(32, 32),
            seconds=1.0,
        )

    return make


@pytest.mark.parametrize("layers", [LAYERS, LAYERS[:1]])
@pytest.mark.parametrize("count", [0, 2, 6])
def test_rows_and_columns(result, layers, count):
    images = np.random.default_rng(0).random((count, 32, 32, 3)) if count else None
    found = result(layers=layers)
    figure = figures.correspondence(found, images, "Faces: the same part hidden")
    assert_tidy(figure)
    texts = [text.get_text() for text in drawn_texts(figure)]
    for layer in layers:
        for part in PARTS:
            assert f"{found.mean(layer, part):.4f} ± {found.std(layer, part):.4f}" in texts
    pictures = [ax for ax in figure.axes if ax.images]
    assert len(pictures) == len(PARTS) * min(count, 5)
    for ax in pictures:  # what was hidden is covered
        (cover,) = ax.patches
        assert (cover.get_x(), cover.get_y()) == (3.5, 2.5)
        assert (cover.get_width(), cover.get_height()) == (8, 6)


def test_a_mark_stands_at_its_mean(result):
    found = result(layers=LAYERS[2:])
    (panel,) = [ax for ax in figures.correspondence(found).axes if ax.lines]
    dots = [line for line in panel.lines if line.get_marker() in "oD"]
    means = [found.mean("fc7", part) for part in PARTS]
    assert [line.get_xdata()[0] for line in dots] == pytest.approx(means)
    strokes = [line for line in panel.lines if line.get_marker() == "|"]
    assert strokes[0].get_xdata().tolist() == pytest.approx(
        found.pairs("fc7", PARTS[2]).mean(1).tolist()
    )


def test_two_images_have_no_deviation(result):
    assert_tidy(figures.correspondence(result(n=2, draws=1)))
    assert_tidy(result(n=2, draws=1, elements=10**7).plot())
