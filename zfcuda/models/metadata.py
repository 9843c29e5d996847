"""What a weights file says about itself: in the metadata of `.safetensors`, which are strings."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from zfcuda.data.preprocessing import Preprocessing

__all__ = ["Metadata"]

_KEY = "zfcuda"
_LARGEST = 4096  # pixels a side: a file of kilobytes must not ask for gigabytes of input


@dataclass(frozen=True)
class Metadata:
    """Everything is optional: files of others say nothing.

    Attributes:
        model: one of `zfcuda.models.specs.MODELS`, or "".
        class_names: in label order.
        preprocessing: what the network was trained with.
    """

    model: str = ""
    class_names: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None

    def strings(self) -> dict[str, str]:
        """For `safetensors.torch.save_file(..., metadata=...)`."""
        return {_KEY: json.dumps(dataclasses.asdict(self))}

    @classmethod
    def read(cls, path: Path) -> Self:
        """The metadata of a weights file; empty where it has none of ours.

        Raises:
            ValueError: a broken file, or metadata that are not what `strings` makes.
        """
        if path.suffix != ".safetensors" or not path.is_file():
            return cls()
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                said = (file.metadata() or {}).get(_KEY)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"weights file '{path}' cannot be read: {error}") from error
        return cls() if said is None else cls._parsed(path, said)

    @classmethod
    def _parsed(cls, path: Path, text: str) -> Self:
        try:
            said = json.loads(text)
            names, expects = said.get("class_names"), said.get("preprocessing")
            if expects:
                expects = {k: tuple(v) if isinstance(v, list) else v for k, v in expects.items()}
                expects = Preprocessing(**expects)
                if max(expects.shape) > _LARGEST:
                    raise ValueError(f"size {expects.size}: expected at most {_LARGEST:,} pixels")
            return cls(
                str(said.get("model", "")),
                None if names is None else tuple(map(str, names)),
                expects or None,
            )
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"weights file '{path}': its metadata are damaged: {error}") from error
