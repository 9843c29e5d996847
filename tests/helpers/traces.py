"""Small models given as functions, and their graphs, held against the models themselves."""

import torch
from torch import Tensor, nn
from zoo import Model

from zfcuda.graph import Graph, trace


def images(n=2, size=(12, 10), channels=4):
    return torch.randn(n, channels, *size, dtype=torch.float64)


def values_of(graph: Graph, x: Tensor) -> list:
    values = {0: x}
    with torch.no_grad():
        for node in graph.nodes:
            values[node.index] = graph.evaluate(node, values)
    return [values[i] for i in range(len(graph.nodes))]


def traced(model: nn.Module, x: Tensor | None = None) -> Graph:
    """The model's graph, after checking that it answers as the model does on other images, in
    another number, and leaves everything it is given alone."""
    x = images() if x is None else x
    model.eval()
    kept = x.clone()
    graph = trace(model, x)
    assert torch.equal(x, kept)
    more = torch.cat([x.flip(2), x])
    values = values_of(graph, more)
    assert torch.equal(more, torch.cat([x.flip(2), x]))
    with torch.no_grad():
        assert torch.equal(values[graph.output], model(more.clone()))
    for node, value in zip(graph.nodes, values, strict=True):
        assert node.shape == (tuple(value.shape[1:]) if isinstance(value, Tensor) else None)
        assert all(i < node.index for i in node.inputs)
        assert all(node.index in graph.consumers[i] for i in node.inputs)
    return graph


def rules(graph: Graph) -> list:
    return [node.rule for node in graph.nodes[1:]]


def only(model, x=None):
    """The one rule of a model of one call."""
    (rule,) = rules(traced(model if isinstance(model, nn.Module) else Model(model), x))
    return rule


def lies_in(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same memory: one follows where the other changes."""
    return (a.data_ptr(), a.shape, a.stride()) == (b.data_ptr(), b.shape, b.stride())
