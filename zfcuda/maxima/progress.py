"""What a run over a data set has done so far, on disk: killed at any moment, it goes on from there.

Every process writes a state of its own: the strongest activations of the blocks it has looked
through, and which those are. States are merged; a state says which others it was made of, so that
a kill between writing it and deleting them does no harm. However many processes there were and
will be, each block counts once.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from zfcuda.maxima.running import Top
from zfcuda.storage.files import visible, write_tensors
from zfcuda.storage.identity import tensor_digest

__all__ = ["Progress", "State"]


@dataclass(frozen=True, eq=False)
class State:
    """Blocks that were looked through.

    Attributes:
        tops: by layer, the strongest activations there.
        done: bool [B], which of all blocks these are.
        problems: what is wrong with images that could not be read, by number.
    """

    tops: Mapping[str, Top]
    done: Tensor
    problems: dict[int, str] = field(default_factory=dict)

    @classmethod
    def none(cls, like: Mapping[str, Top], blocks: int) -> Self:
        """Of no block yet; ``like`` has the layers' shapes."""
        k = next(iter(like.values())).values.shape[1]
        tops = {name: Top.none(top.values.T, k, top.size) for name, top in like.items()}
        return cls(tops, torch.zeros(blocks, dtype=torch.bool))

    def merged(self, other: State) -> State:
        """The blocks of both; none may be in both."""
        tops = {name: top.merged(other.tops[name]) for name, top in self.tops.items()}
        return State(tops, self.done | other.done, self.problems | other.problems)


@dataclass(frozen=True)
class Progress:
    """The folder of the states.

    Attributes:
        folder: theirs alone.
        settings: digest of what is computed: states of other settings do not count.
    """

    folder: Path
    settings: str

    def load(self, like: State) -> tuple[State, list[str]]:
        """All states merged, and the files that hold them. ``like`` has the shapes.

        Warns:
            UserWarning: a file is damaged; what it says is computed again.
        """
        found = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                found[path.name] = self._read(path, like)
            except (SafetensorError, ValueError, KeyError, OSError) as error:
                warnings.warn(visible(f"'{path}' does not count: {error}"), stacklevel=2)
        replaced = {name for _, names in found.values() for name in names}
        whole = State.none(like.tops, len(like.done))
        for name, (state, _) in found.items():
            # A process that outlived its run may have written what others did again.
            if name in replaced or bool((state.done & whole.done).any()):
                continue
            whole = whole.merged(state)
        return whole, [*found]

    def save(self, name: str, state: State, made_of: list[str] | None = None) -> None:
        """Write a state; it takes the place of those it was ``made_of``."""
        tensors = {
            f"{part}/{index}": tensor
            for index, top in enumerate(state.tops.values())
            for part, tensor in top.tensors().items()
        }
        tensors["done"] = torch.from_numpy(np.packbits(state.done.numpy()))
        about = {
            "settings": self.settings,
            "problems": json.dumps(state.problems),
            "made_of": json.dumps(made_of or []),
        }
        about["sha256"] = _digest(tensors, about)
        write_tensors(self._path(name), tensors, about)
        for other in made_of or []:
            if other != f"{name}.safetensors":
                (self.folder / other).unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete all states: the results are there."""
        for path in self.folder.glob("*.safetensors"):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # something else lies there, as file servers leave it, or nothing
            self.folder.rmdir()

    @staticmethod
    def new_name() -> int:
        """A number that no other run's states bear."""
        return secrets.randbits(48)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _read(self, path: Path, like: State) -> tuple[State, list[str]]:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            names = file.keys()
            _require_intact({name: file.get_tensor(name) for name in names}, about)
            if about.get("settings") != self.settings:
                raise ValueError("it is of another run")
            tops = {}
            for index, (name, top) in enumerate(like.tops.items()):
                tops[name] = top.like({p: file.get_tensor(f"{p}/{index}") for p in top.tensors()})
            bits = np.unpackbits(file.get_tensor("done").numpy(), count=len(like.done))
        problems = {int(number): str(t) for number, t in json.loads(about["problems"]).items()}
        names = [str(name) for name in json.loads(about["made_of"])]
        state = State(tops, torch.from_numpy(bits).bool(), problems)
        return state, names


_TEXTS = {"settings", "problems", "made_of"}  # of a state, beside its checksum


def _digest(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """sha256 of a state: safetensors has no checksum of its own."""
    texts = json.dumps({name: about[name] for name in sorted(_TEXTS)})
    digest = hashlib.sha256(texts.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensor_digest(tensors[name])}".encode())
    return digest.hexdigest()


def _require_intact(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Raise ValueError unless the state is what was written; one of 0.1.0 cannot tell."""
    if about.keys() != _TEXTS and about.get("sha256") != _digest(tensors, about):
        raise ValueError("it is damaged")
