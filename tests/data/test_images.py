"""Images by number, and blocks of them that workers read and a thread receives."""

import threading

import pytest
import torch
from torch.utils.data import Dataset

from zfcuda.data.batches import Block, in_blocks, read_blocks
from zfcuda.data.images import Images, numbered
from zfcuda.experiments import over


class Some(Images):
    """Images, or sentences about what is wrong with one."""

    names, labels, class_names = [f"image {n}" for n in range(10)], torch.full((10,), -1), ()

    def __init__(self, found):
        super().__init__()
        self.found, self.asked = found, []

    def __len__(self):
        return len(self.names)

    def read(self, number):
        self.asked.append(number)
        if isinstance(self.found[number], str):
            raise ValueError(self.found[number])
        return self.found[number]

    def identity(self):
        pytest.fail("nobody asked")


def test_a_block_with_holes():
    image = torch.ones(3, 4, 5)
    block = Some({7: "broken", 9: image, 8: 2 * image}).block([7, 9, 8])
    assert block.images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert block.problems == {7: "broken"} and block.left_out().tolist() == [True, False, False]
    assert Some({1: "broken"}).block([1]).images is None
    with pytest.raises(RuntimeError, match="cannot be read a second time: broken; start again"):
        block.read_again()


def test_images_that_nobody_wants_are_not_read():
    images = Some({1: "broken", 2: torch.ones(3, 4, 5), 3: "gone"})
    assert images.one_by_one([1, 2, 3], [3]).problems == {3: "gone"} and images.asked == [3]
    block = images.one_by_one([1, 2, 3], [2])
    assert block.problems == {1: "broken", 3: "gone"} and images.asked == [3, 2, 1, 3]
    assert block.images.flatten(1).any(1).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("other", "shown"),
    [
        (torch.ones(3, 4, 6), r"image 9 is \[3, 4, 6\] torch.float32, the first one \[3, 4, 5\]"),
        (
            torch.ones(3, 4, 5).double(),
            "image 9 is .* torch.float64, the first one .* torch.float32",
        ),
    ],
)
@pytest.mark.parametrize("like", [None, torch.ones(1, 3, 4, 5)])
def test_images_of_a_block_are_alike(other, shown, like):
    images = Some({7: "broken", 8: torch.ones(3, 4, 5), 9: other})
    with pytest.raises(ValueError, match=f"images of a run must all be alike: {shown}"):
        next(read_blocks(images, [range(7, 10)], like=like))
    if like is not None:
        with pytest.raises(ValueError, match=f"images of a run must all be alike: {shown}"):
            next(read_blocks(images, [range(9, 10)], like=like))


def test_images_of_several_kinds_are_refused_in_one_line_by_a_worker_too():
    images = Some({8: torch.ones(3, 4, 5), 9: torch.ones(3, 4, 6)})
    with pytest.raises(ValueError, match=r"^images of a run must all be alike: image 9 .*$"):
        next(read_blocks(images, [range(8, 10)], workers=1))


def test_a_dataset_without_a_length_is_refused_in_words():
    with pytest.raises(TypeError, match=r"a Dataset that knows its length.*, got Dataset"):
        numbered(Dataset())


def test_only_what_is_in_memory_is_pinned():
    """Images on a GPU cannot be; "meta" stands for it."""
    block = Block([0], torch.ones(1, 3, 4, 5, device="meta"))
    assert block.pin_memory() is block


def test_reading_draws_no_random_number():
    images = numbered(torch.randn(3, 3, 4, 4))
    before = torch.get_rng_state()
    read = [*read_blocks(images, [[0, 1], [2]], wanted=[[1], [2]])]
    assert torch.equal(read[0].images[1], images.read(1)) and len(read) == 2
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
    images = Some({})
    assert numbered(images) is images


def test_the_device_is_the_networks(monkeypatch):
    """Not that of the images, which are read on the CPU; "meta" stands for a GPU."""
    monkeypatch.setattr(over, "weights_digest", lambda model: "")
    network, images = torch.nn.Linear(2, 2, device="meta"), numbered(torch.zeros(1, 3, 4, 4))
    said = over.identity_of(network, images, images.read(0))
    assert said["device"] == "meta" and said["autocast"] == "off"
    assert said["convolutions"] == said["products"] == "float32"


BLOCKS = in_blocks(19, 4)


class Counted(Images):
    def __init__(self, layout=torch.contiguous_format, broken=None):
        super().__init__()
        self.layout, self.broken = layout, broken

    def __len__(self):
        return 19

    def read(self, number):
        raise NotImplementedError

    def block(self, numbers, kind=None):
        if self.broken in numbers:
            raise RuntimeError(f"no image {self.broken}")
        images = torch.arange(numbers[0], numbers[-1] + 1.0).view(-1, 1, 1, 1).expand(-1, 3, 5, 4)
        return Block(numbers, images.contiguous(memory_format=self.layout), {})


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_all_of_them_in_order_as_they_were_made(layout):
    images = Counted(layout)
    seen = list(read_blocks(images, BLOCKS, 2))
    assert [block.numbers for block in seen] == BLOCKS
    for block in seen:
        own = images.block(block.numbers).images
        assert torch.equal(block.images, own) and block.images.stride() == own.stride()
    assert not [*read_blocks(images, [], 2)]


def receivers():
    """Threads; those of the DataLoader's queues end when they like."""
    return [one for one in threading.enumerate() if one.name.startswith("ThreadPoolExecutor")]


def test_an_error_arrives_and_nothing_is_left():
    blocks = read_blocks(Counted(broken=9), BLOCKS, 2)
    assert next(blocks).numbers == range(4)
    with pytest.raises(RuntimeError, match="no image 9"):
        list(blocks)
    assert not receivers()


def test_leaving_early_leaves_no_thread():
    blocks = read_blocks(Counted(), BLOCKS, 2)
    assert next(blocks).images is not None and receivers()
    blocks.close()
    assert not receivers()
