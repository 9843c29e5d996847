"""Padding, cropping, strides, flipping, nearest resampling, pixel shuffles, space to depth: cones
against whole passes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from traces import Model, images, traced

import zfcuda
from zfcuda.cones.boxes import descend_boxes, propagate_boxes
from zfcuda.cones.receptive import receptive_fields
from zfcuda.graph.rules import Concat, Rearrangement

COPIES = {
    "zeros around": lambda x: F.pad(x, (1, 2, 0, 3)),
    "ones around": lambda x: F.pad(x, (2, 1, 1, 1), value=1.0),
    "cropped": lambda x: x[:, :, 2:-1, 1:],
    "cropped by padding": lambda x: F.pad(x, (-1, 2, -2, 0)),
    "mirrored": lambda x: F.pad(x, (3, 2, 1, 4), mode="reflect"),
    "repeated": lambda x: F.pad(x, (3, 2, 1, 4), mode="replicate"),
    "every other": lambda x: x[:, :, ::2, 1::3],
    "flipped": lambda x: x.flip(3),
    "rolled": lambda x: x.roll((2, -3), (2, 3)),
    "twice as large": lambda x: F.interpolate(x, scale_factor=2),
    "another size": lambda x: F.interpolate(x, (7, 21)),
    "nearest, exactly": lambda x: F.interpolate(x, (9, 15), mode="nearest-exact"),
    "chosen rows": lambda x: x[:, :, [3, 0, 7, 7, 2]],
}


def space_to_depth(x):
    n, c, h, w = x.shape
    x = x.view(n, c, h // 4, 4, w // 4, 4).permute(0, 3, 5, 1, 2, 4)
    return x.contiguous().view(n, 16 * c, h // 4, w // 4)


def depth_to_space(x):
    n, c, h, w = x.shape
    return x.view(n, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // 4, 2 * h, 2 * w)


def patches_merged(x):
    x = x.permute(0, 2, 3, 1)
    x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
    return x.permute(0, 3, 1, 2)


def framed(x):
    out = x.new_zeros(len(x), x.shape[1], x.shape[2] + 2, x.shape[3] + 3)
    out[:, :, 1:-1, 2:-1] = x
    return out


def wrapped(x):
    x = torch.cat([x[:, :, -2:], x, x[:, :, :1]], 2)
    return torch.cat([x[..., -1:], x, x[..., :2]], 3)


def interleaved(x):
    return torch.stack([x[:, :2], x[:, 2:]], 3).flatten(2, 3)


def blackened(x):
    x = x.clone()
    x[:, :, :2] = 0
    x[:, :, :, -1] = 0
    return x


def focused(x):
    parts = [x[..., i::2, j::2] for j in (0, 1) for i in (0, 1)]
    return torch.cat(parts, 1)


CHAINS = {
    "pixels shuffled": lambda x: F.pixel_shuffle(x, 2),
    "pixels unshuffled": lambda x: F.pixel_unshuffle(x, 2),
    "shuffled and padded": lambda x: F.pad(F.pixel_shuffle(x, 2), (1, 2, 0, 3), mode="reflect"),
    "space to depth": space_to_depth,
    "depth to space": depth_to_space,
    "patches merged": patches_merged,
    "focused": focused,
    "circular": lambda x: F.pad(x, (3, 2, 1, 4), mode="circular"),
    "wrapped": wrapped,
    "framed": framed,
    "interleaved": interleaved,
    "each column twice": lambda x: torch.stack([x, x], -1).flatten(3),
    "blackened": blackened,
    "unfolded": lambda x: x.unfold(2, 3, 3).unfold(3, 2, 2).permute(0, 1, 4, 5, 2, 3).flatten(1, 3),
    "windows as channels": lambda x: F.unfold(x, 3, padding=1).view(len(x), -1, *x.shape[2:]),
    "channels rolled, then rows": lambda x: x.roll((1, 1), (1, 2)),
}
MODULES = {
    "circular": lambda: nn.Conv2d(4, 4, (3, 5), padding=(2, 1), padding_mode="circular"),
    "same": lambda: nn.Conv2d(4, 4, (2, 4), padding="same"),
    "reflect": lambda: nn.Conv2d(4, 4, 3, padding=2, padding_mode="reflect"),
    "replicate": lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="replicate"),
    "zero": lambda: nn.ZeroPad2d((1, 0, 2, 3)),
    "upsample": lambda: nn.Upsample(scale_factor=3),
}


def network(copy) -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.copy = copy if isinstance(copy, nn.Module) else Model(lambda m, x: copy(x))
            channels = self.copy.double()(images(1, (12, 16))).shape[1]
            self.stem = nn.Conv2d(4, 4, 3, padding=1)
            self.tail = nn.Conv2d(channels, 6, 3, 2, padding=1)
            self.pool = nn.MaxPool2d(2, ceil_mode=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.pool(self.copy(self.stem(x).relu()) + 0.5)
            return self.tail(x).relu().mean((2, 3))

    return Net().double().eval()


@pytest.fixture(params=[*COPIES, *CHAINS, *(f"nn: {name}" for name in MODULES)])
def net(request):
    made = (COPIES | CHAINS).get(request.param)
    return network(made or MODULES[request.param.removeprefix("nn: ")]())


def test_occlusion(net):
    x = images(2, (12, 16))
    cones, dense = (
        zfcuda.occlusion(net, x, size=4, stride=3, layers=["tail"], method=method)
        for method in ("cone", "dense")
    )
    assert zfcuda.plan(net, x, size=4, stride=3, method="cone").dense_from in (None, "mean")
    torch.testing.assert_close(cones.logits, dense.logits)
    torch.testing.assert_close(cones.layers["tail"].sums, dense.layers["tail"].sums)


@pytest.mark.parametrize("rule", ["deconv", "gradient"])
def test_projection(net, rule):
    x = images(1, (12, 16))
    found = zfcuda.deconv(net, x, "tail", rule=rule, seed=1.0)
    hooked = network(net.copy)
    hooked.load_state_dict(net.state_dict())
    hooked.stem.register_forward_hook(lambda *_: None)  # no graph: the whole backward pass
    true = zfcuda.deconv(hooked, x, "tail", rule=rule, seed=1.0)
    torch.testing.assert_close(found, true)


@pytest.mark.parametrize("name", [*COPIES, *CHAINS])
def test_boxes_are_what_changes_and_what_is_needed(name):
    copy, x = (COPIES | CHAINS)[name], images(1, (12, 16))
    graph = traced(Model(lambda m, x: copy(x)), x)
    last = graph.nodes[-1]
    assert all(isinstance(node.rule, Rearrangement | Concat) for node in graph.nodes[1:])
    generator = np.random.default_rng(0)
    for _ in range(20):
        y0, x0 = generator.integers(0, (12, 16))
        box = np.array([[y0, x0, generator.integers(y0, 12) + 1, generator.integers(x0, 16) + 1]])
        y0, x0, y1, x1 = box[0]
        changed = x.clone()
        changed[:, :, y0:y1, x0:x1] += 1
        assert_box(propagate_boxes(graph, box)[-1][0], (copy(changed) != copy(x))[0].any(0))
        oy, ox = generator.integers(0, last.shape[1:])
        source = torch.zeros_like(x).requires_grad_()
        (copy(source) + 0 * source.sum())[0, :, oy, ox].sum().backward()
        found = descend_boxes(graph, last, np.array([[oy, ox, oy + 1, ox + 1]]))[0]
        assert_box(found[0], (source.grad[0] != 0).any(0))


def assert_box(box, mask):
    at = mask.nonzero()
    if len(at):
        assert box.tolist() == [*at.amin(0).tolist(), *(at.amax(0) + 1).tolist()]
    else:
        assert (box == 0).all()


def test_receptive_fields():
    net = nn.Sequential(nn.ZeroPad2d((2, 1, 1, 1)), nn.Conv2d(4, 4, 3)).double()
    field = receptive_fields(net, images(), ["1"])["1"]
    assert (field.size, field.stride, field.start) == ((3, 3), (1, 1), (-1, -2))
    mirrored = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(4, 4, 3)).double()
    assert "out of their order" in receptive_fields(mirrored, images(), ["1"])["1"]


def test_whole_maps_are_moved_in_one_piece():
    graph = traced(Model(lambda m, x: F.pad(x, (1, 1, 1, 1))))
    assert isinstance(graph.nodes[1].rule, Rearrangement) and graph.nodes[1].rule.fill == 0
    graph = traced(Model(lambda m, x: x.flip(1)))
    assert not isinstance(graph.nodes[1].rule, Rearrangement)
