"""What cannot be traced is refused, and no trace is left of trying."""

import contextlib
import gc
import itertools
import random
import subprocess
import sys
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from traces import Model, images, traced, values_of

import zfcuda
from zfcuda.graph import Untraceable, trace


def branches(m, x):
    return x * 2 if x.mean() > 0 else x


def counts(m, x):
    m.calls.add_(1)
    return x * 2


def batch_norm_in_training(m, x):
    return F.batch_norm(x, None, None, training=True)


CALLS = itertools.count(1)
REFUSED = {
    "control flow": (branches, "control flow"),
    "two outputs": (lambda m, x: (x, x), "returns tuple"),
    "no output": (lambda m, x: None, "returns NoneType"),
    "one number": (lambda m, x: x.sum(), "must return a tensor"),
    "one number of all": (lambda m, x: x / x.sum(), "sum mixes the images"),
    "a constant": (lambda m, x: torch.ones(2, 3), "returns a constant"),
    "dropout left on": (lambda m, x: F.dropout(x, 0.5), "random"),
    "noise": (lambda m, x: x + torch.rand(1), "random"),
    "noise like x": (lambda m, x: x + torch.randn_like(x), "random"),
    "Python's noise": (lambda m, x: x * random.random(), "calls mul with 0.* and with 0"),
    "counting the world": (
        lambda m, x: x * next(CALLS),
        "mul with 1 for one image and with 2",
    ),
    "batch statistics": (batch_norm_in_training, "statistics"),
    "state": (counts, "its own parameters or buffers"),
    "out=": (lambda m, x: torch.mul(x, 2, out=x.new_empty(x.shape)) * 0 + x, None),
}


@pytest.mark.parametrize("name", REFUSED)
def test_untraceable_functions(name):
    forward, reason = REFUSED[name]
    model = Model(forward).eval()
    model.register_buffer("calls", torch.zeros(1))
    x = images()
    before = [dict(vars(m)) for m in model.modules()]
    state = torch.get_rng_state()
    if reason is None:  # right or refused, but never wrong
        with contextlib.suppress(Untraceable):
            traced(model, x)
    else:
        with pytest.raises(Untraceable, match=reason):
            trace(model, x)
    assert [dict(vars(m)) for m in model.modules()] == before
    assert torch.equal(state, torch.get_rng_state())


def hooked(register):
    conv = nn.Conv2d(4, 2, 3)
    getattr(conv, register)(lambda *_: None)
    return nn.Sequential(conv)


HOOKS = r"'0' \(Conv2d\) has hooks"
MODELS = {
    "forward hook": (lambda: hooked("register_forward_hook"), HOOKS),
    "forward pre-hook": (lambda: hooked("register_forward_pre_hook"), HOOKS),
    "backward hook": (lambda: hooked("register_full_backward_hook"), HOOKS),
    "backward pre-hook": (lambda: hooked("register_full_backward_pre_hook"), HOOKS),
    "old weight norm": (lambda: nn.Sequential(nn.utils.weight_norm(nn.Conv2d(4, 2, 3))), "hooks"),
    "batch statistics": (lambda: nn.BatchNorm2d(4, track_running_stats=False), "statistics"),
}


@pytest.mark.parametrize(("make", "reason"), MODELS.values(), ids=MODELS.keys())
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_untraceable_models(make, reason):
    with pytest.raises(Untraceable, match=reason):
        trace(make().double().eval(), images())


FOLLOWED = {
    "types": lambda m, x: x if isinstance(x, Tensor) else x * 2,
    "shapes": lambda m, x: x[:, :2] * 2 if x.shape[2] > 5 else x,
    "a forward of its own": lambda m, x: m.relu(x) if hasattr(m, "relu") else x,
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_control_flow_on_anything_but_values_is_followed(name):
    traced(Model(FOLLOWED[name], relu=nn.ReLU()))


def swallowing(call):
    """What it does without what a recording forbids is not what the model does."""

    def forward(m, x):
        try:
            return call(x)
        except Exception:
            return x * 3

    return forward


SWALLOWED = {
    "random numbers": (lambda x: x * torch.rand_like(x), "random"),
    "a value": (lambda x: x * x[0, 0, 0, 0].item(), "values"),
    "numpy": (lambda x: x * float(x.numpy()[0, 0, 0, 0]), "numpy"),
    "a list": (lambda x: x * x.tolist()[0][0][0][0], "tolist"),
    "an error of values": (lambda x: x[:, x[0, 0, 0, :1].abs().long() + 9], "values"),
}


@pytest.mark.parametrize(("call", "reason"), SWALLOWED.values(), ids=SWALLOWED.keys())
def test_what_is_caught_is_refused_all_the_same(call, reason):
    with pytest.raises(Untraceable, match=reason):
        trace(Model(swallowing(call)).eval(), images())


def test_an_error_is_the_models_own():
    with pytest.raises(AttributeError, match="missing"):
        trace(Model(lambda m, x: m.missing(x)).eval(), images())


def test_global_hooks():
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        with pytest.raises(Untraceable, match="global"):
            trace(nn.ReLU(), images())
    finally:
        handle.remove()


# --- no trace is left -----------------------------------------------------------------------------


def test_the_model_is_as_it_was():
    def forward(m, x):
        m.seen = x
        m.history.append(x)
        m.table["x"] = x
        return m.conv(x) * torch.ones(2, 1, 1, dtype=x.dtype)

    model = Model(forward, conv=nn.Conv2d(4, 2, 3).double(), history=[], table={}, seen=None)
    model.train()
    model.conv.eval()
    before = {name: dict(vars(m)) for name, m in model.named_modules()}
    trace(model, images())
    assert {name: dict(vars(m)) for name, m in model.named_modules()} == before
    assert model.history == [] and model.table == {} and model.seen is None
    assert model.training and not model.conv.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_inside_inference_mode_and_with_gradients():
    x = images().requires_grad_()
    net = nn.Sequential(nn.Conv2d(4, 2, 3), nn.ReLU(inplace=True)).double()
    trace(net, x)
    with torch.inference_mode():
        graph = trace(net, images())
    assert not values_of(graph, images())[graph.output].is_inference()


def test_no_warnings(recwarn):
    traced(nn.Sequential(nn.Conv2d(4, 2, 3), nn.ReLU()).double())
    assert not recwarn.list


def test_others_may_run_their_models_meanwhile():
    """torch.fx patches nn.Module for everyone."""
    net = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(20))).double().eval()
    other = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()).double().eval()
    x, stop, failures = images(), threading.Event(), []

    def run():
        with torch.no_grad():
            expected = other(x)
            while not stop.is_set():
                try:
                    if not torch.equal(other(x), expected):
                        failures.append("another answer")
                except Exception as error:
                    failures.append(error)

    def trace_it():
        try:
            for _ in range(5):
                assert len(trace(net, x).nodes) == 21
        except Exception as error:
            failures.append(error)

    runner, tracers = threading.Thread(target=run), [threading.Thread(target=trace_it)] * 1
    tracers.append(threading.Thread(target=trace_it))
    runner.start()
    for thread in tracers:
        thread.start()
    for thread in tracers:
        thread.join()
    stop.set()
    runner.join()
    assert not failures


