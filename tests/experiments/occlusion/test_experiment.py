"""Occlusion against a plain loop, Captum's definition of the map, and itself in other batches."""

from __future__ import annotations

import math

import pytest
import torch
from zoo import output_of

import zfcuda
from zfcuda.experiments.occlusion.engines import occluder_grid, usual_occluder


def occluded(x, size, stride, fill):
    """One occluder at a time, as one would write it by hand: the images and the box."""
    h, w = x.shape[2:]
    fill = torch.as_tensor(fill, dtype=x.dtype)
    image = (fill[:, None, None] if fill.dim() == 1 else fill).expand(x.shape[1:])
    for row in range(math.ceil((h - size[0]) / stride[0]) + 1):
        for column in range(math.ceil((w - size[1]) / stride[1]) + 1):
            y0, x0 = row * stride[0], column * stride[1]
            y1, x1 = min(y0 + size[0], h), min(x0 + size[1], w)
            hidden = x.clone()
            hidden[:, :, y0:y1, x0:x1] = image[:, y0:y1, x0:x1]
            yield hidden, [y0, x0, y1, x1]


def loop(net, *occluders):
    """logits [N,P,K] and boxes."""
    hidden, boxes = zip(*occluded(*occluders), strict=True)
    with torch.no_grad():
        return torch.stack([net(images) for images in hidden], 1), torch.tensor(boxes)


FILLS = {"number": 0.5, "per channel": [0.1, 0.2, 0.3], "image": torch.rand(3, 16, 18).double()}


@pytest.mark.parametrize("fill", FILLS.values(), ids=FILLS.keys())
def test_equals_a_plain_loop(net, x, fill):
    size, stride = (5, 6), (4, 5)
    logits, boxes = loop(net, x, size, stride, fill)
    # A plain fill makes ties; the last bit of a convolution then decides which of them a pool's
    # indices name, and Normed looks at the indices.
    ties = type(net).__name__ == "Normed" and torch.as_tensor(fill).dim() < 3
    method = "dense" if ties else "auto"
    result = zfcuda.occlusion(net, x, size=size, stride=stride, fill=fill, method=method)
    torch.testing.assert_close(result.logits, logits, rtol=1e-9, atol=1e-12)
    assert torch.equal(result.boxes, boxes)
    assert (result.size, result.stride, result.image_size) == (size, stride, (16, 18))
    with torch.no_grad():
        torch.testing.assert_close(result.base_logits, net(x))
    assert torch.equal(result.target, result.base_logits.argmax(1))


@pytest.mark.parametrize(
    ("length", "size", "stride", "starts"),
    [
        (10, 4, 3, [0, 3, 6]),
        (10, 4, 4, [0, 4, 8]),  # the last is cut to 8..10
        (10, 10, 10, [0]),
        (10, 1, 1, list(range(10))),
        (10, 3, 10, [0]),  # a second position would lie outside
        (10, 2, 9, [0, 9]),
        (224, 50, 8, list(range(0, 177, 8))),
    ],
)
def test_grid(length, size, stride, starts):
    boxes, grid = occluder_grid((length, length), (size, size), (stride, stride))
    assert grid == (len(starts), len(starts))
    expected = [
        [y, x, min(y + size, length), min(x + size, length)] for y in starts for x in starts
    ]
    assert boxes.tolist() == expected


@pytest.mark.parametrize("max_memory", [1, 100_000, 1_000_000, None])
def test_batches_do_not_change_the_result(net, max_memory):
    x = torch.randn(3, 3, 16, 18, dtype=torch.float64)
    whole = zfcuda.occlusion(net, x, size=6, stride=5, layers=["tail"], max_memory=10**9)
    result = zfcuda.occlusion(net, x, size=6, stride=5, layers=["tail"], max_memory=max_memory)
    torch.testing.assert_close(result.logits, whole.logits)
    torch.testing.assert_close(result.layers["tail"].sums, whole.layers["tail"].sums)


def test_batches_obey_the_memory_limit(make):
    """The batch is what fits; a pass over everything at once would not."""
    net, sizes = make("VGGLike"), []
    net.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    x = torch.randn(3, 3, 16, 18, dtype=torch.float64)
    zfcuda.occlusion(net, x, size=6, stride=5, max_memory=1)
    assert set(sizes) == {1}
    sizes.clear()
    zfcuda.occlusion(net, x, size=6, stride=5, max_memory=200_000)
    assert 1 < max(sizes) < 12 * 3
    sizes.clear()
    zfcuda.occlusion(net, x, size=6, stride=5, max_memory=10**9)
    assert max(sizes) == 12 * 3


def test_targets(make, x):
    net = make("VGGLike")
    for target, expected in ((4, [4, 4]), ([1, 2], [1, 2]), (torch.tensor([0, 5]), [0, 5])):
        result = zfcuda.occlusion(net, x, target, size=8, stride=8)
        assert result.target.tolist() == expected
        for n in range(2):
            expected_map = result.logits[n].softmax(-1)[:, expected[n]].view(result.grid)
            torch.testing.assert_close(result.heatmap(n), expected_map)
            assert torch.equal(result.label_map(n), result.logits[n].argmax(-1).view(result.grid))


