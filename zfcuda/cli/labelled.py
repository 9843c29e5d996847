"""Labelled pictures of a command line: --data in three parts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from zfcuda.cli.network import Network
from zfcuda.data.examples import Examples, Split, drawn
from zfcuda.data.fashion import are_samples, garments
from zfcuda.data.folder import split
from zfcuda.models.specs import parse
from zfcuda.storage.terminal import skipped
from zfcuda.training.run_file import draws_by_class

__all__ = ["labelled_part", "labelled_split", "labels_of"]

_SHIPPED_SIDE = 64  # pixels a side of the pictures that come with zfcuda


def labelled_split(options: argparse.Namespace, network: Network) -> Split:
    """The data set that the options name, as the network takes it, in three parts by --seed.

    Of a network that zfcuda 0.1.0 trained, the parts are those of its training. What could not be
    read is told on standard error.
    """
    data = split(
        network.preprocessing, options.data, not options.plain, options.seed, _by_class(network)
    )
    skipped(data.skipped)
    return data


def _by_class(network: Network) -> bool:
    """Whether a folder's missing parts were drawn class by class when the network was trained."""
    try:
        weights = parse(network.spec).file
    except ValueError:  # a script's own way to name a model
        return True
    return weights is None or draws_by_class(weights.parent)


def labelled_part(options: argparse.Namespace, network: Network) -> tuple[Examples, str]:
    """--limit pictures of the --part of the data, drawn by --seed, with the network's own labels,
    and what they are in words.

    With `--data garments`, or without --data and without Fashion-MNIST, these are all the pictures
    that come with zfcuda.

    Raises:
        ValueError: the data has a class that the network does not know.
    """
    shipped = "that come with zfcuda"
    try:
        if are_samples(options.data):
            examples, what = garments(network.preprocessing).pictures, shipped
        else:
            data = labelled_split(options, network)
            examples, what = (
                getattr(data, options.part),
                f"of the {options.part} part ({data.kind})",
            )
    except FileNotFoundError:
        if options.data is not None or max(network.preprocessing.shape) > _SHIPPED_SIDE:
            raise
        examples, what = garments(network.preprocessing).pictures, shipped
    examples = drawn(examples, options.limit, options.seed)
    if network.class_names is not None and network.class_names != examples.class_names:
        examples = _Renamed(examples, network)
    return examples, f"{len(examples):,} pictures {what}"


class _Renamed(Examples):
    """Pictures whose labels are those of a network."""

    def __init__(self, examples: Examples, network: Network) -> None:
        self.examples, self.preprocessing = examples, examples.preprocessing
        self.class_names = network.class_names or ()
        self._new = torch.tensor(labels_of(examples.class_names, network))

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def labels(self) -> Tensor:
        return self._new[self.examples.labels]

    def batch(self, indices: Tensor, rng: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        x, labels = self.examples.batch(indices, rng)
        return x, self._new[labels]


def labels_of(names: Sequence[str], network: Network) -> list[int]:
    """The network's labels of the classes with these names, whatever their case.

    Raises:
        ValueError: a class that the network does not know.
    """
    known = {name.casefold(): label for label, name in enumerate(network.class_names or ())}
    unknown = [name for name in names if name.casefold() not in known]
    if unknown:
        raise ValueError(
            f"the network has no class {unknown[0]!r} ({len(unknown)} of the data's {len(names)} "
            "classes are not the network's): name the folders as the network names its classes"
        )
    return [known[name.casefold()] for name in names]
