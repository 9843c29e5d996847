"""Images in and out: :mod:`.reading` files safely, and the one place where pixels become network
input (:mod:`.preprocessing`).

`read_image` turns a picture of the usual formats into 8-bit RGB, or raises one sentence that names
the file. `Preprocessing` holds what a network expects of its input and runs in both directions, so
that a figure can show an input, or a projection onto it, as the picture it stands for.
"""

from __future__ import annotations

from zfcuda.data.examples import Examples as Examples
from zfcuda.data.examples import FromDataset as FromDataset
from zfcuda.data.examples import Pictures as Pictures
from zfcuda.data.examples import Split as Split
from zfcuda.data.fashion import ColouredFashion as ColouredFashion
from zfcuda.data.fashion import Garments as Garments
from zfcuda.data.fashion import are_samples as are_samples
from zfcuda.data.fashion import fashion_mnist as fashion_mnist
from zfcuda.data.fashion import garments as garments
from zfcuda.data.fashion import garments_split as garments_split
from zfcuda.data.folder import image_folder as image_folder
from zfcuda.data.folder import split as split
from zfcuda.data.preprocessing import Preprocessing as Preprocessing
from zfcuda.data.reading import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from zfcuda.data.reading import idx_folder as idx_folder
from zfcuda.data.reading import list_images as list_images
from zfcuda.data.reading import read_alpha as read_alpha
from zfcuda.data.reading import read_idx as read_idx
from zfcuda.data.reading import read_image as read_image
from zfcuda.data.reading import to_rgb as to_rgb
