"""From layers to a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from zfcuda.compat.onnx.made import Made
from zfcuda.compat.onnx.names import layer_names
from zfcuda.compat.onnx.network import OnnxNetwork, Step

__all__ = ["assemble", "without_softmax"]

_ONLY_SHAPES = ("Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze")


def without_softmax(made: list[Made], output: str) -> tuple[list[Made], str, str]:
    """The layers without a softmax after which nothing but shapes changes; the output's name by
    then; what was left out."""
    makers = {name: layer for layer in made for name in layer.outputs}
    name = output
    while name in makers and makers[name].node.op_type in _ONLY_SHAPES:
        name = makers[name].inputs[0]
    last = makers.get(name)
    if last is None or last.node.op_type != "Softmax":
        return made, output, ""
    (before,) = last.inputs
    kept = [
        replace(layer, inputs=tuple(before if n in last.outputs else n for n in layer.inputs))
        for layer in made
        if layer is not last
    ]
    return kept, before if output in last.outputs else output, last.node.name or last.outputs[0]


def assemble(network: OnnxNetwork, made: Sequence[Made], image: str, output: str) -> None:
    """Put the layers into the network, under their names."""
    names = layer_names([layer.node for layer in made])
    last = {name: place for place, layer in enumerate(made) for name in layer.inputs}
    steps = []
    for place, (name, layer) in enumerate(zip(names, made, strict=True)):
        owner = network
        *scope, own = name.split(".")
        for part in scope:
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        owner.add_module(own, layer.module)
        done = {n for n in (*layer.inputs, *layer.outputs) if last.get(n, place) == place}
        steps.append(Step(name, layer.inputs, layer.outputs, tuple(sorted(done - {output}))))
    network.follow(tuple(steps), image, output)
