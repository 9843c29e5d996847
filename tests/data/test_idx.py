"""IDX files, whole and damaged."""

import gzip
import struct
import tracemalloc

import numpy as np
import pytest
import torch
from sets import idx_bytes

from zfcuda.data import read_idx


@pytest.fixture
def write(tmp_path):
    def write(content, name="a-ubyte"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


@pytest.mark.parametrize("shape", [(5,), (2, 3), (4, 3, 2), (0, 28, 28)])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_any_shape_plain_or_gzipped_whatever_the_name(write, shape, pack):
    array = np.random.default_rng(0).integers(0, 256, shape)
    read = read_idx(write(pack(idx_bytes(array))))
    assert read.dtype == torch.uint8 and tuple(read.shape) == shape
    assert np.array_equal(read.numpy(), array)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda good: good[:-1], "damaged: its header promises 4x3x2 = 24 values, 23 follow"),
        (lambda good: good + b"x", "promises 4x3x2 = 24 values, more follow"),
        (lambda good: b"PNG" + good[3:], "is not an IDX file"),
        (lambda good: b"", "is not an IDX file"),
        (lambda good: good[:6], "with 3 dimensions: expected bytes"),
        (lambda good: good[:2] + b"\x0d" + good[3:], "of kind 0x0d"),
        (lambda good: good[:3] + b"\x00" + good[4:], "with 0 dimensions"),
        (lambda good: struct.pack(">HBBI", 0, 8, 1, 2**32 - 1), "4294967295 = 4,294,967,295"),
        (lambda good: struct.pack(">HBBIII", 0, 8, 3, 0, *[2**32 - 1] * 2), "damaged: .* promises"),
        (lambda good: gzip.compress(good)[:-6], "is damaged: "),
        (lambda good: gzip.compress(good)[:20] + bytes(30), "is damaged: "),
    ],
)
def test_damaged_files_are_named_with_what_is_wrong(write, damage, match):
    path = write(damage(idx_bytes(np.zeros((4, 3, 2)))))
    with pytest.raises(ValueError, match=match) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="a-ubyte' does not exist"):
        read_idx(path)


@pytest.mark.parametrize("promised", [10, 2**31])
def test_no_more_is_unpacked_than_the_header_promises(write, promised):
    """A small file may unpack to any size."""
    length = 2**26
    path = write(gzip.compress(struct.pack(">HBBI", 0, 8, 1, promised) + bytes(length)))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="is damaged: its header promises"):
            read_idx(path)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < (2**23 if promised < length else 3 * length)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_promise_that_the_file_cannot_hold(write, pack):
    path = write(pack(struct.pack(">HBBI", 0, 8, 1, 2**31) + bytes(100)))
    with pytest.raises(ValueError, match=r"promises 2147483648 = .*, which its \d+ bytes cannot"):
        read_idx(path)
