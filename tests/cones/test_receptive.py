"""Receptive fields against brute force: which pixels reach a unit at all."""

import pytest
import torch
from torch import Tensor, nn
from zoo import Model

import zfcuda.nn
from zfcuda.cones.receptive import ReceptiveField, receptive_fields
from zfcuda.models import squeezenet1_1, zfnet_small


class Branches(nn.Module):
    """A residual sum and a concatenation, of branches with unequal fields."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, (3, 5), stride=(1, 2), padding=(0, 1))
        self.wide = nn.Conv2d(4, 4, 5, padding=2)
        self.dilated = nn.Conv2d(4, 2, 3, padding=2, dilation=2)
        self.added = nn.Identity()
        self.joined = nn.Identity()
        self.pool = zfcuda.nn.MaxPool2d(3, 2, ceil_mode=True)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = self.added(x + self.wide(x))
        x = self.joined(torch.cat([x, self.dilated(x)], 1))
        return self.pool(x).flatten(1)


def strided_average():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU6(),
        nn.AvgPool2d(2, stride=3, padding=1), nn.Conv2d(4, 4, 1, stride=2), nn.Flatten(),
    )  # fmt: skip


NETS = {
    "zfnet_small": (
        zfnet_small,
        ("conv1", "pool1", "norm1", "conv2", "pool2", "conv3", "conv5", "pool5"),
        64,
    ),
    "squeezenet": (
        lambda: squeezenet1_1(num_classes=3),
        ("features.0", "features.2", "features.3", "features.5", "features.6.expand3x3"),
        95,
    ),
    "branches": (Branches, ("stem", "wide", "dilated", "added", "joined", "pool"), 41),
    "strided average": (strided_average, ("0", "1", "2", "3", "4"), 40),
}


def reached(model: nn.Module, layer: str, size: int) -> tuple[Tensor, Tensor]:
    """bool [rows of the layer, rows of the image] and likewise for columns: which reach which.

    NaN in one row of the image reaches exactly the units that take anything from it: NaN times a
    weight, in a maximum, or normalised, stays NaN. In double precision, since oneDNN's tiles let
    float32's NaN spill over.
    """
    kept: list[Tensor] = []
    hook = model.get_submodule(layer).register_forward_hook(lambda m, i, y: kept.append(y))
    axes = []
    with torch.no_grad():
        for axis in (2, 3):
            x = torch.rand(size, 3, size, size, dtype=torch.float64)
            for at in range(size):
                x[at].select(axis - 1, at).fill_(torch.nan)
            kept.clear()
            model(x)
            lost = kept[0].isnan().any(1)  # [pixel row, rows, columns]
            axes.append(lost.any(2 if axis == 2 else 1).T)
    hook.remove()
    return axes[0], axes[1]


@pytest.mark.parametrize("net", NETS)
def test_fields_are_what_reaches_a_unit(net):
    make, layers, size = NETS[net]
    torch.manual_seed(0)
    model = make().double().eval()
    fields = receptive_fields(model, torch.rand(1, 3, size, size, dtype=torch.float64), layers)
    assert list(fields) == list(layers)
    for layer, field in fields.items():
        assert isinstance(field, ReceptiveField), (layer, field)
        for axis, found in enumerate(reached(model, layer, size)):
            for unit, pixels in enumerate(found):
                row = (unit, 0) if axis == 0 else (0, unit)
                box = field.box(*row)
                first, last = max(box[axis], 0), min(box[axis + 2], size)
                (seen,) = pixels.nonzero(as_tuple=True)
                assert (int(seen[0]), int(seen[-1]) + 1) == (first, last), (layer, axis, unit)


def test_fields_of_the_first_layers():
    fields = receptive_fields(zfnet_small().eval(), torch.zeros(1, 3, 64, 64), ["conv1", "pool1"])
    assert fields["conv1"] == ReceptiveField((7, 7), (2, 2), (-1, -1))
    assert fields["conv1"].centre == (2.5, 2.5)
    assert fields["pool1"] == ReceptiveField((11, 11), (4, 4), (-1, -1))


def test_layers_that_see_everything_say_from_where():
    fields = receptive_fields(
        zfnet_small().eval(), torch.zeros(1, 3, 64, 64), ["pool5", "flatten", "fc8"]
    )
    assert isinstance(fields["pool5"], ReceptiveField)
    assert fields["fc8"] == fields["flatten"] == "sees the whole image, from 'flatten' on"


def gated(m, x):
    """Squeeze and excite: every pixel decides on every other."""
    x = m.a(x)
    return m.b(x * x.mean((2, 3), keepdim=True).sigmoid()).flatten(1)


def undecided(m, x):
    return m.a(x).flatten(1) if x.sum() > 0 else m.b(m.a(x)).flatten(1)


@pytest.mark.parametrize(
    ("forward", "reason"),
    [(gated, "sees the whole image, from '"), (undecided, "the model cannot be traced: ")],
)
def test_reasons(forward, reason):
    model = Model(forward, a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(4, 4, 3)).eval()
    before = dict(model.state_dict())
    fields = receptive_fields(model, torch.rand(1, 3, 10, 10), ["a", "b"])
    assert fields["b"].startswith(reason)
    assert isinstance(fields["a"], str) == (forward is undecided)
    assert all(
        value is before[name] or value.equal(before[name])
        for name, value in model.state_dict().items()
    )
