"""What ships of zfnet_small's training beside its weights.

``zfnet_small_run`` holds the run's record (``training.npz`` and ``.json``, a
`zfcuda.training.TrainingResult`) and the convolutions at some of its epochs, both written by
``scripts/pack_zfnet_small.py`` from the folder of a ``zfcuda train``, the weights as float16.
"""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path

from torch import nn

from zfcuda.models.zeiler_fergus import zfnet_small

__all__ = ["convolutions", "epochs", "run_record"]


_PACKAGE = Path(__file__).parents[1]


def run_record(package: Path = _PACKAGE) -> Path:
    """The common name of the two files of the training's result, for `TrainingResult.load`."""
    return _folder(package) / "training"


def epochs(package: Path = _PACKAGE) -> dict[int, Path]:
    """Epoch numbers, ascending, and the files of their convolutions' weights.

    They fit `convolutions`, whose layers bear the names they have in the whole network::

        zfcuda.evolution(
            {f"epoch {epoch}": path for epoch, path in epochs().items()},
            images, ["conv2", "conv5"], model=convolutions(),
        )
    """
    return {
        int(path.stem[-4:]): path for path in sorted(_folder(package).glob("epoch-*.safetensors"))
    }


def convolutions() -> nn.Sequential:
    """`zfnet_small` up to pool5, with freshly drawn weights: what `epochs` holds weights for."""
    model = zfnet_small()
    kept = list(takewhile(lambda name: name != "flatten", dict(model.named_children())))
    return model[: len(kept)].eval()


def _folder(package: Path) -> Path:
    return package / "models" / "zfnet_small_run"
