"""Blocks that workers read and a thread receives."""

import threading

import pytest
import torch

from zfcuda.data.images import Block, Blocks, read_blocks


class Source:
    total, workers = 19, 2

    def __init__(self, layout=torch.contiguous_format, broken=None):
        self.layout, self.broken = layout, broken

    def block(self, numbers):
        if self.broken in numbers:
            raise RuntimeError(f"no image {self.broken}")
        images = torch.arange(numbers[0], numbers[-1] + 1.0).view(-1, 1, 1, 1).expand(-1, 3, 5, 4)
        return Block(numbers, images.contiguous(memory_format=self.layout), {})


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_all_of_them_in_order_as_they_were_made(layout):
    source = Source(layout)
    seen = list(read_blocks(source, Blocks(19, 4)))
    assert [block.numbers for block in seen] == [*Blocks(19, 4)]
    for block in seen:
        own = source.block(block.numbers).images
        assert torch.equal(block.images, own) and block.images.stride() == own.stride()
    assert not [*read_blocks(source, [])]


def receivers():
    """Threads; those of the DataLoader's queues end when they like."""
    return [one for one in threading.enumerate() if one.name.startswith("ThreadPoolExecutor")]


def test_an_error_arrives_and_nothing_is_left():
    blocks = read_blocks(Source(broken=9), Blocks(19, 4))
    assert next(blocks).numbers == range(4)
    with pytest.raises(RuntimeError, match="no image 9"):
        list(blocks)
    assert not receivers()


def test_leaving_early_leaves_no_thread():
    blocks = read_blocks(Source(), Blocks(19, 4))
    assert next(blocks).images is not None and receivers()
    blocks.close()
    assert not receivers()
