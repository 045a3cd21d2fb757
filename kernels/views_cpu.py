"""CPU view kernel in numba: the function of kernels/reference.py, one view at a time per core.

A view is made in tiles of whole rows that stay in the first-level cache. Every output row first gathers its source rows
(vertical filter over contiguous bytes, which vectorises), then resamples that one line horizontally into three planes
of float32, so no view exists in the size of its source. The colour operations run over the planes of a tile. Contrast
needs the mean of the whole view: the operations in front of it run in a first pass over the tiles, the others in a
second one, which also normalises and writes the pixels interleaved, torch's channels_last.
"""

from __future__ import annotations

import sys
import weakref
from collections import deque
from typing import NamedTuple

import numba
import numpy as np
import torch
from numba import njit, prange
from numba.core import event
from torch import Tensor

from . import colour_cpu, numba_pool, operations, operations_cpu, resample_cpu  # noqa: F401  numba_pool acts at exit
from .colour_cpu import CONTRAST, FAST, ONE, ZERO, blur, gray, grey_sum, jitter, solarize
from .numba_cache import cached_njit, depends_on
from .operations import affine_matrices
from .operations_cpu import operate
from .reference import FILTER_RADIUS, blur_taps, check_table
from .resample_cpu import axis_filter, clipped, horizontal, vertical

TILE = 2048  # pixels: 24 KB of three float32 planes
ALIGNMENT = 64  # bytes, that of torch

_spare: deque[np.ndarray] = deque(maxlen=2)  # memory of results that nobody uses any more


class Colours(NamedTuple):
    """What is done to the colours of each row: columns of the table, and of all rows alike shift and scale."""

    order: np.ndarray
    factors: np.ndarray
    ops: np.ndarray
    magnitudes: np.ndarray
    matrices: np.ndarray
    gray: np.ndarray
    sigma: np.ndarray
    solarize: np.ndarray
    shift: np.ndarray
    scale: np.ndarray


