"""Images by number."""

import pytest
import torch
from torch.utils.data import Dataset

from zfcuda.data.images import numbered, reading
from zfcuda.experiments import over


def test_reading_draws_no_random_number():
    images = numbered(torch.randn(3, 3, 4, 4))
    before = torch.get_rng_state()
    read = [*reading(images, [([0, 1], [1]), ([2], [2])])]
    assert torch.equal(read[0][1], images.read(1)) and len(read) == 2
    assert torch.equal(torch.get_rng_state(), before)


class Targets(Dataset):
    def __init__(self, targets, classes=None):
        self.targets = targets
        if classes:
            self.classes = classes

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return torch.zeros(3, 4, 4)


@pytest.mark.parametrize("targets", [[0, 2, 1], torch.tensor([0, 2, 1])])
def test_labels_of_a_dataset(targets):
    images = numbered(Targets(targets, ["a", "b", "c"]))
    assert images.labels.tolist() == [0, 2, 1] and images.class_names == ("a", "b", "c")
    assert numbered(Targets(targets)).class_names == ()


@pytest.mark.parametrize(
    "targets",
    [
        ["a.xml", "b.xml", "c.xml"],  # as torchvision's VOCDetection
        [0, 1],
        [[0, 1], [1, 0], [0, 1]],
        [0.5, 1.0, 2.0],
        [{}, {}, {}],
        None,
    ],
)
def test_targets_that_are_no_classes(targets):
    images = numbered(Targets(targets, ["a", "b", "c"]))
    assert images.labels.tolist() == [-1] * 3 and images.class_names == ()


def test_classes_without_a_name_for_every_label():
    images = numbered(Targets([0, 1, 7], ["a", "b"]))
    assert images.labels.tolist() == [0, 1, 7] and images.class_names == ()


def test_identity_is_asked_for_once():
    """It reads images and looks at every file: not to be had by asking what kind of thing it is."""

    class Images:
        names, labels, class_names = ["a"], torch.tensor([-1]), ()

        def __len__(self):
            return 1

        def read(self, number):
            return torch.zeros(3, 4, 4)

        def identity(self):
            pytest.fail("nobody asked")

    images = Images()
    assert numbered(images) is images


def test_the_device_is_the_networks(monkeypatch):
    """Not that of the images, which are read on the CPU; "meta" stands for a GPU."""
    monkeypatch.setattr(over, "weights_digest", lambda model: "")
    network, images = torch.nn.Linear(2, 2, device="meta"), numbered(torch.zeros(1, 3, 4, 4))
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    said = over.identity_of(network, images, images.read(0))
    assert said["device"] == "meta" and said["autocast"] == "off"
    assert said["float32 products"] == "highest"
