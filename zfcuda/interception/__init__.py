"""The calls a model makes at run time, intercepted: how any model gets our kernels and our
backward rules.

Hooks on modules miss functional ReLUs and stumble over in-place ones and reused modules. A
:class:`torch.overrides.TorchFunctionMode` (:mod:`.mode`) sees every call instead, whether it was
written as a module, a function, a method or an in-place method. Two tables of replacements are made
here:

- :func:`fast_forward` (:mod:`.kernels`), for passes without gradient: max-pooling and contrast
  normalisation on our kernels;
- :func:`deconvnet_rules` (:mod:`.deconvnet`), for projections: the same calls as an
  ``autograd.Function`` whose backward is the deconvnet's rule. ``torch.autograd.grad`` then walks
  the model's own graph, so that concatenations, residual sums, branches and reused modules need no
  care (signals add before they are rectified). :mod:`.masks` finds the ReLUs that are spelled as a
  mask. :func:`calls_left_to_gradient` says what no rule was found for.

:class:`Operations` replaces nothing: it remembers which call made a tensor.
"""

from zfcuda.interception.deconvnet import Rules, deconvnet_rules, gradient_rules
from zfcuda.interception.kernels import fast_forward
from zfcuda.interception.left_to_gradient import calls_left_to_gradient, claim
from zfcuda.interception.mode import Call, Handler, Interception, Operations

__all__ = [
    "Call",
    "Handler",
    "Interception",
    "Operations",
    "Rules",
    "calls_left_to_gradient",
    "claim",
    "deconvnet_rules",
    "fast_forward",
    "gradient_rules",
]
