"""What one launch of the GPU view kernel has to know of a batch and its table: one buffer, which crosses in one copy.

Places are 32.32 fixed point, reckoned here in float64: a GPU then finds the pixels of an output with one integer
multiplication, and needs no float64, in which most GPUs are slow. With the symbols of reference.py, output o reads the
ceil(2 r s) pixels from floor(first + o step) on, along y as along x, where r is the radius of the filter,
step = len / out and first = start + step / 2 - r s + 1/2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .operations import affine_matrices
from .reference import FILTER_RADIUS, blur_taps, check_table

LONGS, INTS, FLOATS, PROGRAM = 4, 9, 6, 16  # columns of the table, by dtype, and of its operations
CONTRAST = 1  # its number in the order of a table


@dataclass(frozen=True)
class Plan:
    """Views of `size` pixels, one per row; row r shows image r % images."""

    words: Tensor
    """Flat int32, on the host or a device. int64: `offset` [images], then of each row first y, first x, step y, step x.
    int32: `row_stride` [images], then of each row the pixels that may be read (low y, low x, high y, high x), flip,
    gray, the position of contrast, the order (two bits a position), scratch slot (-1: none). float32: of each row
    brightness, contrast, saturation, hue, blur sigma (0: no blur), solarize; where `programs`, the numbers of its two
    operations, their magnitudes and their matrices. Rows are the last dimension."""
    images: int
    rows: int
    size: int
    slots: int
    """Of scratch memory: the number of rows whose pixels mix, by blur or an operation, or more."""
    programs: bool
    """Whether there are columns for the operations of operations.py."""
    radius: int
    """Of the filter, see reference.FILTER_RADIUS."""
    clip: bool = False
    """Whether the resized image is clamped to [0, 1], see reference.views."""

    def columns(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """The int64, the int32 and the float32 part of `words`, flat; last the operations, if any."""
        longs, ints, floats = 2 * (self.images + LONGS * self.rows), self.images + INTS * self.rows, FLOATS * self.rows
        parts = self.words.split([longs, ints, floats, PROGRAM * self.rows * self.programs])
        longs, floats, programs = (
            parts[n].view(dtype) for n, dtype in ((0, torch.int64), (2, torch.float32), (3, torch.float32))
        )
        return longs, parts[1], floats, programs if self.programs else None

    def to(self, device: torch.device) -> Plan:
        """On the device, by one copy that nobody waits for."""
        return replace(self, words=self.words.to(device, non_blocking=True))

    def update(self, other: Plan) -> None:
        """Take over the rows of another plan: a CUDA graph reads them from where they were when it was captured.

        Raises:
            ValueError: the other plan has another shape, or needs more slots than this one has.
        """
        names = ("images", "rows", "size", "programs", "radius", "clip")
        shape, theirs = (tuple(getattr(plan, name) for name in names) for plan in (self, other))
        if shape != theirs or other.slots > self.slots:
            raise ValueError(
                f"a plan of ({', '.join(names)}) {theirs} and {other.slots} slots does not fit into one of {shape} "
                f"and {self.slots}"
            )
        self.words.copy_(other.words, non_blocking=True)


def make_plan(batch, table, size: int, interpolation: str = "bilinear", clip: bool = False) -> Plan:
    """The plan of `table` over `batch`, on the host; page-locked where there is a GPU.

    Reads the columns of the batch, not its pixels. Columns that lie on a device are waited for.

    Raises:
        ValueError: as `reference.views`.
    """
    views = len(check_table(batch, table))
    offset, height, width, stride = (getattr(batch, name).cpu() for name in ("offset", "height", "width", "row_stride"))
    limit = torch.stack([height, width]).repeat(1, views)  # [2, rows], as all below: y, x
    start, length = table.box.double().t().chunk(2)
    step = length / size
    radius = FILTER_RADIUS[interpolation]
    first = start + step / 2 - radius * step.clamp(min=1) + 0.5
    sigma = table.blur_sigma if blur_taps(size) // 2 < size else torch.zeros_like(table.blur_sigma)
    operates = (table.ops > 0).any(1)
    mixes = (sigma > 0) | operates

    images, rows, programs = len(batch), len(table), bool(operates.any())
    count = 3 * images + (2 * LONGS + INTS + FLOATS + PROGRAM * programs) * rows
    words = torch.empty(count, dtype=torch.int32, pin_memory=torch.cuda.is_available())
    plan = Plan(words, images, rows, size, int(mixes.sum()), programs, radius, clip)
    longs, ints, floats, program = plan.columns()
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
    slot[:] = torch.where(mixes, mixes.cumsum(0) - 1, -1)
    colours = (table.brightness, table.contrast, table.saturation, table.hue, sigma, table.solarize)
    torch.stack(colours, out=floats.view(FLOATS, rows))
    if program is not None:
        matrices = affine_matrices(table.ops, table.magnitudes, size).view(rows, -1)
        program.view(PROGRAM, rows)[:] = torch.cat([table.ops.float(), table.magnitudes, matrices], 1).t()
    return plan
