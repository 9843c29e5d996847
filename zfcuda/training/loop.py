"""The training loop: a run in a folder, begun or continued."""

from __future__ import annotations

import dataclasses
import math
import os
import platform
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from zfcuda.data.examples import Examples, Part, Split, generator
from zfcuda.inference.checks import device_of, evaluating
from zfcuda.inference.passes import answers, logits_of
from zfcuda.models.weights import Metadata, load_checked
from zfcuda.results.training import TrainingResult
from zfcuda.storage import terminal
from zfcuda.storage.files import digest, write_tensors
from zfcuda.storage.identity import precision
from zfcuda.storage.run_folder import require_there
from zfcuda.training.checkpoints import Checkpoints, training_run
from zfcuda.training.recipe import Epoch, FilterRadius, Recipe, next_rate

_ORDER, _STEP, _DROPOUT = range(3)  # what randomness is for
_EVALUATED = 250  # pictures a batch, without gradients
_SHOWN = 10  # steps between updates of the progress bar's numbers
_LONG = 10.0  # seconds without a sign of life


def train(
    model: nn.Module,
    data: Split,
    folder: str | os.PathLike[str],
    recipe: Recipe | None = None,
    name: str = "",
    progress: bool = True,
) -> TrainingResult:
    """Train `model` in `folder`, or continue there what was interrupted.

    After every epoch a checkpoint is written. Whatever ends the process, calling again with the
    same arguments goes on after the last one and ends with the same weights, bit for bit, on the
    same machine with the same number of threads. The epoch with the lowest validation error is
    chosen. At the end the folder holds its weights (``weights.safetensors``), the result
    (``training.npz``, ``training.json``) and every epoch; the test part has been read once. A run
    that has ended is not run again: its result is returned. With more epochs or minutes it goes
    on, and the test part is read once more, which the result's ``test_read`` tells.

    Args:
        model: takes what `data` gives; trained in place, on the device it is on. Begun anew it
            starts from the weights it has. At the end it has the chosen epoch's weights, and every
            part of it is in the mode (training or eval) in which it came.
        data: the three parts.
        folder: made if it is missing.
        recipe: default the paper's.
        name: of the model, for the record.
        progress: show a bar with loss, accuracy and images a second.

    Raises:
        ValueError: the folder holds a run of another model, data set or recipe (says in what it
            differs); a part without pictures; a model that does not answer with one logit for each
            class of the data; a loss that is not finite; another training at work in the folder; a
            chosen epoch whose file is damaged.
        OSError: the folder cannot be written, or is full; what was finished stays.
    """
    recipe, folder = recipe or Recipe(), Path(folder)
    data.parts()  # none of them is empty
    _check_answers(model, data)
    about = Metadata(name, data.training.class_names, data.training.preprocessing)
    checkpoints = Checkpoints(folder, about.strings())
    modes = [(module, module.training) for module in model.modules()]
    with training_run(folder, name, data, recipe):
        try:
            run = _Run(model, data, recipe, checkpoints, progress)
            return run.concluded(run.epochs(), name)
        finally:
            for module, mode in modes:
                module.training = mode


def evaluate(model: nn.Module, examples: Examples, progress: bool = False) -> tuple[Tensor, Tensor]:
    """The logits float32 [N,K] and labels int64 [N] of all `examples`, unvaried, on the CPU.

    The model runs in eval mode; every part of it is in its own again afterwards. With `progress`
    there is a bar once this has taken ten seconds.
    """
    device = device_of(model)
    logits, labels = [], []
    bar = terminal.progress(
        total=len(examples),
        desc="evaluation",
        unit=" images",
        leave=False,
        delay=_LONG,
        disable=not progress,
    )
    with evaluating(model), bar:
        for x, y in examples.batches(_EVALUATED):
            logits.append(logits_of(model(_placed(x, device)), len(x)).float().cpu())
            labels.append(y)
            bar.update(len(y))
    return torch.cat(logits), torch.cat(labels)


