"""Image folders, pictures in memory, and anybody's data set."""

import numpy as np
import pytest
import torch
from PIL import Image
from sets import SMALL

from zfcuda import data
from zfcuda.data import FromDataset, Pictures
from zfcuda.data.examples import generator, varied


def test_folder_of_classes(picture_folder):
    split = data.split(SMALL, picture_folder({"cat": 12, "dog": 10, ".hidden": 1}))
    parts = split.training, split.validation, split.test
    assert [len(part) for part in parts] == [18, 2, 2]
    assert split.training.class_names == ("cat", "dog")
    assert split.training.images.shape[1:] == (3, 18, 18)  # 8/7 of 16: room for crops
    x, labels = split.training.batch(torch.tensor([0, 17]))
    assert x.shape == (2, 3, 16, 16) and labels.tolist() == [0, 1]
    everything = torch.cat([part.images for part in parts]).flatten(1)
    assert len({tuple(row) for row in everything.tolist()}) == 22


def test_a_folder_that_is_linked_into_itself_has_no_class_more(picture_folder):
    folder = picture_folder({"cat": 12, "dog": 10})
    (folder / "itself").symlink_to(folder)
    (folder / "up").symlink_to(folder.parent)
    assert data.split(SMALL, folder).training.class_names == ("cat", "dog")


@pytest.mark.parametrize("seed", range(3))
def test_every_class_gives_its_share(picture_folder, seed):
    """Ninety of one class and ten of another: nine and one for each part, every time."""
    split = data.split(SMALL, picture_folder({"cat": 90, "dog": 10, "fox": 5}), seed=seed)
    for part, counts in ((split.validation, [9, 1, 0]), (split.test, [9, 1, 0])):
        assert part.labels.bincount(minlength=3).tolist() == counts
    assert split.training.labels.bincount().tolist() == [72, 8, 5] and split.drawn == "by class"
    again = data.split(SMALL, picture_folder({}), seed=seed)
    assert torch.equal(again.validation.images, split.validation.images)
    before = data.image_folder(picture_folder({}), SMALL, seed, by_class=False)
    assert before.drawn == "" and len(before.validation) == len(split.validation) == 10


def test_shares_that_are_no_whole_numbers(picture_folder):
    """Of equal remainders the rarer class is rounded up; one picture of each stays for training."""
    split = data.split(SMALL, picture_folder({"cat": 45, "dog": 5, "fox": 1, "owl": 1}))
    assert split.validation.labels.bincount(minlength=4).tolist() == [4, 1, 0, 0]
    few = data.split(SMALL, picture_folder({f"{i:02}": 1 for i in range(10)} | {"x": 5}, "few"))
    assert set(few.training.labels.tolist()) == set(range(11))
    assert [len(p) for p in (few.validation, few.test)] == [1, 1]


def test_given_parts_are_kept_and_missing_ones_drawn_from_train(picture_folder):
    given = {"train/a": 9, "train/b": 9, "val/a": 2, "val/b": 1, "test/b": 3, "test/a": 0}
    split = data.split(SMALL, picture_folder(given))
    assert [len(p) for p in (split.training, split.validation, split.test)] == [18, 3, 3]
    assert split.validation.labels.tolist() == [0, 0, 1] and split.test.labels.tolist() == [1] * 3
    some = {"train/a": 10, "train/b": 10, "test/a": 2, "test/b": 1}
    split = data.split(SMALL, picture_folder(some, "some"))
    assert [len(p) for p in (split.training, split.validation, split.test)] == [18, 2, 3]


def test_a_class_may_be_called_train(picture_folder):
    split = data.split(SMALL, picture_folder({"bus": 10, "car": 10, "train": 10}))
    assert split.training.class_names == ("bus", "car", "train")
    with pytest.raises(ValueError, match="train' holds no class"):
        data.split(SMALL, picture_folder({"train": 10, "test": 10}, name="flat"))


def test_unreadable_pictures_are_skipped_and_named(picture_folder):
    folder = picture_folder({"cat": 11, "dog": 11})
    (folder / "cat" / "0.png").write_bytes((folder / "cat" / "0.png").read_bytes()[:60])
    (folder / "dog" / "x.jpg").write_text("no picture")
    (folder / "dog" / "notes.txt").write_text("not looked at")
    (folder / "dog" / "photo.heic").write_text("not known")
    with pytest.warns(UserWarning, match=r"2 files, as '.*notes.txt' \(images are .*\.png"):
        split = data.split(SMALL, folder)
    assert sum(len(p) for p in (split.training, split.validation, split.test)) == 21
    assert len(split.skipped) == 2
    assert "0.png' cannot be read" in split.skipped[0] and "x.jpg' is not" in split.skipped[1]


