"""One step down through a convolution: its transpose, without padding and bias."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zfcuda.backward_cone.batch import Batch
from zfcuda.backward_cone.signals import Points, Signal, Windows, as_maps, pixels
from zfcuda.graph.nodes import Node
from zfcuda.graph.rules import Conv


def transposed(batch: Batch, node: Node, rule: Conv, signal: Signal) -> Windows:
    """The signal below. Windows may hang over the map's edge by the padding."""
    boxes = batch.boxes_below(node, signal.boxes)
    if isinstance(signal, Points):
        data, places = _filters(rule, signal), signal.places
    else:
        signal = signal.on_the_map(node.shape[1:])
        data, places = _transposed_windows(batch, node, rule, signal.data), signal.origins
    return Windows(signal.units, data, places * rule.stride - rule.padding, boxes)


def _filters(rule: Conv, points: Points) -> Tensor:
    """Every point's filter times its value: windows [q,h,w,C]."""
    weight, (dh, dw) = rule.weight, rule.dilation
    channels = torch.from_numpy(points.channels).to(weight.device)
    own = weight[channels].permute(0, 2, 3, 1) * points.values[:, None, None, None]
    if rule.groups == 1 and dh == dw == 1:
        return own.contiguous()
    count, kh, kw, inputs = own.shape
    size = ((kh - 1) * dh + 1, (kw - 1) * dw + 1)
    data = own.new_zeros(count, *size, rule.groups, inputs)
    group = channels // (len(weight) // rule.groups)
    # Advanced indices first: [q, kh, kw, inputs] of the chosen group.
    data[torch.arange(count, device=group.device), ::dh, ::dw, group] = own
    return data.flatten(3)


def _transposed_windows(batch: Batch, node: Node, rule: Conv, data: Tensor) -> Tensor:
    """The transposed convolution of windows [q,h,w,C]."""
    if _few_channels(rule):
        filters = batch.observed.once(node, lambda: _phases(rule))
        return _by_phases(data, rule, filters)
    maps = F.conv_transpose2d(
        as_maps(data), rule.weight, None, rule.stride, 0, 0, rule.groups, rule.dilation
    )
    return pixels(maps)


def _few_channels(rule: Conv) -> bool:
    """Whether a transposed convolution is better done as a plain one, phase by phase: for it
    vectorises over the maps below, of which an image has three."""
    (kh, kw), (sh, sw) = rule.kernel, rule.stride
    taps = (-(-kh // sh) * sh) * (-(-kw // sw) * sw)
    return (
        rule.weight.shape[1] < 8
        and rule.groups == 1
        and rule.dilation == (1, 1)
        and sh * sw > 1
        and taps * 2 < kh * kw * 3
    )


def _phases(rule: Conv) -> Tensor:
    """The filters of the convolution whose maps are the phases (and maps) of the transposed one."""
    weight, (sh, sw) = rule.weight, rule.stride
    maps, inputs, kh, kw = weight.shape
    th, tw = -(-kh // sh), -(-kw // sw)  # taps of a phase
    weight = F.pad(weight, (0, tw * sw - kw, 0, th * sh - kh))
    weight = weight.view(maps, inputs, th, sh, tw, sw).flip(2, 4).permute(3, 5, 1, 0, 2, 4)
    weight = weight.reshape(sh * sw * inputs, maps, th, tw)
    return weight.contiguous(memory_format=torch.channels_last)


def _by_phases(data: Tensor, rule: Conv, filters: Tensor) -> Tensor:
    (sh, sw), (kh, kw) = rule.stride, rule.kernel
    padding = (filters.shape[2] - 1, filters.shape[3] - 1)
    phases = pixels(F.conv2d(as_maps(data), filters, padding=padding))
    whole = phases.unflatten(3, (sh, sw, -1)).transpose(2, 3)
    count, h, _, w = whole.shape[:4]
    whole = whole.reshape(count, h * sh, w * sw, -1)
    height, width = (data.shape[1] - 1) * sh + kh, (data.shape[2] - 1) * sw + kw
    return whole[:, :height, :width]
