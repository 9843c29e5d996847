"""Images of a class of their own, as MONAI's loaders give them: what plain ones give, plain."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zfcuda
from zfcuda.results import Result


class Image(Tensor):
    """As MONAI's MetaTensor: keeps its class through every call, and takes sizes as one tuple."""

    def new_empty(self, size, dtype=None, device=None, requires_grad=False):
        return super().new_empty(tuple(size), dtype=dtype, device=device)


MASK = torch.zeros(16, 18)
MASK[4:9, 4:12] = 1
BOXES = {"a": torch.tensor([0, 0, 4, 4]), "b": torch.tensor([4, 4, 8, 8])}
TURNS = {"rotation": torch.tensor([0.0, 30.0])}
GRID = {"size": 8, "stride": 8, "layers": "tail"}
CALLS = {
    "cone": lambda net, x, of, folder: zfcuda.occlusion(
        net, x, of(torch.tensor([1, 2])), fill=of(torch.zeros(3)), method="cone", **GRID
    ),
    "dense": lambda net, x, of, folder: zfcuda.occlusion(net, x, method="dense", **GRID),
    "positions": lambda net, x, of, folder: zfcuda.occlusion(
        net, x, positions=of(torch.tensor([[0, 0, 5, 5]])), classes=of(torch.tensor([1, 2]))
    ),
    "deconv": lambda net, x, of, folder: zfcuda.deconv(net, x, "tail"),
    "classes": lambda net, x, of, folder: zfcuda.deconv(net, x, "classes"),
    "project": lambda net, x, of, folder: zfcuda.project(net, x, "tail"),
    "projections": lambda net, x, of, folder: zfcuda.projections(net, x, ["tail", "classes"]),
    "top": lambda net, x, of, folder: zfcuda.top_activations(net, x, "tail", k=1),
    "list": lambda net, x, of, folder: zfcuda.top_activations(net, [x, x], "tail", k=1),
    "dataset": lambda net, x, of, folder: zfcuda.top_activations(
        net, torch.utils.data.StackDataset(x, torch.zeros(2)), "tail", k=1
    ),
    "background": lambda net, x, of, folder: zfcuda.background_effect(
        net, x[:1], of(MASK), "tail", fills={"grey": of(torch.ones(3))}
    ),
    "diagram": lambda net, x, of, folder: zfcuda.diagram_of(net, x[:1], "tail"),
    "rotation": lambda net, x, of, folder: zfcuda.rotation(
        net, x, of(torch.tensor([0.0, 37.0])), layers="tail"
    ),
    "scaling": lambda net, x, of, folder: zfcuda.scaling(net, x, [1.2]),
    "translation": lambda net, x, of, folder: zfcuda.translation(net, x, [3]),
    "study": lambda net, x, of, folder: zfcuda.invariance_study(
        net, x, ["tail", "classes"], transformations=TURNS
    ),
    "predict": lambda net, x, of, folder: zfcuda.predict(net, x),
    "correspondence": lambda net, x, of, folder: zfcuda.correspondence(
        net, x, {name: of(box) for name, box in BOXES.items()}, "tail", fill=of(torch.zeros(3))
    ),
    "filters": lambda net, x, of, folder: zfcuda.first_layer_filters(net, x),
    "record": lambda net, x, of, folder: (
        zfcuda.record_activations(folder, net, x, "tail", k=1).layer("tail").values
    ),
    "occlusion over": lambda net, x, of, folder: zfcuda.occlusion_over(net, x, folder, **GRID),
    "invariance over": lambda net, x, of, folder: zfcuda.invariance_over(
        net, x, folder, "tail", transformations=TURNS
    ),
}


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All that a result holds, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Result) or dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tensors_in(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for own in value.values():
            yield from tensors_in(own)
    elif isinstance(value, list | tuple):
        for own in value:
            yield from tensors_in(own)


@pytest.mark.parametrize("name", CALLS)
def test_results_are_plain_and_those_of_plain_images(make, x, name, tmp_path):
    net, call = make("VGGLike"), CALLS[name]
    expected = [*tensors_in(call(net, x, lambda value: value, tmp_path / "plain"))]
    given = x.as_subclass(Image)
    found = [*tensors_in(call(net, given, lambda v: v.as_subclass(Image), tmp_path / "image"))]
    assert expected and all(type(own) is Tensor for own in found)
    for own, right in zip(found, expected, strict=True):
        torch.testing.assert_close(own, right, rtol=0, atol=0, equal_nan=True)
    assert type(given) is Image


def test_a_model_may_answer_with_such_tensors(make, x):
    net = make("VGGLike")
    net.classes.register_forward_hook(lambda module, args, output: output.as_subclass(Image))
    with pytest.warns(UserWarning, match="has hooks"):
        found = [*tensors_in(zfcuda.occlusion(net, x, **GRID))]
    assert all(type(own) is Tensor for own in found)
    assert type(zfcuda.predict(net, x).logits) is Tensor


def test_parameters_are_images_too(make, x):
    net = make("VGGLike")
    assert torch.equal(zfcuda.deconv(net, nn.Parameter(x), "tail"), zfcuda.deconv(net, x, "tail"))


def test_tensors_without_numbers_of_their_own_are_refused(make, x):
    from torch.masked import masked_tensor

    masked = masked_tensor(x, x > 0)
    with pytest.raises(TypeError, match="expected a plain tensor, got a MaskedTensor"):
        zfcuda.predict(make("VGGLike"), masked)
