"""Every experiment leaves the user's model, tensors and modes exactly as they were."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from zoo import Model

import zfcuda

EXPERIMENTS = {
    "deconv": lambda net, x: zfcuda.deconv(net, x, "tail", k=2),
    "gradient": lambda net, x: zfcuda.deconv(net, x, "tail", rule="gradient"),
    "occlusion": lambda net, x: zfcuda.occlusion(net, x, size=6, stride=6, layers="tail"),
    "rotation": lambda net, x: zfcuda.rotation(net, x, [0, 45], layers="tail"),
    "background": lambda net, x: zfcuda.background_effect(net, x[:1], torch.ones(16, 18), "tail"),
    "predict": lambda net, x: zfcuda.predict(net, x),
}


@pytest.fixture(params=EXPERIMENTS.values(), ids=EXPERIMENTS.keys())
def experiment(request):
    return request.param


def hooks_of(net: nn.Module) -> list[int]:
    return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in net.modules()]


def tensors_in(result) -> list[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        return [result]
    values = vars(result).values()
    return [value for value in values if isinstance(value, torch.Tensor)]


def test_mode_hooks_gradients_and_buffers(net, x, experiment):
    net.train()
    next(net.children()).eval()  # a mixed state must come back mixed
    parameters = list(net.parameters())
    parameters[0].requires_grad_(False)
    parameters[1].grad = torch.ones_like(parameters[1])
    flags = [module.training for module in net.modules()]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    calls = []
    net.tail.register_forward_hook(lambda *_: calls.append("user"))
    hooks, copy = hooks_of(net), x.clone()

    result = experiment(net, x)

    assert [module.training for module in net.modules()] == flags
    assert hooks_of(net) == hooks
    assert calls, "the user's own hook did not run"
    assert [parameter.requires_grad for parameter in parameters] == [False] + [True] * (
        len(parameters) - 1
    )
    assert [parameter.grad is None for parameter in parameters[:3]] == [True, False, True]
    assert torch.equal(parameters[1].grad, torch.ones_like(parameters[1]))
    for name, value in net.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert torch.equal(x, copy)
    assert torch.is_grad_enabled()
    assert not any(tensor.requires_grad for tensor in tensors_in(result))


PARTS = {"a": torch.tensor([0, 0, 4, 4])}
OTHERS = {
    "top activations": lambda net, x: zfcuda.top_activations(net, x, "tail", k=2, maps=1),
    "correspondence": lambda net, x: zfcuda.correspondence(net, x, PARTS, "tail"),
    "diagram": lambda net, x: zfcuda.diagram_of(net, x[:1], "tail"),
    "filters": lambda net, x: zfcuda.first_layer_filters(net, x),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_others_leave_modes_hooks_and_weights(net, x, other):
    net.train()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    other(net, x)
    assert all(module.training and not module._forward_hooks for module in net.modules())
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("call", [1, 2])
def test_also_when_the_model_raises(x, experiment, error, call):
    """In the middle of the forward pass, on the n-th call."""

    def forward(m, x):
        x = m.tail(x)
        m.calls += 1
        if x.sum().isinf():  # cannot be traced: what is traced is not called again
            return x
        if m.calls >= call:
            raise error
        return m.drop(x).mean((2, 3))

    net = Model(forward, tail=nn.Conv2d(3, 2, 1), drop=nn.Dropout(), calls=0).double()
    net.tail.eval()
    with pytest.raises(error):
        experiment(net, x)
    assert [module.training for module in net.modules()] == [True, False, True]
    assert hooks_of(net) == [0, 0, 0]
    assert torch.overrides._get_current_function_mode_stack() == []
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_under_the_users_modes(net, x, experiment, mode):
    expected = tensors_in(experiment(net, x))
    with mode():
        made_inside = x.clone()  # under inference_mode an inference tensor
        result = tensors_in(experiment(net, made_inside))
    for got, wanted in zip(result, expected, strict=True):
        assert torch.equal(got, wanted)
        assert not got.is_inference()


def test_a_model_made_under_inference_mode(make, x, experiment):
    net = make("Residual")
    expected = tensors_in(experiment(net, x))
    with torch.inference_mode():
        frozen = make("Residual")
        frozen.load_state_dict(net.state_dict())
        assert next(frozen.parameters()).is_inference()
        result = tensors_in(experiment(frozen, x))
    assert all(parameter.is_inference() for parameter in frozen.parameters())
    for got, wanted in zip(result, expected, strict=True):
        torch.testing.assert_close(got, wanted)


def test_input_that_requires_grad_and_a_model_that_works_in_place_on_it(x, experiment):
    def forward(m, x):
        x.sub_(0.5).mul_(2)
        return m.tail(x).relu_().mean((2, 3))

    net = Model(forward, tail=nn.Conv2d(3, 4, 3)).double()
    x.requires_grad_()
    copy = x.detach().clone()
    result = experiment(net, x)
    assert torch.equal(x, copy)
    assert x.grad is None
    assert not any(tensor.requires_grad for tensor in tensors_in(result))


def test_batch_statistics_do_not_reach_the_running_ones(x, experiment):
    def stubborn(m, x):
        """Also in eval mode."""
        x = nn.functional.batch_norm(m.tail(x), m.mean, m.variance, training=True)
        return x.relu().mean((2, 3))

    statistics = {"mean": nn.Buffer(torch.zeros(4)), "variance": nn.Buffer(torch.ones(4))}
    net = Model(stubborn, tail=nn.Conv2d(3, 4, 3), **statistics).double()
    if experiment is not EXPERIMENTS["gradient"]:  # the plain gradient intercepts nothing
        experiment(net, x)
        assert net.mean.abs().max() == 0


@pytest.mark.parametrize("frozen", [True, False])
def test_the_weights_need_not_require_grad(make, x, frozen):
    net = make("VGGLike")
    expected = zfcuda.deconv(net, x, "tail")
    net.requires_grad_(not frozen)
    assert torch.equal(zfcuda.deconv(net, x, "tail"), expected)


def test_a_checkpointed_model(make, x):
    from torch.utils.checkpoint import checkpoint

    net = make("VGGLike")
    expected = zfcuda.deconv(net, x, "tail", rule="gradient")
    plain = net.features.forward
    net.features.forward = lambda x: checkpoint(plain, x, use_reentrant=False)
    gradient = zfcuda.deconv(net, x, "tail", rule="gradient")
    torch.testing.assert_close(gradient, expected)
    net.tail.register_forward_hook(lambda *_: None)  # a model with hooks is not traced
    with pytest.raises(RuntimeError, match="switch its checkpointing off"):
        zfcuda.deconv(net, x, "tail")  # the rules cannot reach what backward recomputes


def test_a_compiled_model_is_followed_uncompiled(make, x):
    net = make("Functional")
    expected = zfcuda.deconv(net, x, "tail")
    compiled = torch.compile(net, backend="eager")
    assert torch.equal(zfcuda.deconv(compiled, x, "_orig_mod.tail"), expected)
    net.compile(backend="eager")
    torch.testing.assert_close(zfcuda.deconv(net, x, "tail"), expected)


def test_threads_that_share_a_module_take_turns(x):
    """Each hooks and sets the same modules; run together they would receive each other's maps."""
    stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(8, 8, 3))
    nets = [nn.Sequential(stem, nn.Conv2d(8, 4, 3)).double().train() for _ in range(2)]
    images = [torch.randn(2, 3, 48, 48, dtype=torch.float64) for _ in range(2)]
    expected = [zfcuda.deconv(nets[i], images[i], "0.3") for i in range(2)]

    def found(i: int) -> bool:
        projections = [zfcuda.deconv(nets[i], images[i], "0.3") for _ in range(20)]
        return all(torch.equal(projection, expected[i]) for projection in projections)

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(found, range(2)))
    assert all(module.training for net in nets for module in net.modules())
