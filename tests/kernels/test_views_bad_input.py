"""What none of the implementations makes views of: a ValueError that names the row, the same from all three."""

import dataclasses
import re

import numpy as np
import pytest
import torch

from fastvarcon.data.augment import ViewTable, view_params
from fastvarcon.data.batch import ImageBatch
from fastvarcon.kernels import reference, views_cpu, views_triton

SIZES = np.array([[10, 31], [29, 16], [24, 24], [40, 13], [17, 37]])
B = len(SIZES)


@pytest.fixture(params=[reference, views_cpu, views_triton], ids=["torch", "numba", "triton"])
def refuses(request):
    """`refuses(batch, table, message)`: checks the error of one implementation."""

    def check(batch: ImageBatch, table: ViewTable, message: str) -> None:
        with pytest.raises(ValueError, match=re.escape(message)):
            request.param.views(batch, table, size=8, mean=(0.0,) * 3, std=(1.0,) * 3)

    return check


@pytest.fixture
def batch(rng) -> ImageBatch:
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]
    return ImageBatch.from_images(images, np.zeros(B, np.int64), np.arange(B))


@pytest.fixture
def table() -> ViewTable:
    """Two views of each image."""
    sizes = {"heights": SIZES[:, 0], "widths": SIZES[:, 1]}
    return ViewTable.cat([view_params("simclr", 0, 0, np.arange(B), view, **sizes) for view in range(2)])


@pytest.mark.parametrize(
    ("column", "value"), [(0, -1.0), (1, -2.0), (2, 1000.0), (3, 0.0), (2, -3.0), (1, float("nan"))]
)
def test_box_outside_its_image(refuses, batch, table, column, value):
    table.box[8, column] = value
    refuses(batch, table, f"row 8: box {table.box[8].tolist()} lies outside its image of 40 x 13 pixels")


@pytest.mark.parametrize(("column", "shape"), [("height", "0 x 24"), ("width", "24 x 0")])
def test_image_without_pixels(refuses, batch, table, column, shape):
    size = getattr(batch, column).clone()
    size[2] = 0
    refuses(dataclasses.replace(batch, **{column: size}), table, f"row 2: its image has {shape} pixels")


def test_image_of_one_channel(refuses, batch, table):
    stride = batch.row_stride.clone()
    stride[3] //= 3
    grey = dataclasses.replace(batch, row_stride=stride)
    refuses(grey, table, "row 3: 13 pixels of 3 channels do not fit into 13 bytes")


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (5, 6, 4)])
def test_images_that_are_not_rgb_make_no_batch(shape):
    images = [np.zeros((4, 4, 3), dtype=np.uint8), np.zeros(shape, dtype=np.uint8)]
    with pytest.raises(ValueError, match=re.escape(f"image 1: [height, width, 3] uint8 expected, not {shape} uint8")):
        ImageBatch.from_images(images, np.zeros(2), np.arange(2))


@pytest.mark.parametrize(("rows", "row"), [(9, 5), (4, 0), (11, 10)])
def test_table_of_the_wrong_length(refuses, batch, table, rows, row):
    longer = {name: torch.cat([column, column])[:rows] for name, column in vars(table).items()}
    refuses(batch, ViewTable(**longer), f"row {row}: a table of {rows} rows does not fit a batch of 5 images")


def test_column_of_the_wrong_length(refuses, batch, table):
    short = dataclasses.replace(table, blur_sigma=table.blur_sigma[:7])
    refuses(batch, short, "row 7: column blur_sigma has 7 rows, others 10")


@pytest.mark.parametrize(
    ("column", "value"), [("offset", -1), ("offset", 1 << 40), ("row_stride", 10_000), ("row_stride", 2**31 - 1)]
)
def test_image_outside_the_pixels(refuses, batch, table, column, value):
    wrong = getattr(batch, column).clone()
    wrong[1] = value
    first = int(value if column == "offset" else batch.offset[1])
    refuses(dataclasses.replace(batch, **{column: wrong}), table, f"row 1: bytes {first} to ")
