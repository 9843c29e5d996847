"""Whole passes: stopped early, in the fastest memory format, within one rule for memory."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from zoo import Model

import zfcuda
from zfcuda.inference.checks import evaluating
from zfcuda.inference.layers import layer_outputs
from zfcuda.inference.passes import Passes, fastest_layout, memory_limit


def test_a_model_that_catches_exceptions_is_stopped():
    def forward(m, x):
        try:
            x = m.first(x)
        except Exception:
            x = x.new_zeros(len(x), 4, 1, 1)
        m.ended += 1
        return m.second(x.amax((2, 3)))

    model = Model(forward, first=nn.Conv2d(3, 4, 3), second=nn.Linear(4, 2), ended=0)
    images = torch.randn(5, 3, 8, 8)
    result = zfcuda.first_layer_filters(model, images)
    with torch.no_grad():
        expected = model.first(images).amax((0, 2, 3))
    torch.testing.assert_close(result.strongest, expected)
    assert result.count == 5
    assert model.ended == 0


def test_stopped_after_so_many_calls():
    shared = nn.Linear(2, 2)
    model, x = nn.Sequential(shared, nn.ReLU(), shared, shared), torch.randn(3, 2)
    with layer_outputs(model, "0", stop=2) as found:
        model(x)
        pytest.fail("the forward went on")
    assert torch.equal(found["0"], model[:3](x))


def flattening(flatten):
    """A network that flattens its maps by a function of its own."""
    layers = {"features": nn.Conv2d(3, 4, 3), "classifier": nn.Linear(4 * 36, 5)}
    return Model(lambda m, x: m.classifier(flatten(m.features(x))), **layers).eval()


FLATTEN = {
    "in contiguous memory only": lambda maps: maps.view(len(maps), -1),
    "otherwise in another format": lambda maps: maps.as_strided((len(maps), 144), (144, 1)),
}


@pytest.mark.parametrize("flatten", FLATTEN.values(), ids=FLATTEN.keys())
@pytest.mark.parametrize("wanted", [1, 20])
def test_a_model_that_needs_contiguous_images_gets_them(flatten, wanted):
    model, x = flattening(flatten), torch.randn(wanted, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(zfcuda.predict(model, x).logits, model(x))
    result = zfcuda.rotation(model, x, values=range(0, 360, 20))
    torch.testing.assert_close(result.logits[:, 0], result.base_logits)


def test_a_class_that_is_ruled_out_hides_no_difference():
    """Its logit is infinite, which is no measure of what the others may differ by."""
    network, x = flattening(FLATTEN["otherwise in another format"]), torch.randn(20, 3, 8, 8)
    ruled_out = torch.tensor([True, False, False, False, False])
    model = Model(lambda m, x: m.network(x).masked_fill(ruled_out, -torch.inf), network=network)
    with torch.no_grad():
        torch.testing.assert_close(zfcuda.predict(model.eval(), x).logits, model(x))


def test_images_are_converted_and_weights_are_not():
    model, x = flattening(lambda maps: maps.flatten(1)), torch.randn(20, 3, 8, 8)
    taken = []
    model.features.register_forward_pre_hook(lambda _, args: taken.append(args[0].stride()))
    strides = [weight.stride() for weight in model.parameters()]
    weights = [weight.clone() for weight in model.parameters()]
    passes = Passes(model, ["features"], 2**20)
    with evaluating(model):
        logits, found = passes.images(x, lambda _, maps: maps.clone())
    assert passes.layout is torch.channels_last
    assert taken[0] == x[:1].stride()
    assert taken[-1][1] == 1
    assert x.is_contiguous()
    assert [weight.stride() for weight in model.parameters()] == strides
    assert all(map(torch.equal, model.parameters(), weights))
    torch.testing.assert_close(logits, model(x).detach())
    torch.testing.assert_close(torch.cat(found["features"]), model.features(x).detach())


TILES = [torch.float16, torch.bfloat16, torch.float32]


def layout_on_a_gpu(dtype, off_by):
    """What is chosen where the answers, of which 2 is the largest, are off by so much."""
    image = SimpleNamespace(device=torch.device("cuda"), dtype=dtype)
    given = torch.tensor([2.0, 1.0])

    def answers(layout):
        return [given + off_by * (layout is torch.channels_last)]

    return fastest_layout(image, answers)


@pytest.mark.parametrize("dtype", TILES)
def test_tensor_cores_get_channels_last(dtype):
    assert layout_on_a_gpu(dtype, 0.015) is torch.channels_last
    assert layout_on_a_gpu(dtype, 0.2) is torch.preserve_format
    loose = torch.channels_last if dtype == torch.bfloat16 else torch.preserve_format
    assert layout_on_a_gpu(dtype, 0.08) is loose


def test_other_convolutions_on_a_gpu_take_images_as_they_are():
    assert layout_on_a_gpu(torch.float64, 0) is torch.preserve_format
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        assert layout_on_a_gpu(torch.float32, 0) is torch.preserve_format


def test_float64_stays_as_it_was_given():
    model, x = nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten()).double(), torch.randn(20, 3, 8, 8)
    passes = Passes(model, [], 2**20)
    with evaluating(model):
        passes.images(x.double())
    assert passes.layout is torch.preserve_format


def test_batches_are_even_and_within_the_limit():
    model, x = nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten()), torch.randn(1, 3, 8, 8)
    sizes = []
    model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    passes = Passes(model, [], 7 * (2 * x.nbytes + 16 * 2))
    with evaluating(model):
        passes.images(x, more=9)
        del sizes[:]
        passes.variants(
            x,
            lambda images, some: images[:, None].expand(-1, some.stop - some.start, -1, -1, -1),
            9,
            None,
            lambda _: None,
        )
    first, last = sizes
    assert max(first, last) <= passes.together
    assert first + last == 9 and abs(first - last) <= 1


@pytest.mark.parametrize("recorded", [False, True])
def test_one_rule_for_memory(recorded):
    cpu = torch.device("cpu")
    assert memory_limit(1000, cpu, recorded) == 1000
    assert 2**26 <= memory_limit(None, cpu, recorded) <= 2**27
    for wrong in (0, -1, float("inf"), float("nan"), True, "1 GiB"):
        with pytest.raises(ValueError, match="max_memory must be a positive number of bytes"):
            memory_limit(wrong, cpu, recorded)


def test_what_torch_has_cached_on_a_gpu_is_free(monkeypatch):
    of = {"mem_get_info": (300, 1000), "memory_reserved": 500, "memory_allocated": 400}
    for name, value in of.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert memory_limit(None, torch.device("cuda")) == 200


def test_recorded_memory_does_not_depend_on_what_is_free():
    assert memory_limit(None, torch.device("cpu"), recorded=True) == 2**27
    assert memory_limit(None, torch.device("cuda"), recorded=True) == 2**30


def test_a_model_that_agreed_is_not_asked_again_and_answers_to_the_bit():
    model, x = flattening(lambda maps: maps.flatten(1)), torch.randn(20, 3, 8, 8)
    sizes = []
    model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    first, calls = zfcuda.predict(model, x).logits, len(sizes)
    assert torch.equal(zfcuda.predict(model, x).logits, first)
    assert len(sizes) == 2 * calls - 2


def test_a_model_that_changed_since_it_agreed_is_asked_again():
    model, x = flattening(lambda maps: maps.view(len(maps), -1)), torch.randn(20, 3, 8, 8)
    model.forward = lambda x: model.classifier(model.features(x).flatten(1))
    zfcuda.predict(model, x)
    del model.forward
    with torch.no_grad():
        torch.testing.assert_close(zfcuda.predict(model, x).logits, model(x))
