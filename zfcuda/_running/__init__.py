"""Running a user's model without leaving a trace.

One module an idea: :mod:`.checks` (arguments that experiments share), :mod:`.guards` (the model as
it was), :mod:`.layers` (found by name, heard while they run), :mod:`.batches` (as many images as
fit), :mod:`.passes` (all of them, and variants; whether they answer with logits or probabilities),
:mod:`.recording` (as results hold them).
"""

from zfcuda._running.batches import memory_limit, progress_bar, spans
from zfcuda._running.checks import (
    check_input,
    choose_target,
    device_of,
    holds_ints,
    is_int,
    pair,
    per_image,
    plain,
)
from zfcuda._running.guards import evaluating, threads, undisturbed
from zfcuda._running.layers import (
    Layer,
    Layers,
    by_name,
    feature_maps,
    find_layers,
    layer_outputs,
    require_called,
    require_shape,
)
from zfcuda._running.passes import base_pass, logits_of, outputs_of, variant_passes
from zfcuda._running.recording import fill_setting, to_result

__all__ = [
    "Layer",
    "Layers",
    "base_pass",
    "by_name",
    "check_input",
    "choose_target",
    "device_of",
    "evaluating",
    "feature_maps",
    "fill_setting",
    "find_layers",
    "holds_ints",
    "is_int",
    "layer_outputs",
    "logits_of",
    "memory_limit",
    "outputs_of",
    "pair",
    "per_image",
    "plain",
    "progress_bar",
    "require_called",
    "require_shape",
    "spans",
    "threads",
    "to_result",
    "undisturbed",
    "variant_passes",
]
