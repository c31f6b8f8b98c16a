"""Images in and out: folders, pictures, arrays, DICOM and NIfTI slices in; PNGs, npz files and labelled grids out.

Inside the library images are tensors [N, C, H, W] in [-1, 1]. Nothing is repaired in silence: a picture of another
size, with other channels or with values outside the range is an error that names it, and an option that leads out.
What was left out, cropped or clipped is in `ImageSet.notes`, and the commands print it. See docs/images.md.

arrays     .npz and .npy files
files      what is in a folder; `FILE:PART`
pictures   the formats that Pillow reads
volumes    DICOM and NIfTI
ranges     which values are black and white
resample   crop, resize, and what a hidden pixel touches
reading    `read_images`, which puts these together
masks      `read_mask`
writing    everything that writes
"""

from deft.images.arrays import ARRAYS, read_arrays
from deft.images.files import source_exists
from deft.images.masks import read_mask
from deft.images.pictures import SUFFIXES
from deft.images.ranges import RANGES, as_range, range_text
from deft.images.reading import ImageSet, Reading, read_images, read_stack
from deft.images.text import one_line, shape_text
from deft.images.writing import (
    Column,
    font,
    heat,
    open_folder,
    picture_grid,
    save_arrays,
    save_image,
    save_picture,
    to_pixels,
    with_hole,
)

__all__ = [
    "ARRAYS",
    "RANGES",
    "SUFFIXES",
    "Column",
    "ImageSet",
    "Reading",
    "as_range",
    "font",
    "heat",
    "one_line",
    "open_folder",
    "picture_grid",
    "range_text",
    "read_arrays",
    "read_images",
    "read_mask",
    "read_stack",
    "save_arrays",
    "save_image",
    "save_picture",
    "shape_text",
    "source_exists",
    "to_pixels",
    "with_hole",
]
