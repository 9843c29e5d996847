"""Which way a call went, and why."""

from __future__ import annotations

import logging
from typing import Literal

from zfcuda.storage.files import visible

Path = Literal["cone", "dense", "kernels", "captum"]

_log = logging.getLogger("zfcuda.compat.captum")


class Traceable:
    """Says which path the last call took.

    Attributes:
        path: "cone" or "dense", zfcuda's engine of that name; "kernels", Captum's own procedure
            with pooling and contrast normalisation on zfcuda's kernels; "captum", Captum
            unchanged; None before the first call.
        path_reason: why, in words.
    """

    path: Path | None = None
    path_reason: str = "attribute() has not been called"

    def took(self, path: Path, reason: str, error: Exception | None = None) -> None:
        self.path, self.path_reason = path, reason
        _log.debug(
            "%s took the path %r: %s", type(self).__name__, path, visible(reason), exc_info=error
        )
