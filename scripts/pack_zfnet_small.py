#!/usr/bin/env python3
"""The package's data from a finished `zfcuda train`: weights, epochs, record, sample pictures.

    zfcuda train --epochs 70 --out trained
    python scripts/pack_zfnet_small.py trained

Weights become float16; the validation pictures tell what that costs. Of the epochs 1, 2, 5, 10, 20,
30, 40, 64 (the paper's figure 4), as far as the run went, and of the chosen one, the convolutions
are kept. The test pictures are not asked about anything: their accuracy is the run's.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

import zfcuda
from zfcuda import models
from zfcuda.cli.terminal import Parser, guarded
from zfcuda.data import ColouredFashion, Examples, split
from zfcuda.models import from_files
from zfcuda.models.weights import Metadata
from zfcuda.storage.files import atomic_path, write_tensors
from zfcuda.training import Checkpoints, TrainingResult, evaluate

_PROGRAM = "pack_zfnet_small.py"
EPOCHS = (1, 2, 5, 10, 20, 30, 40, 64)
PER_CLASS = 12


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script and return its exit status."""
    parser = Parser(
        _PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="DIR", help="folder of a finished zfcuda train")
    parser.add_argument("--data", metavar="DIR", help="Fashion-MNIST's IDX files")
    options = parser.parse_args(arguments)
    with guarded(_PROGRAM) as status:
        pack(options.run, options.data, Path(zfcuda.__file__).parent)
    return status[0]


def pack(run: Path, data: str | None, package: Path) -> None:
    """Write the package's data under the folder `package`."""
    result = TrainingResult.load(run / "training")
    record = from_files.run_record(package)
    weights = package / "models" / "zfnet_small.safetensors"
    whole, said = run / "weights.safetensors", Metadata.read(run / "weights.safetensors")
    _write_half(weights, load_file(whole), said)
    record.parent.mkdir(exist_ok=True)
    for suffix in (".npz", ".json"):
        shutil.copyfile(run / f"training{suffix}", record.with_name(f"training{suffix}"))
    for old in from_files.epochs(package).values():
        old.unlink()
    checkpoints = Checkpoints(run)
    for epoch in sorted({*EPOCHS, result.best}):
        if epoch <= len(result.epoch):
            path = checkpoints.weights(epoch)
            filters = {k: v for k, v in load_file(path).items() if k.startswith("conv")}
            _write_half(record.with_name(path.name), filters, said)
    parts = split(models.preprocessing(weights), data)
    _write_pictures(package / "data" / "garments.npz", parts.test)
    _compare(whole, weights, parts.validation)


def _write_half(path: Path, state: dict[str, Tensor], said: Metadata) -> None:
    write_tensors(path, {name: tensor.half() for name, tensor in state.items()}, said.strings())
    print(f"{path} {path.stat().st_size:,} bytes")


def _write_pictures(path: Path, test: ColouredFashion) -> None:
    """The first pictures of every class."""
    classes = len(test.class_names)
    firsts = [(test.labels == label).nonzero()[:PER_CLASS, 0] for label in range(classes)]
    numbers = torch.cat(firsts).sort().values
    rgb, opacity = test.composite(numbers)
    with atomic_path(path) as temporary:
        np.savez_compressed(
            temporary,
            images=(rgb * 255).round().byte().numpy(),
            labels=test.labels[numbers].numpy(),
            opacity=(opacity * 255).round().byte().numpy(),
            numbers=numbers.numpy(),
        )
    print(f"{path} {path.stat().st_size:,} bytes")


def _compare(whole: Path, half: Path, validation: Examples) -> None:
    (a, labels), (b, _) = (evaluate(models.load(path), validation) for path in (whole, half))
    right = [float((logits.argmax(1) == labels).double().mean()) for logits in (a, b)]
    print(
        f"validation accuracy {right[0]:.4f} in float32, {right[1]:.4f} from float16; "
        f"{int((a.argmax(1) != b.argmax(1)).sum())} of {len(labels)} labels differ, logits by at "
        f"most {(a - b).abs().max():.2g}"
    )


if __name__ == "__main__":
    sys.exit(main())
