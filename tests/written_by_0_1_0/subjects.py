"""What the files in written.zip are about. Numbers are small multiples of powers of two, so that
float32 adds them without rounding: any version, processor and order of summing gives the same."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import zfcuda
from zfcuda.data import Pictures, Preprocessing, Split
from zfcuda.experiments.ablations import Variant
from zfcuda.training import Recipe

PREPROCESSING = Preprocessing(size=16, resize=None, mean=(0.5,) * 3, std=(0.25,) * 3)
CLASS_NAMES = ("north", "east", "south", "west")
LAYERS = ["1", "4"]
COUNT = 12
OCCLUDER = {"size": 6, "stride": 5}
MOVES = {"rotation": [0.0, 90.0], "scale": [1.0, 1.5]}
RECIPE = Recipe(epochs=4, batch=8)
VARIANTS = (Variant("as it is"), Variant("without b", ("b",)))


def numbers(*shape: int, low: int, high: int, seed: int = 0) -> Tensor:
    """int64, from low to high, in no order that shows."""
    count = torch.Size(shape).numel()
    mixed = (torch.arange(count) + 1000 * seed) * 1_103_515_245 + 12_345
    return ((mixed >> 13) % (high - low + 1) + low).view(shape)


def network() -> nn.Sequential:
    """Of inputs [N,3,16,16]."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(6 * 36, 4),
    )  # fmt: skip
    return _filled(net).eval()


def trainee() -> nn.Sequential:
    """A network to be trained on :func:`data`."""
    net = nn.Sequential()
    for name, layer in {
        "a": nn.Conv2d(3, 4, 3, padding=1), "relu_a": nn.ReLU(), "pool": nn.MaxPool2d(2),
        "b": nn.Conv2d(4, 4, 3, padding=1), "relu_b": nn.ReLU(), "flatten": nn.Flatten(),
        "drop": nn.Dropout(), "c": nn.Linear(4 * 64, 3),
    }.items():  # fmt: skip
        net.add_module(name, layer)
    return _filled(net)


def _filled(net: nn.Sequential) -> nn.Sequential:
    with torch.no_grad():
        for seed, parameter in enumerate(net.parameters()):
            parameter.copy_(numbers(*parameter.shape, low=-3, high=3, seed=seed) / 16)
    return net


def images(count: int = COUNT) -> Tensor:
    return numbers(count, 3, 16, 16, low=0, high=8, seed=7) / 8


class Read(Dataset):
    """The same, each read anew; after so many Ctrl-C is pressed."""

    def __init__(self, most: int | None = None) -> None:
        self._x, self._left = images(), most

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, number: int) -> Tensor:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise KeyboardInterrupt
        return self._x[number].clone()


def data() -> Split:
    def part(count: int, seed: int) -> Pictures:
        labels = torch.arange(count) % 3
        pixels = numbers(count, 3, 16, 16, low=0, high=100, seed=seed)
        pixels += 70 * labels.view(-1, 1, 1, 1)
        return Pictures(pixels.to(torch.uint8), labels, ("x", "y", "z"), PREPROCESSING)

    return Split(part(24, 1), part(9, 2), part(12, 3), "noise")


# --- runs that go on ------------------------------------------------------------------------------


def recorded(folder, most: int | None = None):
    settings = {"k": 3, "maps": 2, "batch": 3, "every": 3}
    return zfcuda.record_activations(folder, network(), Read(most), LAYERS, **settings)


def occluded(folder):
    return zfcuda.occlusion_over(network(), Read(), folder, layers="4", **OCCLUDER)


def moved(folder):
    return zfcuda.invariance_over(network(), Read(), folder, LAYERS, transformations=MOVES)


def trained(folder, model: nn.Module | None = None):
    return zfcuda.training.train(
        model or trainee(), data(), folder, RECIPE, "trainee", progress=False
    )


def ablated(folder, most: int | None = None):
    left = [most]

    def made(_classes: int) -> nn.Sequential:
        if left[0] is not None:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
        return trainee()

    recipe = Recipe(epochs=2, batch=8)
    return zfcuda.ablation(data(), folder, VARIANTS, recipe, network=made, progress=False)


MODEL = "--model subjects:network --device cpu --quiet"
DATA = f"{MODEL} --data photos --workers 0"
STORE = "-k 2 --maps 2 --batch 2 --every 2 --store runs/top9"
COMMANDS = {
    "top9": f"top9 {DATA} --layer 1 --layer 4 {STORE}",
    "occlude": f"occlude {DATA} --layer 4 --size 6 --stride 5 --out runs/occlude",
    "invariance": f"invariance {DATA} --layer 1 --layer 4 --out runs/invariance",
}
SCRIPTS = {
    "folder_figures": f"photos --experiments predict {MODEL} --out scripts/folder --layer 4",
    "paper_figures": f"--images photos --only predict {MODEL} --out scripts/paper",
}
