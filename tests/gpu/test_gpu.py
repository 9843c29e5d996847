"""What only a GPU can show: streams, graph capture, other devices, the experiments on it."""

import pytest
import torch
from torch import nn

import zfcuda
from zfcuda import _build_facts, ops

on_gpu = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        not (torch.cuda.is_available() and _build_facts.WITH_CUDA),
        reason="no usable GPU, or zfcuda was built without CUDA",
    ),
]


def needs_gpu(test):
    for mark in on_gpu:
        test = mark(test)
    return test


def net() -> nn.Module:
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 6, 3, padding=1))
    return nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(6 * 15 * 15, 5)).eval()


# --- every op, on any device ----------------------------------------------------------------------


def _boxes(x):
    return x.new_tensor([[0, 0, 5, 5], [-2, 3, 4, 99]]).long()


def _turned(x):
    turn = [[[0.8, -0.6, 3.0], [0.6, 0.8, -2.0]]]
    return torch.tensor(turn, dtype=torch.float64, device=x.device)


def _rows(x):
    rows = [[0, 0, 0, 3, 2, 2, 5, 5, 1, 1, 6, 6, 0], [1, -1, 0, 0, 0, 0, 0, 0, -2, -2, 3, 3, 25]]
    return torch.tensor(rows, device=x.device)


def _windows(name, *rest):
    def work(x):
        base = x.permute(0, 2, 3, 1).contiguous()
        if name == "unpool_windows":
            _, switches = ops.max_pool2d(x, 2)
            base = switches.permute(0, 2, 3, 1).contiguous()
        out = x.new_zeros(50, x.shape[1])
        getattr(ops, name)(base, [x.new_ones(9, x.shape[1])], _rows(x), out, 25, *rest)
        return (out,)

    return work


def _backward(forward):
    def work(x):
        inner = x.detach().requires_grad_()
        first = forward(inner)[0]
        return torch.autograd.grad(first, inner, torch.ones_like(first))

    return work


DERIVED = {
    "max_pool2d": lambda x: ops.max_pool2d(x, 3, 2, relu=True),
    "max_unpool2d": lambda x: (
        ops.max_unpool2d(*ops.max_pool2d(x, 3, 2), 3, 2, output_size=x.shape[-2:], relu=True),
    ),
    "local_response_norm": lambda x: (ops.local_response_norm(x, 5, 1e-2, 0.75, 2.0),),
    "warp_affine": lambda x: (ops.warp_affine(x, _turned(x)),),
}
WORK = {
    **DERIVED,
    **{f"{name}'s backward": _backward(forward) for name, forward in DERIVED.items()},
    "spatial_max": ops.spatial_max,
    "occlude": lambda x: (ops.occlude(x, _boxes(x), 0.5),),
    "gather_windows": _windows("gather_windows"),
    "pool_windows": _windows("pool_windows", 3, 2),
    "unpool_windows": _windows("unpool_windows", 2),
}
every_op = pytest.mark.parametrize("work", WORK.values(), ids=WORK.keys())


@every_op
def test_the_work_of_these_tests_itself(work):
    """On the CPU, so that what needs a GPU fails there for no other reason."""
    x = torch.randn(2, 5, 17, 19, dtype=torch.float64)
    results = work(x)
    assert results and not any(each.isnan().any() for each in results)
    assert any(each.double().abs().sum() > 0 for each in results)


# --- streams, graphs, devices ---------------------------------------------------------------------


@needs_gpu
def test_kernels_are_launched_on_torchs_current_stream():
    handle = pytest.importorskip("zfcuda._C").stream_handle
    device = torch.cuda.current_device()
    assert handle(device) == torch.cuda.current_stream().cuda_stream
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        assert handle(device) == side.cuda_stream == torch.cuda.current_stream().cuda_stream
    assert handle(device) == torch.cuda.current_stream().cuda_stream != side.cuda_stream


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_there_is_no_stream():
    handle = pytest.importorskip("zfcuda._C").stream_handle
    with pytest.raises(RuntimeError, match=r"(?i)cuda"):
        handle(0)


@needs_gpu
@every_op
def test_ops_run_on_the_current_stream(work):
    """Work queued behind a long kernel on a side stream sees that kernel's result."""
    value = torch.randn(2, 5, 17, 19, device="cuda")
    expected = work(value)
    x = torch.zeros_like(value)
    work(x)  # what is made on a first call is made before
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        x.copy_(value)
        found = work(x)
    stream.synchronize()
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


@needs_gpu
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_ops_can_be_captured(layout):
    x = torch.randn(2, 5, 17, 19, device="cuda").contiguous(memory_format=layout)
    turn, rows = _turned(x), _rows(x)  # a graph cannot copy from the host
    boxes = torch.tensor([[0, 0, 5, 5]], device="cuda")
    patch = torch.randn(9, 5, device="cuda")

    def work():
        y, switches = ops.max_pool2d(x, 3, 2, relu=True)
        back = ops.max_unpool2d(y, switches, 3, 2, output_size=x.shape[-2:])
        norm = ops.local_response_norm(x, 5, 1e-4, 0.75, 2.0)
        base = x.permute(0, 2, 3, 1).contiguous()
        taps = ops.max_pool2d(x, 2)[1].permute(0, 2, 3, 1).contiguous()
        gathered, pooled, unpooled = (x.new_zeros(50, 5) for _ in range(3))
        ops.gather_windows(base, [patch], rows, gathered, 25)
        ops.pool_windows(base, [patch], rows, pooled, 25, 3, 2)
        ops.unpool_windows(taps, [patch], rows, unpooled, 25, 2)
        copies = ops.occlude(x, boxes, 0.5), ops.warp_affine(x, turn)
        return y, back, norm, *ops.spatial_max(x), *copies, gathered, pooled, unpooled

    graph, captured = captured_in_a_graph(work)
    for _ in range(2):  # replayed on other values, and once more
        x.copy_(torch.randn_like(x))
        replayed(graph, captured, work())


