"""Images in and out: :mod:`.reading` files safely, and the one place where pixels become network
input (:mod:`.preprocessing`).

`read_image` turns a picture of the usual formats into 8-bit RGB, or raises one sentence that names
the file. `Preprocessing` holds what a network expects of its input and runs in both directions, so
that a figure can show an input, or a projection onto it, as the picture it stands for.
"""

from zfcuda.data.preprocessing import Preprocessing
from zfcuda.data.reading import IMAGE_SUFFIXES, list_images, read_alpha, read_image, to_rgb

__all__ = ["IMAGE_SUFFIXES", "Preprocessing", "list_images", "read_alpha", "read_image", "to_rgb"]