def test_an_image_that_the_model_refuses_is_the_models_own_error():
    net = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()).double().eval()
    with pytest.raises(RuntimeError, match="expected input"):
        trace(net, torch.rand(1, 1, 8, 8, dtype=torch.float64))


def test_numbers_that_another_thread_draws_meanwhile_are_not_drawn_again():
    models = [nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()).double().eval() for _ in range(8)]
    x = images()[:1]
    drawn, stop = [], threading.Event()

    def draw():
        while not stop.is_set():
            drawn.append(float(torch.rand((), dtype=torch.float64)))

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        for model in models:
            trace(model, x)
    finally:
        stop.set()
        thread.join()
    assert len(drawn) == len(set(drawn)) > 0


FORMS = {
    "scripted": torch.jit.script,
    "traced": lambda net: torch.jit.trace(net, images()[:1]),
    "frozen": lambda net: torch.jit.freeze(torch.jit.script(net)),
    "in parallel": nn.DataParallel,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_network_in_every_form(form):
    layers = (nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    net = nn.Sequential(*layers, nn.Flatten()).double().eval()
    x = images()[:1]
    given = FORMS[form](net)
    found = zfcuda.occlusion(given, x, size=4, stride=4, method="cone")
    torch.testing.assert_close(found.base_logits, net(x).detach())
    dense = zfcuda.occlusion(net, x, size=4, stride=4, method="dense")
    torch.testing.assert_close(found.logits, dense.logits)


@pytest.mark.parametrize("name", ["control flow", "two outputs", "noise", "state"])
def test_refusing_keeps_nothing_of_the_caller_in_memory(name):
    model = Model(REFUSED[name][0]).eval()
    model.register_buffer("calls", torch.zeros(1))
    gc.collect()
    gc.disable()
    try:
        kept = weakref.ref(refuse(model))
        assert kept() is None
    finally:
        gc.enable()


def refuse(model):
    x = images(2)
    with contextlib.suppress(Untraceable):
        trace(model, x)
    return x


def test_layers_may_carry_lists_of_tensors():
    net = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()).double().eval()
    x = images()
    graphs = []
    for _ in range(2):
        net[0].history = [torch.randn(3)], (torch.randn(2),)
        graphs.append(trace(net, x))
    assert graphs[0] is graphs[1]  # they are no settings of a layer of torch's
    net[0].stride = (2, 2)
    assert trace(net, x).nodes[-1].shape != graphs[0].nodes[-1].shape


def test_following_a_model_does_not_import_torchs_compiler():
    """It takes two seconds, and nothing here is compiled."""
    code = (
        "import sys, torch, zfcuda; m = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)); "
        "zfcuda.deconv(m, torch.rand(1, 3, 8, 8), '0'); assert 'torch._dynamo' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_what_only_others_take_may_mix_images():
    def forward(m, x):
        m.norm(x - x.mean(0, keepdim=True).view(1, *x.shape[1:]))
        return m.conv(x)

    model = Model(forward, conv=nn.Conv2d(4, 2, 3), norm=nn.ReLU()).double().eval()
    assert not trace(model, images()).mixes
    with pytest.raises(Untraceable, match="mean mixes"):
        trace(model, images(), ["", "norm"])


def test_sorting_a_row_is_not_sorting_images():
    traced(Model(lambda m, x: x.sort(-1)[0] + x.sort()[0]))
    with pytest.raises(Untraceable, match="sort mixes"):
        trace(Model(lambda m, x: x.sort(0)[0]), images())
