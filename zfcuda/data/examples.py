"""What training and every experiment over a data set read: labelled pictures, a batch at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset

from zfcuda.data.preprocessing import Preprocessing


class Examples(Dataset, ABC):
    """N labelled pictures as network input; also a `torch.utils.data.Dataset` of (x, label).

    Attributes:
        preprocessing: what the network expects of its input.
        class_names: names in label order.
        labels: int64 [N], every picture's.
    """

    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def batch(self, indices: Tensor, rng: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """The inputs float32 [n,3,size,size] and labels int64 [n] of some pictures.

        Without `rng` a picture is the same on every call; with it, it is varied (crop or place,
        flip) by draws from `rng`, in a fixed order: the same generator state, the same batch.

        Args:
            indices: int64 [n], positions in the data set.
            rng: a CPU generator.
        """

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        index = range(len(self))[index]
        x, labels = self.batch(torch.tensor([index]))
        return x[0], int(labels[0])

    def batches(self, size: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
        """Everything once, in order, unvaried."""
        for indices in torch.arange(len(self)).split(size):
            yield self.batch(indices)

    def normalised(self, rgb: Tensor) -> Tensor:
        """Pictures [n,3,H,W], RGB in 0..1, as network input."""
        pre = self.preprocessing
        if pre.channels == "bgr":
            rgb = rgb.flip(1)
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (pre.mean, pre.std))
        return (rgb * pre.scale - mean) / std


@dataclass(frozen=True)
class Split:
    """A data set in three parts; the plateau rule and the choice of a checkpoint see validation
    only, the test part is read at the end.

    Attributes:
        training, validation, test: the parts.
        kind: what it is, in words.
        source: where it was read.
        skipped: files that could not be read, each as one sentence.
        drawn: how missing parts were drawn from the training part: "by class"; "" where none was,
            or from all pictures together.
    """

    training: Examples
    validation: Examples
    test: Examples
    kind: str
    source: str = ""
    skipped: tuple[str, ...] = ()
    drawn: str = ""

    def parts(self) -> dict[str, Examples]:
        """The three parts by name.

        Raises:
            ValueError: one is empty.
        """
        parts = {part: getattr(self, part) for part in ("training", "validation", "test")}
        for part, examples in parts.items():
            if len(examples) == 0:
                raise ValueError(f"the {part} part is empty: expected at least one picture")
        return parts


class Pictures(Examples):
    """Pictures held in memory as bytes.

    Args:
        images: uint8 [N,3,H,W], RGB, at least the network's size; unvaried, the centre is cut out;
            varied, any crop of that size, mirrored half of the time (paper, section 3.1).
        labels: int64 [N].
        class_names: in label order.
        preprocessing: its size, mean, std, scale and channel order are used.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        class_names: Sequence[str],
        preprocessing: Preprocessing,
    ) -> None:
        size = preprocessing.side
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(
                f"images must be uint8 [N,3,H,W], got {images.dtype} {list(images.shape)}"
            )
        if min(images.shape[2:]) < size:
            raise ValueError(
                f"images of {list(images.shape[2:])} pixels: expected at least {size} a side"
            )
        check_labels(labels, len(images), class_names)
        self.images, self.labels = images, labels
        self.class_names, self.preprocessing = tuple(class_names), preprocessing

    def batch(self, indices: Tensor, rng: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        images = varied(self.images[indices], self.preprocessing.side, rng)
        return self.normalised(images.float() / 255), self.labels[indices]


class FromDataset(Examples):
    """Any map-style `torch.utils.data.Dataset` of (picture, label).

    A picture is a PIL image, which is preprocessed, or a float tensor [3,H,W] that already is what
    the network takes, at least of its size (then crops are cut from it as in `Pictures`).

    ::

        names, pre = ("cat", "dog"), Preprocessing(size=64, resize=None)
        parts = [FromDataset(d, names, pre) for d in random_split(dataset, [0.8, 0.1, 0.1])]
        zfcuda.training.train(model, Split(*parts, kind="cats and dogs"), "out")

    Args:
        dataset: has `__len__` and `__getitem__`.
        class_names: in label order.
        preprocessing: what the network expects.

    Raises (when a batch is read):
        TypeError: an item that is not such a pair.
        ValueError: a picture of another shape, or a label without a class.
    """

    def __init__(
        self, dataset: Dataset, class_names: Sequence[str], preprocessing: Preprocessing
    ) -> None:
        if not hasattr(dataset, "__len__") or len(dataset) == 0:
            raise ValueError("the data set is empty or does not know its length")
        self.dataset, self.class_names = dataset, tuple(class_names)
        self.preprocessing = preprocessing

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def labels(self) -> Tensor:  # type: ignore[override]
        return torch.tensor([self._item(index)[1] for index in range(len(self))])

    def batch(self, indices: Tensor, rng: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        items = [self._item(index) for index in indices.tolist()]
        size = self.preprocessing.side  # pictures may differ in theirs
        x = torch.cat([varied(self._input(picture)[None], size, rng) for picture, _ in items])
        return x, torch.tensor([label for _, label in items])

    def _item(self, index: int) -> tuple[Any, int]:
        item = self.dataset[index]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise TypeError(
                f"item {index} of the data set is a {type(item).__name__}: expected a pair "
                "(picture, label)"
            )
        label = int(item[1])
        if not 0 <= label < len(self.class_names):
            raise ValueError(
                f"item {index} of the data set has label {label}: expected 0 to "
                f"{len(self.class_names) - 1}"
            )
        return item[0], label

    def _input(self, picture: Any) -> Tensor:
        if isinstance(picture, Image.Image):
            return self.preprocessing.to_input(picture)[0]
        size = self.preprocessing.side
        if not isinstance(picture, Tensor) or not picture.is_floating_point():
            raise TypeError(
                f"a picture of the data set is a {type(picture).__name__}: expected a PIL image or "
                "a float tensor [3,H,W]"
            )
        if picture.dim() != 3 or picture.shape[0] != 3 or min(picture.shape[1:]) < size:
            raise ValueError(
                f"a picture of the data set has shape {list(picture.shape)}: expected [3,H,W] with "
                f"at least {size} pixels a side"
            )
        return picture.as_subclass(Tensor).float()  # MONAI's, say, are of a class of their own


def check_labels(labels: Tensor, count: int, class_names: Sequence[str]) -> None:
    """Raise ValueError unless `labels` is int64 [count] and every label has a class name."""
    if labels.dtype != torch.int64 or labels.shape != (count,):
        raise ValueError(f"labels must be int64 [{count}], got {labels.dtype} {list(labels.shape)}")
    if count and not (labels.min() >= 0 and labels.max() < len(class_names)):
        raise ValueError(
            f"labels from {labels.min()} to {labels.max()}: expected 0 to {len(class_names) - 1}, "
            f"for the {len(class_names)} classes"
        )


def varied(images: Tensor, size: int, rng: torch.Generator | None) -> Tensor:
    """Crops [n,C,size,size] of `images`: random and mirrored half of the time, or without `rng`
    the centre, as it is."""
    if rng is None:
        top, left = (round((length - size) / 2) for length in images.shape[2:])
        return images[:, :, top : top + size, left : left + size]
    count, channels, *sides = images.shape
    if sides != [size, size]:
        rows, columns = (
            torch.randint(length - size + 1, (count, 1), generator=rng) + torch.arange(size)
            for length in sides
        )
        which = torch.arange(count).view(-1, 1, 1, 1)
        planes = torch.arange(channels).view(-1, 1, 1)
        images = images[which, planes, rows[:, None, :, None], columns[:, None, None, :]]
    mirrored = torch.rand(count, generator=rng) < 0.5
    return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)


def generator(seed: int, *path: int) -> torch.Generator:
    """A CPU generator for one purpose: its own stream for every (seed, path)."""
    state = np.random.SeedSequence([seed, *path]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)  # torch takes 63 bits without a fuss


class Part(Subset, Examples):
    """The pictures of ``examples`` with these numbers, in this order.

    Args:
        examples: any.
        numbers: int64 [n], positions in ``examples``.
    """

    dataset: Examples
    indices: Tensor  # type: ignore[assignment]

    def __init__(self, examples: Examples, numbers: Tensor) -> None:
        super().__init__(examples, numbers)  # type: ignore[arg-type]
        self.class_names, self.preprocessing = examples.class_names, examples.preprocessing

    @property
    def labels(self) -> Tensor:  # type: ignore[override]
        return self.dataset.labels[self.indices]

    def batch(self, indices: Tensor, rng: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        return self.dataset.batch(self.indices[indices], rng)


class Relabelled(Examples):
    """The pictures of ``examples`` with other labels.

    Args:
        examples: any.
        labels: the new label of each of their classes.
        class_names: of the new labels.
    """

    def __init__(
        self, examples: Examples, labels: Sequence[int], class_names: Sequence[str]
    ) -> None:
        self.examples, self.preprocessing = examples, examples.preprocessing
        self.class_names, self._new = tuple(class_names), torch.tensor(labels)

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def labels(self) -> Tensor:  # type: ignore[override]
        return self._new[self.examples.labels]

    def batch(self, indices: Tensor, rng: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        x, labels = self.examples.batch(indices, rng)
        return x, self._new[labels]


def drawn(examples: Examples, count: int | None, seed: int = 0) -> Examples:
    """``count`` pictures of ``examples``, drawn by ``seed`` and in their own order; all of them
    where there are no more, or for None.

    Raises:
        ValueError: ``count`` below 1.
    """
    if count is not None and count < 1:
        raise ValueError(f"{count} pictures: expected at least 1")
    if count is None or count >= len(examples):
        return examples
    order = torch.randperm(len(examples), generator=generator(seed))
    return Part(examples, order[:count].sort().values)


def by_share(labels: Tensor, order: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """So many of the numbers in ``order``, of each class its share of ``labels``, and the others.

    Where shares are no whole numbers the largest remainders are rounded up, of equal ones those of
    the rarer classes; one picture of each class stays.
    """
    sizes = labels.bincount()
    shares = sizes * count / len(labels)
    left = labels[order].bincount(minlength=len(sizes))
    wanted = torch.minimum(shares.floor().long(), (left - 1).clamp(min=0))
    ranked = sorted(range(len(sizes)), key=lambda c: (float(wanted[c] - shares[c]), int(sizes[c])))
    for label in ranked * 2:
        if int(wanted.sum()) < count and wanted[label] + 1 < left[label]:
            wanted[label] += 1
    # How many of its class come before each of them.
    before = F.one_hot(labels[order], len(sizes)).cumsum(0).gather(1, labels[order][:, None])[:, 0]
    chosen = before <= wanted[labels[order]]
    return order[chosen], order[~chosen]


class Joined(ConcatDataset, Examples):
    """The pictures of all ``parts``, one part after the other.

    Args:
        parts: of one kind: their class names and preprocessing are the first one's.

    Raises:
        ValueError: no parts, or class names that differ.
    """

    datasets: list[Examples]  # type: ignore[assignment]

    def __init__(self, parts: Sequence[Examples]) -> None:
        if len({tuple(part.class_names) for part in parts}) != 1:
            raise ValueError(f"{len(parts)} parts to join: expected some, of the same classes")
        super().__init__(parts)
        self.class_names, self.preprocessing = parts[0].class_names, parts[0].preprocessing

    @property
    def labels(self) -> Tensor:  # type: ignore[override]
        return torch.cat([part.labels for part in self.datasets])

    def batch(self, indices: Tensor, rng: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        starts = torch.tensor([0, *self.cumulative_sizes])
        owners = torch.searchsorted(starts, indices, right=True) - 1
        found = []
        for number in owners.unique().tolist() or [0]:
            here = (owners == number).nonzero()[:, 0]
            found.append((here, *self.datasets[number].batch(indices[here] - starts[number], rng)))
        if len(found) == 1:
            return found[0][1:]
        places, x, labels = (torch.cat(each) for each in zip(*found, strict=True))
        order = places.argsort()
        return x[order], labels[order]