def captured_in_a_graph(work):
    """The graph, and the tensors that its replays write to."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # capture wants everything set up before
        work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = work()
    return graph, captured


def replayed(graph, captured, expected):
    """A replay gives what was ``expected``, and nothing else wrote it."""
    for tensor in captured:
        tensor.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert len(captured) == len(expected)
    for found, wanted in zip(captured, expected, strict=True):
        assert torch.equal(found, wanted)


def differentiable(x, turn):
    """A function of ``x`` through every op that has a derivative; both must have gradients."""

    def work():
        inner = x.detach().requires_grad_()
        y, switches = ops.max_pool2d(inner, 3, 2, relu=True)
        outputs = [
            ops.max_unpool2d(y, switches, 3, 2, output_size=x.shape[-2:], relu=True),
            ops.max_unpool2d(y, switches, 3, 2, output_size=x.shape[-2:], overlap="overwrite"),
            ops.max_pool2d(inner, 2)[0],
            ops.local_response_norm(inner, 5, 1e-2, 0.75, 2.0),
            ops.warp_affine(inner, turn),
        ]
        # Each by itself and all together; expanded gradients, and dense ones.
        ones = [torch.autograd.grad(out.sum(), inner, retain_graph=True)[0] for out in outputs]
        total = sum((out.float() ** 2).sum() for out in outputs)
        return [out.detach() for out in outputs] + ones + [*torch.autograd.grad(total, inner)]

    return work


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_differentiated_work_itself(layout):
    """On the CPU, so that what needs a GPU fails there for no other reason."""
    x = torch.randn(2, 5, 17, 19).contiguous(memory_format=layout)
    results = differentiable(x, _turned(x))()
    assert len(results) == 11 and all(each.isfinite().all() and each.any() for each in results)


@needs_gpu
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_backward_can_be_captured(layout, dtype):
    """Forward and backward in one graph, replayed on other values, as eager."""
    x = torch.randn(2, 5, 17, 19, device="cuda").to(dtype).contiguous(memory_format=layout)
    work = differentiable(x, _turned(x))
    graph, captured = captured_in_a_graph(work)
    for _ in range(2):
        x.copy_(torch.randn_like(x))
        replayed(graph, captured, work())


@needs_gpu
@pytest.mark.parametrize("fused", [False, True])
def test_a_training_step_can_be_captured(fused):
    """zfcuda's modules in a network whose step, optimiser included, is one graph: weights after
    three replays are those of three eager steps."""
    x = torch.randn(4, 3, 64, 64, device="cuda")
    labels = torch.tensor([0, 3, 1, 9], device="cuda")
    models = [zfcuda.models.zfnet_small(fused=fused).eval().cuda() for _ in range(2)]  # no dropout
    models[1].load_state_dict(models[0].state_dict())
    optimisers = [torch.optim.SGD(model.parameters(), 1e-2) for model in models]

    def step(model, optimiser):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimiser.step()

    states = [{k: v.clone() for k, v in model.state_dict().items()} for model in models]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(models[1], optimisers[1])
    torch.cuda.current_stream().wait_stream(side)
    models[1].load_state_dict(states[1])
    optimisers[1].zero_grad()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(models[1], optimisers[1])
    for _ in range(3):
        step(models[0], optimisers[0])
        graph.replay()
    torch.cuda.synchronize()
    for eager, captured in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(captured, eager, rtol=1e-3, atol=1e-5)
    assert not torch.equal(models[0].conv1.weight, states[0]["conv1.weight"])


@needs_gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU")
@every_op
def test_tensors_of_another_device(work):
    x = torch.randn(2, 5, 17, 19, dtype=torch.float64)
    found = work(x.to("cuda:1"))
    assert torch.cuda.current_device() == 0
    for ours, expected in zip(found, work(x), strict=True):
        assert ours.device == torch.device("cuda:1")
        torch.testing.assert_close(ours.cpu(), expected)


# --- experiments ----------------------------------------------------------------------------------


GRID = {"size": 7, "stride": 5, "layers": "3"}
ANGLES = [0.0, 33.0, 90.0, 217.0]
EXPERIMENTS = {
    "occlusion in cones": lambda net, x: zfcuda.occlusion(net, x, method="cone", **GRID),
    "dense occlusion": lambda net, x: zfcuda.occlusion(net, x, method="dense", **GRID),
    "rotation": lambda net, x: zfcuda.rotation(net, x, ANGLES, layers=["3"]),
}


@needs_gpu
@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS.keys())
def test_an_experiment_on_the_gpu_is_that_on_the_cpu(experiment):
    model, x = net().double(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    on_cpu, on_gpu = experiment(model, x), experiment(model.cuda(), x.cuda())
    torch.testing.assert_close(on_gpu.logits, on_cpu.logits, rtol=1e-9, atol=1e-9)
    if isinstance(on_cpu, zfcuda.OcclusionResult):
        torch.testing.assert_close(on_gpu.layers["3"].sums, on_cpu.layers["3"].sums)


@needs_gpu
def test_projection_on_the_gpu_is_that_on_the_cpu():
    model, x = net().double(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    on_cpu = zfcuda.project(model, x, "3").full()
    on_gpu = zfcuda.project(model.cuda(), x.cuda(), "3").full()
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-9, atol=1e-9)
    single = zfcuda.deconv(model, x.cuda(), "3")
    torch.testing.assert_close(single.cpu(), zfcuda.deconv(model.cpu(), x, "3"))