def views(
    batch,
    table,
    *,
    size: int,
    mean,
    std,
    dtype: torch.dtype = torch.float32,
    interpolation: str = "bilinear",
    clip: bool = False,
) -> Tensor:
    """As `reference.views` (same arguments, result and errors), for a batch on the host and any dtype below float64.

    Runs on as many threads as torch does. Compiled once; the machine code is cached on disk.
    """
    if len(batch) == len(table) == 0:
        return torch.empty((0, 3, size, size), dtype=dtype)
    check_table(batch, table)
    written = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
    view_bytes = 3 * size * size * written.itemsize
    memory = _allocate(len(table) * view_bytes)
    colours = Colours(
        order=table.order.numpy(),
        factors=torch.stack([table.brightness, table.contrast, table.saturation, table.hue], 1).numpy(),
        ops=table.ops.numpy(),
        magnitudes=table.magnitudes.numpy(),
        matrices=affine_matrices(table.ops, table.magnitudes, size).numpy(),
        gray=table.gray.numpy(),
        sigma=table.blur_sigma.numpy(),
        solarize=table.solarize.numpy(),
        shift=np.asarray(mean, dtype=np.float32),
        scale=1 / np.asarray(std, dtype=np.float32),
    )
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
    with numba.parallel_chunksize(max(1, TILE // size**2)):  # views differ in cost: no fixed share for each thread
        _all_views(
            batch.pixels.numpy(),
            *(getattr(batch, name).numpy() for name in ("offset", "height", "width", "row_stride")),
            *(getattr(table, name).numpy() for name in ("box", "extend", "flip")),
            FILTER_RADIUS[interpolation],
            clip,
            colours,
            blur_taps(size),
            memory.reshape(len(table), view_bytes),
            size,
            written == torch.bfloat16,
        )
    out = torch.from_numpy(memory).view(written).view(len(table), size, size, 3)
    return out.permute(0, 3, 1, 2).to(dtype)


def _allocate(count: int) -> np.ndarray:
    """`count` bytes, not initialised: the memory of an earlier result of this size that is no longer in use, if any.

    The system clears new memory page by page on first use, which costs up to two thirds of the work on the views.
    """
    try:
        memory = _spare.pop()
    except IndexError:
        memory = None
    if memory is None or len(memory) != count + ALIGNMENT:
        memory = np.empty(count + ALIGNMENT, dtype=np.uint8)
    skipped = -memory.ctypes.data % ALIGNMENT
    result = memory[skipped : skipped + count]  # goes with the last tensor that shares it; then `memory` is spare
    weakref.finalize(result, _spare.append, memory).atexit = False
    return result


@cached_njit(parallel=True, nogil=True)
@depends_on(colour_cpu, operations, operations_cpu, resample_cpu)
def _all_views(
    pixels, offset, height, width, stride, box, extend, flip, radius, clip, colours, taps, out, size, bfloat16
):
    images = len(offset)
    copies = len(box) // images
    step = size * max(1, TILE // size)
    overshoot = radius > 1 and not clip
    for job in prange(len(box)):
        i = job // copies  # the views of an image one after another, while it is in the cache
        row = job % copies * images + i
        planes = np.empty((3, size * size), dtype=np.float32)
        y, x, h, w = np.float64(box[row, 0]), np.float64(box[row, 1]), np.float64(box[row, 2]), np.float64(box[row, 3])
        if flip[row]:
            x, w = x + w, -w
        y_filter = axis_filter(y, h, height[i], extend[row], size, radius)
        x_filter = axis_filter(x, w, width[i], extend[row], size, radius)
        order, factors = colours.order[row], colours.factors[row]
        contrast = 0
        while contrast < 4 and (order[contrast] != CONTRAST or factors[CONTRAST] == ONE):
            contrast += 1
        before, after = order[:contrast], order[contrast:]
        source = pixels[offset[i] :]
        if clip:
            clipped(source, stride[i], y_filter, x_filter, planes)
        mean = _first_pass(source, stride[i], y_filter, x_filter, before, factors, planes, step, overshoot, clip)
        sigma = colours.sigma[row] if taps // 2 < size else ZERO
        whole = sigma > 0 or colours.ops[row].any()  # pixels mix: nothing is finished before all of the view is there
        for begin in range(0, size * size, step):
            tile = _tile(planes, begin, step)
            jitter(*tile, after, factors, mean, overshoot)
            if not whole:
                _finish(tile, colours, row, out[row], begin, bfloat16)
        if whole:
            spare = np.empty_like(planes)
            for k in range(colours.ops.shape[1]):
                planes, spare = operate(
                    planes, spare, size, colours.ops[row, k], colours.magnitudes[row, k], colours.matrices[row, k]
                )
            if sigma > 0:
                blur(planes, size, sigma, taps)
            for begin in range(0, size * size, step):
                _finish(_tile(planes, begin, step), colours, row, out[row], begin, bfloat16)


def kernel() -> object:
    """The compiled function, for those who ask where its machine code is kept."""
    return _all_views


class _Announcement(event.Listener):
    """Says what the first views on a machine wait for; nothing is compiled, nor said, where the cache has it."""

    def on_start(self, compilation):
        if compilation.data["dispatcher"] is _all_views:
            print("compiling the view kernel for this CPU: once, up to a minute", file=sys.stderr, flush=True)

    def on_end(self, compilation): ...


event.register("numba:compile", _Announcement())


@njit
def _first_pass(source, stride, y_filter, x_filter, order, factors, planes, step, overshoot, made):
    """Crop, resize (unless it is `made`) and the operations in front of contrast. Returns the mean of the grey image
    that contrast needs."""
    y_first, y_weights = y_filter
    x_first, x_weights = x_filter
    size = len(x_first)
    begin = min(x_first[0], x_first[-1])
    pitch = 3 * (max(x_first[0], x_first[-1]) - begin + x_weights.shape[1])
    lines = np.empty(step // size * pitch, dtype=np.float32)
    at = (3 * (x_first - begin)).astype(np.uintp)
    total = 0.0
    for start in range(0, size * size, step):
        r, g, b = _tile(planes, start, step)
        row, rows = start // size, len(r) // size
        if not made:
            vertical(source[3 * begin :], stride, y_first[row : row + rows], y_weights[row : row + rows], lines, pitch)
            horizontal(lines, pitch, at, x_weights.ravel(), r, g, b)
        jitter(r, g, b, order, factors, ZERO, overshoot)
        if len(order) < 4:
            total += grey_sum(r, g, b)
    return np.float32(total / (size * size))


@njit
def _tile(planes, begin, step):
    return planes[0, begin : begin + step], planes[1, begin : begin + step], planes[2, begin : begin + step]


@njit
def _finish(tile, colours, row, out, begin, bfloat16):
    """Gray, solarize, normalise and write a tile, pixel `begin` of the view first, to the bytes `out` of the view."""
    r, g, b = tile
    if colours.gray[row]:
        gray(r, g, b)
    if colours.solarize[row] <= 1:
        solarize(r, g, b, colours.solarize[row])
    if bfloat16:
        _write_bfloat16(r, g, b, colours.shift, colours.scale, out[6 * begin :].view(np.uint16))
    else:
        _write_float32(r, g, b, colours.shift, colours.scale, out[12 * begin :].view(np.float32))


@njit(fastmath=FAST)
def _write_float32(r, g, b, shift, scale, out):
    for k in range(len(r)):
        out[3 * k] = (r[k] - shift[0]) * scale[0]
        out[3 * k + 1] = (g[k] - shift[1]) * scale[1]
        out[3 * k + 2] = (b[k] - shift[2]) * scale[2]


@njit(fastmath=FAST)
def _write_bfloat16(r, g, b, shift, scale, out):
    for k in range(len(r)):
        out[3 * k] = _bfloat16((r[k] - shift[0]) * scale[0])
        out[3 * k + 1] = _bfloat16((g[k] - shift[1]) * scale[1])
        out[3 * k + 2] = _bfloat16((b[k] - shift[2]) * scale[2])


@njit(inline="always")
def _bfloat16(value):
    """Its bits: the upper half of those of float32, rounded to nearest, ties to even."""
    bits = np.float32(value).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return np.uint16((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))
