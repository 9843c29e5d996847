"""--store: the strongest activations of a whole data set in a folder, by a run that can be killed,
resumed and spread over processes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from zfcuda._terminal import resumable, say, skipped
from zfcuda.commands import _cores, _data

if TYPE_CHECKING:
    from zfcuda._network import Network
    from zfcuda.experiments.maxima.stored import StoredActivations
    from zfcuda.report.writing import Provenance

_LONG = 5.0  # seconds; the rates of shorter passes say nothing


def store_options(parser: argparse.ArgumentParser) -> None:
    """--store, --batch, --every."""
    parser.add_argument(
        "--store",
        metavar="DIR",
        help="instead of a figure, a folder with a file for each layer, a table (index.csv) and a "
        "manifest, for `zfcuda gallery`; a run that was interrupted goes on where it was; under "
        "torchrun, by several processes",
    )
    parser.add_argument(
        "--batch", type=int, default=64, metavar="N", help="with --store, images at a time"
    )
    parser.add_argument(
        "--every",
        type=int,
        default=10_000,
        metavar="N",
        help="with --store, write down what is done after so many images, and each minute "
        "(default: %(default)s)",
    )


def store_activations(
    options: argparse.Namespace, network: Network, layers: list[str], provenance: Provenance
) -> None:
    """Do it, and say at rank 0 what is there and how fast it was."""
    import zfcuda
    from zfcuda.storage.ranks import current_shard

    options.workers = _cores.workers(options.workers, network.device)
    images = _data.images_of(options, network)
    with resumable(), _cores.cores_shared_with(options.workers, network.device):
        stored = zfcuda.record_activations(
            options.store,
            network.model,
            images.source,
            layers,
            options.k,
            options.maps,
            batch=options.batch,
            workers=options.workers,
            every=options.every,
            about={
                "provenance": provenance.facts(),
                "images": images.text,
                "preprocessing": _preprocessing_of(network),
            },
            progress=not options.quiet,
        )
    if current_shard().first:
        _tell_stored(stored)


def _preprocessing_of(network: Network) -> dict[str, object]:
    """What the page needs to show inputs as pictures again."""
    import dataclasses

    return dataclasses.asdict(network.preprocessing)


def _tell_stored(stored: StoredActivations) -> None:
    skipped([one["problem"] for one in stored.skipped], " (all are in manifest.json)")
    rates = stored.manifest["rates"]
    if rates and rates["seconds"] >= _LONG:
        own, bare = rates["images_per_second"], rates["forward_images_per_second"]
        say(f"{own:,.0f} images/s, processes: {rates['processes']}; the network alone, in one "
            f"process, {bare:,.0f} images/s")  # fmt: skip
    for about in stored.manifest["layers"]:
        say(f"{about['name']}: {about['maps']} maps, {about['projected']} projected, "
            f"{about['bytes_per_map'] / 1e6:.2f} MB each")  # fmt: skip
    say(stored.index, stored.folder / "manifest.json")
