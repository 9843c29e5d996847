"""Training by the paper's recipe, interruptible at any moment; see `train`."""

from zfcuda.results.training import TrainingResult
from zfcuda.training.checkpoints import Checkpoints, check_budget, draws_by_class
from zfcuda.training.loop import evaluate, train
from zfcuda.training.recipe import Epoch, Recipe

__all__ = [
    "Checkpoints",
    "Epoch",
    "Recipe",
    "TrainingResult",
    "check_budget",
    "draws_by_class",
    "evaluate",
    "train",
]