class _Run:
    """A model on its way through the epochs."""

    def __init__(
        self,
        model: nn.Module,
        data: Split,
        recipe: Recipe,
        checkpoints: Checkpoints,
        progress: bool,
    ) -> None:
        self.model, self.data, self.recipe = model, data, recipe
        self.checkpoints, self.progress = checkpoints, progress
        self.device = device_of(model)
        self.optimizer = torch.optim.SGD(model.parameters(), recipe.rate, recipe.momentum)
        self.radius = FilterRadius(model, recipe, data.training.preprocessing)

    def epochs(self) -> list[Epoch]:
        """Train until the recipe says enough; the records of all epochs."""
        rows, weights, momentum = self.checkpoints.last()
        self.checkpoints.tidy(len(rows))
        if rows:
            source = f"checkpoint '{self.checkpoints.weights(len(rows))}'"
            load_checked(self.model, weights, source)
            self._restore(momentum)
        while (rate := next_rate(rows, self.recipe)) is not None:
            row = self._epoch(len(rows) + 1, rate)
            require_there(self.checkpoints.folder)
            self.checkpoints.save(row, self.model.state_dict(), self._momentum())
            rows.append(row)
        return rows

    def _epoch(self, epoch: int, rate: float) -> Epoch:
        begin, begin_cpu = time.perf_counter(), time.process_time()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss, accuracy, rescaled = self._pass(epoch)
        seconds = time.perf_counter() - begin
        logits, labels = evaluate(self.model, self.data.validation, self.progress)
        validation_loss = float(F.cross_entropy(logits.double(), labels))
        if not math.isfinite(validation_loss):  # the last step's doing: its loss was taken before
            raise ValueError(
                f"the validation loss is not finite after epoch {epoch}: {self._too_high()}"
            )
        return Epoch(
            epoch=epoch,
            rate=rate,
            training_loss=loss,
            training_accuracy=accuracy,
            validation_loss=validation_loss,
            validation_accuracy=_accuracy(logits, labels),
            rescaled=rescaled,
            seconds=seconds,
            seconds_in_all=time.perf_counter() - begin,
            cpu_seconds=time.process_time() - begin_cpu,
            images=len(self.data.training),
        )

    def _pass(self, epoch: int) -> tuple[float, float, float]:
        """Every training picture once: mean loss, accuracy, filters rescaled a step."""
        seed, count = self.recipe.seed, len(self.data.training)
        order = torch.randperm(count, generator=generator(seed, _ORDER, epoch))
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        seen = 0
        self.model.train()
        bar = terminal.progress(
            total=count, desc=f"epoch {epoch}", unit=" images", disable=not self.progress
        )
        drawing: list[Any] = [self.device] if self.device.type == "cuda" else []
        with bar, torch.random.fork_rng(devices=drawing):
            for step, indices in enumerate(order.split(self.recipe.batch)):
                x, y = self.data.training.batch(indices, generator(seed, _STEP, epoch, step))
                _seed(self.device, generator(seed, _DROPOUT, epoch, step).initial_seed())
                sums += self._step(_placed(x, self.device), y.to(self.device))
                seen += len(indices)
                bar.update(len(indices))
                if step % _SHOWN == 0 or seen == count:
                    loss, right, _ = (sums / seen).tolist()
                    if not math.isfinite(loss):
                        raise ValueError(
                            f"the loss is not finite at step {step} of epoch {epoch}: "
                            f"{self._too_high()}"
                        )
                    bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{right:.3f}", refresh=False)
        loss, right, rescaled = sums.tolist()
        return loss / count, right / count, rescaled / (step + 1)

    def _step(self, x: Tensor, y: Tensor) -> Tensor:
        """One step of gradient descent: the batch's loss and hits, summed, and filters rescaled."""
        logits = logits_of(self.model(x), len(x))
        loss = F.cross_entropy(logits, y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        rescaled = self.radius.apply()
        hits = (logits.detach().argmax(1) == y).sum()
        return torch.stack([loss.detach().double() * len(y), hits.double(), rescaled.double()])

    def _too_high(self) -> str:
        rate = self.optimizer.param_groups[0]["lr"]
        return f"the learning rate {rate:g} is too high for this network and data; lower it"

    def _momentum(self) -> dict[str, Tensor]:
        return {
            name: self.optimizer.state[parameter]["momentum_buffer"]
            for name, parameter in self.model.named_parameters()
            if "momentum_buffer" in self.optimizer.state[parameter]
        }

    def _restore(self, momentum: dict[str, Tensor]) -> None:
        for name, parameter in self.model.named_parameters():
            if name in momentum:
                # In the parameter's layout, as it was: another one may round differently.
                buffer = torch.empty_like(parameter).copy_(momentum[name])
                self.optimizer.state[parameter]["momentum_buffer"] = buffer.detach()

    def concluded(self, rows: list[Epoch], name: str) -> TrainingResult:
        """Choose an epoch by its validation error, read the test part, write weights and result."""
        checkpoints = self.checkpoints
        stem, weights_file = (
            checkpoints.folder / "training",
            checkpoints.folder / "weights.safetensors",
        )
        best = max(rows, key=lambda row: (row.validation_accuracy, -row.epoch)).epoch
        require_there(checkpoints.folder)
        try:
            checkpoints.require_intact(best)
        except ValueError as error:
            raise ValueError(
                f"{error}, and its validation error is the lowest: put a copy of it back, or train "
                "in another folder"
            ) from error
        weights = load_file(checkpoints.weights(best))
        load_checked(self.model, weights, f"checkpoint '{checkpoints.weights(best)}'")
        write_tensors(weights_file, weights, checkpoints.metadata)
        found = digest(weights_file)
        read: set[int] = set()
        with suppress(FileNotFoundError, ValueError):  # there is none; or a kill left half of it
            done = TrainingResult.load(stem)
            if done.weights_sha256 == found and len(done.epoch) == len(rows):
                return done
            read = {*done.test_read, len(done.epoch)}
        logits, labels = evaluate(self.model, self.data.test, self.progress)
        names = self.data.training.class_names
        pairs = labels * len(names) + logits.argmax(1)
        result = TrainingResult(
            **_columns(rows),
            best=best,
            test_loss=float(F.cross_entropy(logits.double(), labels)),
            test_accuracy=_accuracy(logits, labels),
            confusion=pairs.bincount(minlength=len(names) ** 2).view(len(names), -1),
            class_names=tuple(names),
            settings=self._settings(name),
            weights_sha256=found,
            test_read=tuple(sorted({*read, len(rows)})),
            precision=precision(self.device),
        )
        require_there(checkpoints.folder)
        result.save(stem)
        return result

    def _settings(self, name: str) -> dict[str, Any]:
        return {
            "model": name,
            "data": self.data.kind,
            "source": self.data.source,
            "skipped": len(self.data.skipped),
            "pictures": [*map(len, self.data.parts().values())],
            "recipe": dataclasses.asdict(self.recipe),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        }


def _columns(rows: list[Epoch]) -> dict[str, Tensor]:
    """The epochs' records by what they say, a tensor each."""
    kinds = {"epoch": torch.int64, "images": torch.int64}
    return {
        name: torch.tensor(
            [getattr(row, name) for row in rows], dtype=kinds.get(name, torch.float64)
        )
        for name in (field.name for field in dataclasses.fields(Epoch))
    }


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).double().mean())


def _check_answers(model: nn.Module, data: Split) -> None:
    """Otherwise it would show in the first step, or after the last epoch."""
    logits, _ = evaluate(model, Part(data.training, torch.tensor([0])))
    classes = len(data.training.class_names)
    if logits.shape != (1, classes):
        raise ValueError(
            f"the model answers {list(logits.shape)} for one picture: expected [1, {classes}], "
            f"logits of the {classes} classes of the data"
        )
    x, _ = data.training.batch(torch.tensor([0]))
    if answers(model, _placed(x, device_of(model)), None, None)[1] == "probabilities":
        warnings.warn(
            "the model answers with probabilities, of which the loss takes the softmax again: "
            "expected logits; leave out its last softmax or sigmoid",
            stacklevel=3,
        )


def _placed(x: Tensor, device: torch.device) -> Tensor:
    # The layout that oneDNN's and cuDNN's convolutions and our pools are fastest in.
    return x.to(device, memory_format=torch.channels_last)


def _seed(device: torch.device, seed: int) -> None:
    # torch.manual_seed would seed every device, also those whose state is not put back.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