@pytest.mark.parametrize(
    ("counts", "match"),
    [
        ({"cat": 5}, "holds only the class 'cat': expected one folder per class, at least two"),
        ({"cat": 5, "dog": 0}, r"dog' holds no picture that can be read"),
        ({"cat": 4, "dog": 4}, "too few pictures: none is left for validation"),
        ({"train/a": 20, "train/b": 20, "val/a": 1, "val/c": 1}, "holds the class 'c', which"),
        ({"train/a": 20, "train/b": 20, "val/a": 0, "val/b": 0}, "none is left for validation"),
    ],
)
def test_folders_that_cannot_be_learnt_from(picture_folder, counts, match):
    with pytest.raises(ValueError, match=match):
        data.split(SMALL, picture_folder(counts))


def test_empty_missing_and_file(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name, match in (
        ("empty", "holds no class"),
        ("none", "does not exist: expected a folder with one folder per class"),
        ("file", "is a file"),
    ):
        with pytest.raises(ValueError, match=match):
            data.split(SMALL, tmp_path / name)


# --- crops and flips -----------------------------------------------------------------------------


def test_every_crop_occurs_and_no_other():
    image = torch.arange(5 * 4.0).view(1, 1, 5, 4).expand(500, 3, 5, 4)
    crops = varied(image, 3, generator(0))
    corners = {int(value) for value in crops[:, 0, 0].amin(-1)}
    assert corners == {0, 1, 4, 5, 8, 9}
    one = next(crop[1] for crop in crops if crop[1, 0, 0] < crop[1, 0, 1])  # not mirrored
    assert torch.equal(one - one[0, 0], image[0, 0, :3, :3])


def test_flips_are_whole_and_about_half():
    image = torch.arange(3.0).expand(400, 2, 3, 3)
    flipped = varied(image, 3, generator(0))
    mirrored = flipped[:, 0, 0, 0] == 2
    assert 150 < mirrored.sum() < 250
    assert torch.equal(flipped[mirrored][0, 1, 0], torch.tensor([2.0, 1.0, 0.0]))


def test_unvaried_pictures_are_the_centre():
    images = torch.zeros(1, 3, 20, 18, dtype=torch.uint8)
    images[:, :, 2:18, 1:17] = 255
    x, _ = Pictures(images, torch.tensor([0]), ("a", "b"), SMALL).batch(torch.tensor([0]))
    assert torch.equal(x, torch.full((1, 3, 16, 16), 2.0))


def test_wrong_pictures():
    for images, match in (
        (torch.zeros(1, 3, 20, 20), r"must be uint8 \[N,3,H,W\], got torch.float32"),
        (torch.zeros(1, 1, 20, 20).byte(), r"got torch.uint8 \[1, 1, 20, 20\]"),
        (torch.zeros(1, 3, 15, 20).byte(), r"of \[15, 20\] pixels: expected at least 16"),
    ):
        with pytest.raises(ValueError, match=match):
            Pictures(images, torch.tensor([0]), ("a",), SMALL)


# --- any torch data set --------------------------------------------------------------------------


def test_pil_images_and_tensors():
    picture = Image.fromarray(np.full((30, 20, 3), 255, np.uint8))
    examples = FromDataset([(picture, 1), (torch.ones(3, 18, 18), np.int64(0))], ("a", "b"), SMALL)
    x, labels = examples.batch(torch.tensor([0, 1]))[0], examples.labels
    assert x.shape == (2, 3, 16, 16) and labels.tolist() == [1, 0]
    assert (x[0] == 2).all() and (x[1] == 1).all()


@pytest.mark.parametrize(
    ("item", "error", "match"),
    [
        (torch.ones(3, 16, 16), TypeError, "item 0 of the data set is a Tensor: expected a pair"),
        ((torch.ones(3, 16, 16), 2), ValueError, "item 0 of the data set has label 2: expected 0"),
        ((torch.ones(1, 16, 16), 0), ValueError, r"shape \[1, 16, 16\]: expected \[3,H,W\]"),
        ((np.ones((3, 16, 16)), 0), TypeError, "is a ndarray: expected a PIL image or a float"),
    ],
)
def test_wrong_items(item, error, match):
    with pytest.raises(error, match=match):
        FromDataset([item], ("a", "b"), SMALL).batch(torch.tensor([0]))
    with pytest.raises(ValueError, match="is empty"):
        FromDataset([], ("a", "b"), SMALL)
