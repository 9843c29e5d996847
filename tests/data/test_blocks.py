"""Blocks of images, and tables of their names."""

import csv

import pytest
import torch

from zfcuda._blocks import Block, block_of
from zfcuda._tables import write_csv


def test_a_block_with_holes():
    image = torch.ones(3, 4, 5)
    block = block_of([7, 9, 8], ["broken", image, 2 * image])
    assert block.images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert block.problems == {7: "broken"} and block.left_out().tolist() == [True, False, False]
    assert block_of([1], ["broken"]).images is None


@pytest.mark.parametrize(
    ("other", "shown"),
    [
        (torch.ones(3, 4, 6), r"image 9 is \[3, 4, 6\] torch.float32, image 8 \[3, 4, 5\]"),
        (torch.ones(3, 4, 5).double(), "image 9 is .* torch.float64, image 8 .* torch.float32"),
    ],
)
def test_images_of_a_block_are_alike(other, shown):
    with pytest.raises(ValueError, match=f"images must all be alike: {shown}"):
        block_of(range(7, 10), ["broken", torch.ones(3, 4, 5), other])


def test_only_what_is_in_memory_is_pinned():
    """Images on a GPU cannot be; "meta" stands for it."""
    block = Block([0], torch.ones(1, 3, 4, 5, device="meta"))
    assert block.pin_memory() is block


def test_names_with_anything_in_them_come_back(tmp_path):
    names = ['a,"b".png', "new\nline.png", "return\r.png", "no-utf8-\udcff.png", "=1+1.png"]
    write_csv(tmp_path / "table.csv", ("name", "value"), [(name, 0.1) for name in names])
    with (tmp_path / "table.csv").open(
        newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        rows = [*csv.reader(file)]
    assert rows == [["name", "value"], *([name, "0.1"] for name in names)]
