"""What the tests of this folder share: tiny data, and IDX files of it."""

import hashlib
import struct

import numpy as np

from zfcuda.data import Preprocessing

SMALL = Preprocessing(size=16, resize=None, mean=(0.5,) * 3, std=(0.25,) * 3)
NAMES = ("left", "right", "full")


def idx_bytes(array):
    array = np.asarray(array, dtype=np.uint8)
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


def weights_of(folder):
    """What the weights of a training are, in short."""
    return hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()


def garments(count, classes=3, seed=0):
    """Grey pictures [count,28,28] whose class shows: a half or all of them is bright."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    images = rng.integers(100, 255, (count, 28, 28))
    images[labels == 0, :, 14:] = 0
    images[labels == 1, :, :14] = 0
    return images.astype(np.uint8), labels.astype(np.uint8)
