"""An object cut out of a picture by a box around it.

After GrabCut (Rother, Kolmogorov, Blake, SIGGRAPH 2004): colours inside and outside the box are
each described by a mixture of Gaussians, a minimum cut between object and background follows
colours and edges, and both are repeated until nothing changes. The cut is over superpixels (SLIC),
so that it takes a second instead of a minute. scikit-image and SciPy do the work; they come with
the extra "demo".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from zfcuda.data.reading import to_rgb

__all__ = ["segment"]

Array = npt.NDArray[Any]

_SIDE = 320  # pixels; larger pictures are segmented at this size
_SUPERPIXELS = 2000  # at most; pictures of fewer pixels are cut pixel by pixel
_COLOURS = 5  # Gaussians of a mixture, as in the paper
_SMOOTHNESS = 25.0  # what a cut through a pixel's side costs where colours are alike, in nats
_MOST = 20.0  # nats, of one pixel's evidence: a colour seen nowhere must not decide alone
_ROUNDS = 8
_NEVER = 1e7  # nats that no cut costs
_UNITS = 16  # a nat, in the whole numbers of the cut
_SAMPLE = 5000  # pixels that a mixture is fitted to
_NOISE = 2.0  # of CIELAB, in which about 2 is a difference that one sees
_MARGIN = 0.05  # of the picture, that is background where no box is given


def segment(image: Image.Image, box: Sequence[float] | None = None) -> Image.Image:
    """The object in `box`, as a mask: "L", of the picture's size, 255 on the object, soft edges.

    Args:
        image: any picture that has a meaning as RGB.
        box: (left, top, right, bottom) in pixels; outside it, all is background. Something of the
            background must be seen outside it, or there is nothing to tell the object from. None
            takes the picture without its outermost twentieth on each side.

    Raises:
        ValueError: a box that is empty, not in the picture or all of it, or no object in it (its
            colours are those of the background).
        ModuleNotFoundError: scikit-image is not installed.
    """
    _require()
    from skimage.transform import resize

    picture = np.asarray(to_rgb(image), dtype=np.float64) / 255
    inside = _inside(picture.shape[:2], box)
    scale = min(1.0, _SIDE / max(inside.shape))
    small = tuple(max(1, round(side * scale)) for side in inside.shape)
    mask = _cut(
        resize(picture, small, anti_aliasing=scale < 1),
        resize(inside.astype(float), small, order=0) > 0.5,
    )
    if not mask.any():
        raise ValueError("no object stands out in the box; draw it closer, or give a mask file")
    soft = resize(mask.astype(float), inside.shape, order=1)
    return Image.fromarray(np.rint(255 * np.where(inside, soft, 0)).astype(np.uint8))


def _require() -> None:
    try:
        import skimage  # noqa: F401
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'segmentation needs scikit-image; install it with: pip install "zfcuda[demo]"'
        ) from None


def _inside(shape: tuple[int, ...], box: Sequence[float] | None) -> Array:
    """Where the object may be: bool [H,W]."""
    height, width = shape
    if box is None:
        box = [round(side * part) for part in (_MARGIN, 1 - _MARGIN) for side in (width, height)]
    left, top, right, bottom = box
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(
            f"box {tuple(box)}: expected left, top, right, bottom, in pixels within the "
            f"{width}×{height} picture"
        )
    inside = np.zeros(shape, dtype=bool)
    inside[round(top) : round(bottom), round(left) : round(right)] = True
    if inside.all() or not inside.any():
        raise ValueError(
            f"box {tuple(box)} must leave some background of the {width}×{height} picture"
        )
    return inside


def _cut(picture: Array, inside: Array) -> Array:
    """The object among what is inside: bool [H,W]."""
    from skimage.color import rgb2lab

    lab = rgb2lab(picture)
    parts = _superpixels(picture)
    count = int(parts.max()) + 1
    area = np.bincount(parts.ravel(), minlength=count)
    mean = np.stack(
        [
            np.bincount(parts.ravel(), channel.ravel(), count) / area
            for channel in np.moveaxis(lab, 2, 0)
        ],
        axis=1,
    )
    possible = np.bincount(parts.ravel(), inside.ravel(), count) / area > 0.5
    pairs, weights = _borders(parts, mean)
    chosen = possible
    for _ in range(_ROUNDS):
        if not chosen.any() or chosen.all():
            break
        evidence = _log_density(mean, lab[chosen[parts]]) - _log_density(mean, lab[~chosen[parts]])
        evidence = area * evidence.clip(-_MOST, _MOST)
        before, chosen = chosen, _minimum_cut(np.where(possible, evidence, -_NEVER), pairs, weights)
        if np.array_equal(before, chosen):
            break
    return chosen[parts]


def _superpixels(picture: Array) -> Array:
    """int [H,W], numbers from 0: regions of one colour that follow edges."""
    from skimage.segmentation import slic

    pixels = picture.shape[0] * picture.shape[1]
    if pixels <= 3 * _SUPERPIXELS:
        return np.arange(pixels).reshape(picture.shape[:2])
    return slic(picture, _SUPERPIXELS, compactness=8, start_label=0)


def _borders(parts: Array, mean: Array) -> tuple[Array, Array]:
    """Neighbours [E,2] and what a cut between them costs [E]: less where colours differ more."""
    neighbours = [(parts[:, 1:], parts[:, :-1]), (parts[1:], parts[:-1])]
    pairs = np.concatenate([np.stack(sides, axis=-1).reshape(-1, 2) for sides in neighbours])
    pairs = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1)
    pairs, length = np.unique(pairs, axis=0, return_counts=True)
    distance = ((mean[pairs[:, 0]] - mean[pairs[:, 1]]) ** 2).sum(axis=1)
    typical = max(2 * np.average(distance, weights=length), 1e-9)
    return pairs, _SMOOTHNESS * length * np.exp(-distance / typical)


def _log_density(points: Array, sample: Array) -> Array:
    """log p(point) [P] under a mixture of Gaussians, one for each cluster of the sample."""
    from scipy.cluster.vq import kmeans2
    from scipy.special import logsumexp
    from scipy.stats import multivariate_normal

    random = np.random.default_rng(0)  # the same picture, the same mask
    sample = sample[random.permutation(len(sample))[:_SAMPLE]]
    sample = sample + random.normal(scale=_NOISE, size=sample.shape)  # no cluster is a point
    centres, cluster = kmeans2(sample, min(_COLOURS, len(sample)), minit="++", rng=random)
    densities = []
    for number in np.unique(cluster):
        own = sample[cluster == number]
        spread = np.eye(3) * _NOISE**2 + (np.cov(own.T) if len(own) > 1 else 0)
        density = multivariate_normal(centres[number], spread).logpdf(points)
        densities.append(np.log(len(own) / len(sample)) + density)
    return logsumexp(densities, axis=0)


def _minimum_cut(evidence: Array, pairs: Array, weights: Array) -> Array:
    """The object bool [S]: the cheapest choice, where being background costs the evidence, being
    object its negative, and separating two neighbours their weight."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    count = len(evidence)
    parts, source, sink = np.arange(count), np.full(count, count), np.full(count, count + 1)
    rows = np.concatenate([source, parts, *pairs.T])
    columns = np.concatenate([parts, sink, *pairs.T[::-1]])
    capacities = np.concatenate([evidence.clip(0), (-evidence).clip(0), weights, weights])
    capacities = np.rint(capacities * _UNITS).astype(np.int32)  # what maximum_flow takes
    network = csr_array((capacities, (rows, columns)), shape=(count + 2, count + 2))
    rest = network - maximum_flow(network, count, count + 1).flow
    rest.data = (rest.data > 0).astype(np.int32)
    rest.eliminate_zeros()
    reached = breadth_first_order(rest, count, return_predecessors=False)
    chosen = np.zeros(count + 2, dtype=bool)
    chosen[reached] = True
    return chosen[:count]
