"""Captum's Occlusion, Deconvolution and NeuronDeconvolution on zfcuda's engines.

Change one import line and nothing else::

    from zfcuda.compat.captum import Occlusion  # was: from captum.attr import Occlusion

The classes are subclasses of Captum's own. Where zfcuda can do the work they give Captum's numbers
faster; anywhere else they hand the call to Captum unchanged. ``path`` says which of them did the
last ``attribute`` call and ``path_reason`` why; the logger ``zfcuda.compat.captum`` says both at
debug level.

Captum's own rules hold throughout, also where zfcuda's differ: occlusion averages over the windows
that cover a pixel and returns float32; deconvolution starts from 1, rectifies at ``nn.ReLU``
modules only and takes the gradient of everything else (functional ReLU, ReLU6, contrast
normalisation).

:mod:`.occlusion` and :mod:`.deconvolution` have the classes; :mod:`.accepting` says what zfcuda
takes on.
"""

from __future__ import annotations

from zfcuda.storage.terminal import extra

with extra("zfcuda.compat.captum needs Captum", "captum"):
    import captum as _captum  # noqa: F401

from zfcuda.compat.captum.deconvolution import Deconvolution, NeuronDeconvolution
from zfcuda.compat.captum.occlusion import Occlusion

__all__ = ["Deconvolution", "NeuronDeconvolution", "Occlusion"]
