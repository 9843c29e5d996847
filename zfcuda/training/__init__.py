"""Training by the paper's recipe, interruptible at any moment; see `train`."""

from zfcuda.results.training import TrainingResult as TrainingResult
from zfcuda.training.checkpoints import Checkpoints as Checkpoints
from zfcuda.training.checkpoints import check_budget as check_budget
from zfcuda.training.checkpoints import draws_by_class as draws_by_class
from zfcuda.training.loop import evaluate as evaluate
from zfcuda.training.loop import train as train
from zfcuda.training.recipe import Epoch as Epoch
from zfcuda.training.recipe import Recipe as Recipe
