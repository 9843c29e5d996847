"""Models whose answer to an image depends on those beside it are given one at a time."""

import warnings

import pytest
import torch
from torch import Tensor, nn

import zfcuda

SAID = "otherwise for several images together"


class Scaled(nn.Module):
    """Takes a statistic over all of its input."""

    def __init__(self, statistic) -> None:
        super().__init__()
        self.statistic = statistic
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.statistic(x))


STATISTICS = {
    "smallest and largest": lambda x: (x - x.min()) / (x.max() - x.min()),
    "mean image": lambda x: x - x.mean(0, keepdim=True),
    "norm": lambda x: x / x.norm(),
    "share among images": lambda x: x.softmax(0),
    "shuffled": lambda x: x.flip(0),
}


@pytest.fixture(params=STATISTICS.values(), ids=STATISTICS.keys())
def net(request):
    return Scaled(request.param).double().eval()


@pytest.fixture
def x():
    x = torch.rand(1, 3, 24, 24, dtype=torch.float64)
    x[0, 0, 3, 3] = 4.0
    return x


def one_by_one(net, images):
    with torch.no_grad():
        return torch.cat([net(image[None]) for image in images])


def test_occlusion(net, x):
    with pytest.warns(UserWarning, match=SAID):
        found = zfcuda.occlusion(net, x, size=6, stride=6)
    assert found.method == "dense"
    occluded = []
    for y0, x0, y1, x1 in found.boxes.tolist():
        image = x[0].clone()
        image[:, y0:y1, x0:x1] = 0
        occluded.append(image)
    torch.testing.assert_close(found.logits[0], one_by_one(net, occluded))
    if net.statistic in (STATISTICS["smallest and largest"], STATISTICS["norm"]):
        cones = zfcuda.occlusion(net, x, size=6, stride=6, method="cone")
        torch.testing.assert_close(cones.logits, found.logits)


def test_transformations_and_several_images(net, x):
    with pytest.warns(UserWarning, match=SAID):
        found = zfcuda.rotation(net, x, [0.0, 90.0, 180.0])
    turned = [x[0].rot90(k, (1, 2)) for k in range(3)]
    torch.testing.assert_close(found.logits[0], one_by_one(net, turned), rtol=1e-6, atol=1e-8)
    two = torch.cat([x, x / 2])
    with pytest.warns(UserWarning, match=SAID):
        found = zfcuda.occlusion(net, two, size=6, stride=6)
    torch.testing.assert_close(found.base_logits, one_by_one(net, two))


def test_others_are_not_spoken_of(x):
    net = Scaled(lambda x: x / x.amax((1, 2, 3), keepdim=True)).double().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zfcuda.rotation(net, x, [0.0, 90.0, 180.0])
        zfcuda.occlusion(net, x, size=6, stride=6, method="dense")


@pytest.mark.parametrize("method", ["dense", "cone"])
def test_global_means_are_as_accurate_as_torchs(method):
    """A pool's sum over a large map is sequential."""
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(32, 10),
    ).eval()  # fmt: skip
    x = torch.rand(1, 3, 1, 1) + 0.01 * torch.randn(1, 3, 512, 512)
    with torch.no_grad():
        torchs = net(x)
        true = net.double()(x.double())
        net.float()
    boxes = torch.tensor([[100, 100, 116, 116]])
    found = zfcuda.occlusion(net, x, positions=boxes, method=method)
    error = float((found.base_logits - true).abs().max())
    assert error <= 8 * float((torchs - true).abs().max()) + 1e-7


def test_no_signal_is_lost_in_our_own_unpooling():
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = zfcuda.nn.MaxPool2d(2, return_switches=True)
            self.up, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            y, switches = self.pool(self.up(x))
            return self.last(zfcuda.ops.max_unpool2d(y, switches, 2)).mean((2, 3))

    net, x = Decoder().eval(), torch.randn(1, 3, 16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zfcuda.deconv(net, x, "last")
        zfcuda.occlusion(net, x, size=4, stride=4)


class Rounding(nn.Module):
    """Computes in single precision, of which the last digits depend on the number of images."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 5))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x.float() * (1 + 1e-7 * len(x))).double())


def test_a_model_that_computes_in_less_than_it_answers():
    model, x = Rounding().eval(), torch.rand(1, 3, 8, 8, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zfcuda.occlusion(model, x, size=3, stride=2, method="dense")


class Aside(nn.Module):
    """One of its layers takes a statistic over the batch; the answer does not depend on it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.Identity()
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        self.norm(x * (1 + x.mean(0, keepdim=True)))
        return self.head(x)


@pytest.fixture
def aside():
    torch.manual_seed(1)
    return Aside().double().eval()


@pytest.mark.parametrize("method", ["auto", "dense"])
def test_a_layer_that_depends_on_the_batch(aside, x, method):
    with pytest.warns(UserWarning, match=SAID):
        found = zfcuda.occlusion(aside, x, size=6, stride=6, layers=["norm"], method=method)
    cones = zfcuda.occlusion(aside, x, size=6, stride=6, layers=["norm"], method="cone")
    found, wanted = found.layers["norm"], cones.layers["norm"]
    torch.testing.assert_close(found.sums, wanted.sums, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.base, wanted.base, rtol=1e-9, atol=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zfcuda.occlusion(aside, x, size=6, stride=6)


def test_projections_and_strongest_images_of_such_a_layer(aside, x):
    several = torch.cat([x, 2 * x.flip(2), x.flip(3) + 1, x * x])
    with pytest.warns(UserWarning, match=SAID):
        together = zfcuda.deconv(aside, several, "norm", rule="gradient")
    alone = torch.cat([zfcuda.deconv(aside, one[None], "norm", rule="gradient") for one in several])
    torch.testing.assert_close(together, alone)
    with pytest.warns(UserWarning, match=SAID):
        top = zfcuda.top_activations(aside, several, "norm", k=1)
    with torch.no_grad():
        maps = aside.conv(several)
    largest = (maps * (1 + maps)).amax((0, 2, 3))
    torch.testing.assert_close(top.values["norm"].flatten(), largest.to(top.values["norm"]))


@torch.library.custom_op("zfcuda_tests::scaled_by_all", mutates_args=())
def scaled_by_all(x: Tensor) -> Tensor:
    return x * (1 + x.mean(0, keepdim=True))


class Hidden(Aside):
    """A call that does not show that it looks at all images."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        self.norm(scaled_by_all(x))
        return self.head(x)


def test_a_call_that_hides_what_it_looks_at(x):
    net = Hidden().double().eval()
    with pytest.warns(UserWarning, match=SAID):
        found = zfcuda.occlusion(net, x, size=6, stride=6, layers=["norm"])
    for box, sums in zip(found.boxes.tolist(), found.layers["norm"].sums[0], strict=True):
        image = x.clone()
        image[:, :, box[0] : box[2], box[1] : box[3]] = 0
        with torch.no_grad():
            maps = scaled_by_all(net.conv(image))[0, found.layers["norm"].channels[0]]
        torch.testing.assert_close(sums, maps.sum().to(sums))


class Amplifier(nn.Module):
    """Multiplies whatever rounding there is, which differs with the number of images only."""

    def forward(self, x: Tensor) -> Tensor:
        rounding = 1 + 1e-7 * (len(x) > 1)
        return (x.flatten(1) @ torch.ones(x[0].numel(), 3).to(x)) * rounding


def test_a_network_that_amplifies_rounding():
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zfcuda.occlusion(Amplifier().eval(), x, size=3, stride=2, method="dense")
