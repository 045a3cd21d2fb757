"""What one launch of the GPU view kernel has to know of a batch and its table: one buffer, which crosses in one copy.

Places are 32.32 fixed point, reckoned here in float64: a GPU then finds the pixels of an output with one integer
multiplication, and needs no float64, in which most GPUs are slow. With the symbols of reference.py, output o reads the
ceil(2 s) pixels from floor(first + o step) on, along y as along x, where step = len / out and
first = start + step / 2 - s + 1/2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .reference import blur_taps, check_table

LONGS, INTS, FLOATS = 4, 9, 6  # columns of the table, by dtype
CONTRAST = 1  # its number in the order of a table


@dataclass(frozen=True)
class Plan:
    """Views of `size` pixels, one per row; row r shows image r % images."""

    words: Tensor
    """Flat int32, on the host or a device. int64: `offset` [images], then of each row first y, first x, step y, step x.
    int32: `row_stride` [images], then of each row the pixels that may be read (low y, low x, high y, high x), flip,
    gray, the position of contrast, the order (two bits a position), scratch slot (-1: no blur). float32: of each row
    brightness, contrast, saturation, hue, blur sigma, solarize. Rows are the last dimension."""
    images: int
    rows: int
    size: int
    blurred: int
    """Slots of scratch memory: the number of rows that blur, or more."""

    def columns(self) -> tuple[Tensor, Tensor, Tensor]:
        """The int64, the int32 and the float32 part of `words`, flat."""
        longs, floats = 2 * (self.images + LONGS * self.rows), FLOATS * self.rows
        parts = self.words.split([longs, len(self.words) - longs - floats, floats])
        return parts[0].view(torch.int64), parts[1], parts[2].view(torch.float32)

    def to(self, device: torch.device) -> Plan:
        """On the device, by one copy that nobody waits for."""
        return replace(self, words=self.words.to(device, non_blocking=True))

    def update(self, other: Plan) -> None:
        """Take over the rows of another plan: a CUDA graph reads them from where they were when it was captured.

        Raises:
            ValueError: the other plan has another shape, or blurs more rows than this one has slots for.
        """
        shape, theirs = ((plan.images, plan.rows, plan.size) for plan in (self, other))
        if shape != theirs or other.blurred > self.blurred:
            raise ValueError(
                f"a plan of (images, rows, size) {theirs} and {other.blurred} blurred rows does not fit into one of "
                f"{shape} and {self.blurred}"
            )
        self.words.copy_(other.words, non_blocking=True)


def make_plan(batch, table, size: int) -> Plan:
    """The plan of `table` over `batch`, on the host; page-locked where there is a GPU.

    Reads the columns of the batch, not its pixels. Columns that lie on a device are waited for.

    Raises:
        ValueError: as `reference.views`; an image ends behind the pixels, or is of 2 GiB or more.
    """
    views = len(check_table(batch, table))
    offset, height, width, stride = (getattr(batch, name).cpu() for name in ("offset", "height", "width", "row_stride"))
    _check_images(offset, (height.long() - 1) * stride + 3 * width, len(batch.pixels))
    limit = torch.stack([height, width]).repeat(1, views)  # [2, rows], as all below: y, x
    start, length = table.box.double().t().chunk(2)
    step = length / size
    first = start + step / 2 - step.clamp(min=1) + 0.5
    blurs = (table.blur_sigma > 0) & (blur_taps(size) // 2 < size)

    images, rows = len(batch), len(table)
    words = torch.empty(
        3 * images + (2 * LONGS + INTS + FLOATS) * rows, dtype=torch.int32, pin_memory=torch.cuda.is_available()
    )
    plan = Plan(words, images, rows, size, blurred=int(blurs.sum()))
    longs, ints, floats = plan.columns()
    longs[:images] = offset
    longs[images:] = (torch.cat([first, step]) * 2**32).round().flatten()
    ints[:images] = stride
    low, high, flip, gray, contrast_at, order, slot = ints[images:].view(INTS, rows).split([2, 2, 1, 1, 1, 1, 1])
    # of a box without a pixel in it the weights are NaN, as in the reference, but high >= 1 keeps reads in the image
    low[:] = torch.where(table.extend, 0, start.ceil())
    high[:] = torch.where(table.extend, limit, torch.minimum((start + length).ceil().clamp(min=1), limit))
    flip[:], gray[:] = table.flip, table.gray
    contrast_at[:] = (table.order == CONTRAST).int().argmax(1)
    order[:] = (table.order.int() << torch.tensor([0, 2, 4, 6])).sum(1)
    slot[:] = torch.where(blurs, blurs.cumsum(0) - 1, -1)
    names = ("brightness", "contrast", "saturation", "hue", "blur_sigma", "solarize")
    torch.stack([getattr(table, name) for name in names], out=floats.view(FLOATS, rows))
    return plan


def _check_images(offset: Tensor, span: Tensor, num_bytes: int) -> None:
    """A wrong address costs more on a GPU than on the host: the process loses its context. Rows of bytes are int32."""
    ends = offset + span
    bad = (offset < 0) | (ends > num_bytes) | (span >= 2**31)
    if bad.any():
        image = int(bad.int().argmax())
        raise ValueError(
            f"image {image}: bytes {int(offset[image])} to {int(ends[image])} must lie within the {num_bytes} bytes of "
            "pixels and be less than 2 GiB"
        )