def test_layers_record_their_strongest_map(net, x):
    """Also where the layer's output is changed in place right after it."""
    layers = ["tail", next(name for name, _ in net.named_modules() if "." in name or name)]
    size, stride = (6, 6), (5, 5)
    result = zfcuda.occlusion(net, x, size=size, stride=stride, layers=layers)
    for layer in result.layers:
        base = output_of(net, x, layer)
        maps = [output_of(net, hidden, layer) for hidden, _ in occluded(x, size, stride, 0.0)]
        maps = torch.stack(maps, 1)
        record = result.layers[layer]
        for n in range(2):
            channel = int(base[n].flatten(1).amax(1).argmax())
            assert record.channels[n] == channel
            torch.testing.assert_close(record.base[n], base[n, channel].sum())
            torch.testing.assert_close(record.sums[n], maps[n, :, channel].sum((1, 2)))
            assert torch.equal(result.layer_map(layer, n).flatten(), record.sums[n])
    with pytest.raises(ValueError, match="layer 'classes' was not recorded; recorded:"):
        result.layer_map("classes")


@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize(("size", "stride"), [((5, 6), (4, 5)), ((3, 3), (3, 3)), ((2, 2), (7, 9))])
def test_attribution_is_captums(make, x, score, size, stride):
    """f(x) - f(occluded), averaged at every pixel over the windows that cover it."""
    net = make("VGGLike")
    result = zfcuda.occlusion(net, x, [1, 4], size=size, stride=stride, score=score)
    logits, boxes = loop(net, x, size, stride, 0.0)
    with torch.no_grad():
        base = net(x)
    if score == "probability":
        logits, base = logits.softmax(-1), base.softmax(-1)
    for n, target in enumerate([1, 4]):
        total, weight = torch.zeros(16, 18).double(), torch.zeros(16, 18)
        for p, (y0, x0, y1, x1) in enumerate(boxes.tolist()):
            mask = torch.zeros(16, 18)
            mask[y0:y1, x0:x1] = 1
            total += (base[n, target] - logits[n, p, target]) * mask
            weight += mask
        expected = torch.where(weight > 0, total / weight, 0.0)
        torch.testing.assert_close(result.to_attribution()[n, 0], expected)
    assert result.to_attribution().shape == (2, 1, 16, 18)


def test_nan_propagates(make, x):
    x[1, 0, 0, 0] = math.nan
    result = zfcuda.occlusion(make("Inception"), x, 0, size=5, stride=5)
    assert not result.logits[0].isnan().any()
    hidden = (result.boxes[:, :2] == 0).all(1)  # the occluder that covers the NaN
    assert not result.logits[1, hidden].isnan().any()
    assert result.logits[1, ~hidden].isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes(make, x, dtype):
    net = make("Fused").to(dtype)
    result = zfcuda.occlusion(net, x.to(dtype), size=6, stride=6, layers="tail")
    assert result.logits.dtype == torch.float32
    assert result.layers["tail"].sums.dtype == torch.float32
    exact = zfcuda.occlusion(net.double(), x.to(dtype).double(), size=6, stride=6)
    error = (result.logits.double() - exact.logits).norm() / exact.logits.norm()
    assert error < {torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]


def test_progress_bar(make, x, capsys):
    zfcuda.occlusion(make("VGGLike"), x, size=6, stride=6)
    assert capsys.readouterr() == ("", "")
    zfcuda.occlusion(make("VGGLike"), x, size=6, stride=6, progress=True)
    shown = capsys.readouterr()
    assert "occlusion" in shown.err
    assert shown.out == ""


@pytest.mark.parametrize(
    ("side", "usual"),
    [(224, (50, 8)), (192, (50, 8)), (256, (50, 8)), (64, (14, 2)), (28, (6, 1)), (9, (2, 1)),
     (3, (1, 1)), (191, (43, 7)), (512, (114, 18))],
)  # fmt: skip
def test_the_usual_occluder_follows_the_shorter_side(side, usual):
    assert usual_occluder((side, side + 5)) == usual_occluder((side * 2, side)) == usual


def test_the_usual_occluder_is_everywhere_the_same(tmp_path):
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 2, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    x = torch.rand(1, 3, 30, 64)
    plan = zfcuda.plan(net, x)
    found = zfcuda.occlusion(net, x)
    over = zfcuda.occlusion_over(net, x, tmp_path)
    for one in (plan, found, over):
        assert (one.size, one.stride) == ((7, 7), (1, 1))
    assert "7x7 pixels every 1x1" in str(plan)
    mixed = zfcuda.occlusion(net, x, size=(10, 20))
    assert (mixed.size, mixed.stride) == ((10, 20), (1, 1))
