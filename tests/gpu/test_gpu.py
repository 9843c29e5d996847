"""What only a GPU can show: streams, graph capture, other devices, the experiments on it."""

import pytest
import torch
from torch import nn

import zfcuda
from zfcuda import _load, ops, reference

pytestmark = pytest.mark.skipif(
    not (torch.cuda.is_available() and _load.library().build_facts()["cuda"]),
    reason="no usable GPU, or zfcuda was built without CUDA",
)


def net() -> nn.Module:
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 6, 3, padding=1))
    return nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(6 * 15 * 15, 5)).eval()


def test_ops_run_on_the_current_stream():
    """Work queued behind a long kernel on a side stream sees that kernel's result."""
    x = torch.zeros(64, 64, 128, 128, device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        x.fill_(3.0)
        y, _ = ops.max_pool2d(x, 2)
    stream.synchronize()
    assert bool((y == 3).all())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_ops_can_be_captured(layout):
    x = torch.randn(2, 5, 17, 19, device="cuda").contiguous(memory_format=layout)
    turn = torch.tensor([[[0.8, -0.6, 3.0], [0.6, 0.8, -2.0]]], device="cuda")
    boxes = torch.tensor([[0, 0, 5, 5]], device="cuda")

    def work():
        y, switches = ops.max_pool2d(x, 3, 2, relu=True)
        back = ops.max_unpool2d(y, switches, 3, 2, output_size=x.shape[-2:])
        norm = ops.local_response_norm(x, 5, 1e-4, 0.75, 2.0)
        return y, back, norm, ops.occlude(x, boxes, 0.5), ops.warp_affine(x, turn)

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):  # capture wants everything set up before
        work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = work()
    x.copy_(torch.randn_like(x))
    graph.replay()
    torch.cuda.synchronize()
    for found, expected in zip(captured, work(), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU")
def test_tensors_of_another_device():
    x = torch.randn(2, 3, 9, 9, device="cuda:1")
    y, switches = ops.max_pool2d(x, 3, 2)
    assert y.device == x.device and torch.cuda.current_device() == 0
    expected, taps = reference.max_pool2d(x.cpu(), (3, 3), (2, 2))
    assert torch.equal(y.cpu(), expected) and torch.equal(switches.cpu(), taps)


@pytest.mark.parametrize("method", ["cone", "dense"])
def test_occlusion_on_the_gpu_is_that_on_the_cpu(method):
    model, x = net().double(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    settings = {"size": 7, "stride": 5, "layers": "3", "method": method}
    on_cpu = zfcuda.occlusion(model, x, **settings)
    on_gpu = zfcuda.occlusion(model.cuda(), x.cuda(), **settings)
    torch.testing.assert_close(on_gpu.logits, on_cpu.logits, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(on_gpu.layers["3"].sums, on_cpu.layers["3"].sums)


def test_projection_on_the_gpu_is_that_on_the_cpu():
    model, x = net().double(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    on_cpu = zfcuda.project(model, x, "3").full()
    on_gpu = zfcuda.project(model.cuda(), x.cuda(), "3").full()
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-9, atol=1e-9)
    single = zfcuda.deconv(model, x.cuda(), "3")
    torch.testing.assert_close(single.cpu(), zfcuda.deconv(model.cpu(), x, "3"))


def test_rotation_on_the_gpu_is_that_on_the_cpu():
    model, x = net().double(), torch.randn(1, 3, 32, 32, dtype=torch.float64)
    angles = [0.0, 33.0, 90.0, 217.0]
    on_cpu = zfcuda.rotation(model, x, angles, layers=["3"])
    on_gpu = zfcuda.rotation(model.cuda(), x.cuda(), angles, layers=["3"])
    torch.testing.assert_close(on_gpu.logits, on_cpu.logits, rtol=1e-9, atol=1e-9)
