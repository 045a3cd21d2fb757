"""CPU view kernel in numba: the function of kernels/reference.py, one view at a time per core.

A view is made in tiles of whole rows that stay in the first-level cache. Every output row first gathers its source rows
(vertical filter over contiguous bytes, which vectorises), then resamples that one line horizontally into three planes
of float32, so no view exists in the size of its source. The colour operations run over the planes of a tile. Contrast
needs the mean of the whole view: the operations in front of it run in a first pass over the tiles, the others in a
second one, which also normalises and writes the pixels interleaved, torch's channels_last.

The filters index with unsigned numbers (`U`): for signed ones numba has to provide for Python's negative indices.
"""

from __future__ import annotations

import math
import weakref
from collections import deque

import numba
import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from .reference import GRAY_WEIGHTS, blur_taps, check_table

RED, GREEN, BLUE = (np.float32(weight) for weight in GRAY_WEIGHTS)
FAST = {"contract", "reassoc", "nsz", "arcp"}  # sums may be reordered; NaN and infinity keep their meaning
ZERO, ONE, TWO, THREE, FOUR, SIX = (np.float32(number) for number in (0, 1, 2, 3, 4, 6))
U = np.uintp
U1, U2, U3 = U(1), U(2), U(3)
CONTRAST = 1  # its number in ViewTable.order
TILE = 2048  # pixels: 24 KB of three float32 planes
ALIGNMENT = 64  # bytes, that of torch

_spare: deque[np.ndarray] = deque(maxlen=2)  # memory of results that nobody uses any more


def views(batch, table, *, size: int, mean, std, dtype: torch.dtype = torch.float32) -> Tensor:
    """As `reference.views` (same arguments, result and errors), for a batch on the host and any dtype below float64.

    Runs on as many threads as torch does. Compiled once; the machine code is cached on disk.
    """
    if len(batch) == len(table) == 0:
        return torch.empty((0, 3, size, size), dtype=dtype)
    check_table(batch, table)
    written = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
    view_bytes = 3 * size * size * written.itemsize
    memory = _allocate(len(table) * view_bytes)
    factors = torch.stack([table.brightness, table.contrast, table.saturation, table.hue], 1)
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
    with numba.parallel_chunksize(max(1, TILE // size**2)):  # views differ in cost: no fixed share for each thread
        _all_views(
            batch.pixels.numpy(),
            *(getattr(batch, name).numpy() for name in ("offset", "height", "width", "row_stride")),
            *(getattr(table, name).numpy() for name in ("box", "extend", "flip", "order")),
            factors.numpy(),
            *(getattr(table, name).numpy() for name in ("gray", "blur_sigma", "solarize")),
            blur_taps(size),
            np.asarray(mean, dtype=np.float32),
            1 / np.asarray(std, dtype=np.float32),
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


@njit(parallel=True, cache=True, nogil=True)
def _all_views(
    pixels,
    offset,
    height,
    width,
    stride,
    box,
    extend,
    flip,
    order,
    factors,
    gray,
    sigma,
    solarize,
    taps,
    shift,
    scale,
    out,
    size,
    bfloat16,
):
    images = len(offset)
    copies = len(box) // images
    step = size * max(1, TILE // size)
    for job in prange(len(box)):
        i = job // copies  # the views of an image one after another, while it is in the cache
        row = job % copies * images + i
        planes = np.empty((3, size * size), dtype=np.float32)
        y, x, h, w = np.float64(box[row, 0]), np.float64(box[row, 1]), np.float64(box[row, 2]), np.float64(box[row, 3])
        if flip[row]:
            x, w = x + w, -w
        y_filter = _filter(y, h, height[i], extend[row], size)
        x_filter = _filter(x, w, width[i], extend[row], size)
        contrast = 0
        while contrast < 4 and (order[row, contrast] != CONTRAST or factors[row, CONTRAST] == ONE):
            contrast += 1
        before, after = order[row, :contrast], order[row, contrast:]
        mean = _first_pass(pixels[offset[i] :], stride[i], y_filter, x_filter, before, factors[row], planes, step)
        blurred = sigma[row] > 0 and taps // 2 < size
        for begin in range(0, size * size, step):
            r, g, b = _tile(planes, begin, step)
            _jitter(r, g, b, after, factors[row], mean)
            if gray[row]:
                _gray(r, g, b)
            if not blurred:
                _finish(r, g, b, solarize[row], shift, scale, out[row], begin, bfloat16)
        if blurred:
            _blur(planes, size, sigma[row], taps)
            for begin in range(0, size * size, step):
                r, g, b = _tile(planes, begin, step)
                _finish(r, g, b, solarize[row], shift, scale, out[row], begin, bfloat16)


@njit(cache=True)
def _first_pass(source, stride, y_filter, x_filter, order, factors, planes, step):
    """Crop, resize and the operations in front of contrast. Returns the mean of the grey image that contrast needs."""
    y_first, y_weights = y_filter
    x_first, x_weights = x_filter
    size = len(x_first)
    begin = min(x_first[0], x_first[-1])
    pitch = 3 * (max(x_first[0], x_first[-1]) - begin + x_weights.shape[1])
    lines = np.empty(step // size * pitch, dtype=np.float32)
    at = (3 * (x_first - begin)).astype(U)
    total = 0.0
    for start in range(0, size * size, step):
        r, g, b = _tile(planes, start, step)
        row, rows = start // size, len(r) // size
        _vertical(source[3 * begin :], stride, y_first[row : row + rows], y_weights[row : row + rows], lines, pitch)
        _horizontal(lines, pitch, at, x_weights.ravel(), r, g, b)
        _jitter(r, g, b, order, factors, ZERO)
        if len(order) < 4:
            total += _grey_sum(r, g, b)
    return np.float32(total / (size * size))


@njit(cache=True)
def _tile(planes, begin, step):
    return planes[0, begin : begin + step], planes[1, begin : begin + step], planes[2, begin : begin + step]


@njit(cache=True, error_model="numpy")
def _filter(start, length, limit, extend, outputs):
    """(first pixel [outputs], weights [outputs, taps]) of the triangle filter of reference.py, taps the same for all.

    A negative length mirrors. The taps lie in the `limit` pixels of the image; those outside the box have weight zero.
    """
    step = length / outputs
    support = max(abs(step), 1.0)
    taps = min(math.ceil(2 * support), limit)
    low, high = 0.0, float(limit)
    if not extend:  # crop first: pixels outside the box do not exist
        low, high = min(start, start + length), max(start, start + length)
    first = np.empty(outputs, dtype=np.int64)
    weights = np.empty((outputs, taps), dtype=np.float32)
    for o in range(outputs):
        centre = start + step * (o + 0.5)
        first[o] = max(0, min(math.floor(centre - support + 0.5), limit - taps))
        total = 0.0
        for t in range(taps):
            pixel = first[o] + t
            weight = max(0.0, 1.0 - abs(pixel + 0.5 - centre) / support) if low <= pixel < high else 0.0
            weights[o, t] = weight
            total += weight
        for t in range(taps):
            weights[o, t] /= total
    return first, weights


@njit(cache=True, fastmath=FAST)
def _vertical(source, stride, first, weights, lines, pitch):
    """Weighted sums of source rows, `pitch` bytes of each, as lines of float32 in [0, 1]. Takes two rows at a time."""
    unit = np.float32(1 / 255)
    taps = weights.shape[1]
    for o in range(len(first)):
        line = U(o * pitch)
        for t in range(0, taps, 2):
            pair = min(t + 1, taps - 1)
            upper, lower = U((first[o] + t) * stride), U((first[o] + pair) * stride)
            above, below = unit * weights[o, t], unit * weights[o, pair] if pair > t else ZERO
            if t == 0:
                for k in range(U(pitch)):
                    lines[line + k] = above * np.float32(source[upper + k]) + below * np.float32(source[lower + k])
            else:
                for k in range(U(pitch)):
                    lines[line + k] += above * np.float32(source[upper + k]) + below * np.float32(source[lower + k])


@njit(cache=True, fastmath=FAST)
def _horizontal(lines, pitch, at, weights, r, g, b):
    """Resample lines to planes. The usual numbers of taps are constants for the compiler, which unrolls their loops."""
    taps = len(weights) // len(at)
    if taps == 2:
        _resample(lines, pitch, at, weights, 2, r, g, b)
    elif taps == 3:
        _resample(lines, pitch, at, weights, 3, r, g, b)
    elif taps == 4:
        _resample(lines, pitch, at, weights, 4, r, g, b)
    else:
        _resample(lines, pitch, at, weights, taps, r, g, b)


@njit(cache=True, inline="always")
def _resample(lines, pitch, at, weights, taps, r, g, b):
    k = U(0)
    for row in range(len(r) // len(at)):
        w = U(0)
        for c in range(len(at)):
            red = green = blue = ZERO
            pixel = U(row * pitch) + at[c]
            for _ in range(taps):
                weight = weights[w]
                red += weight * lines[pixel]
                green += weight * lines[pixel + U1]
                blue += weight * lines[pixel + U2]
                pixel += U3
                w += U1
            r[k], g[k], b[k] = red, green, blue
            k += U1


@njit(cache=True)
def _jitter(r, g, b, order, factors, mean):
    """Apply the colour operations of `order`; `mean` is that of the grey image, for contrast."""
    for op in order:
        factor = factors[op]
        if op <= CONTRAST and factor != ONE:
            _straight(r, g, b, factor, (ONE - factor) * mean if op == CONTRAST else ZERO)
        elif op == 2 and factor != ONE:
            _saturation(r, g, b, factor)
        elif op == 3 and factor != ZERO:
            _hue(r, g, b, factor)


@njit(cache=True, inline="always")
def _unit(value):
    return min(max(value, ZERO), ONE)


@njit(cache=True, fastmath=FAST)
def _straight(r, g, b, factor, rest):
    """Brightness and contrast."""
    for k in range(len(r)):
        r[k], g[k], b[k] = _unit(factor * r[k] + rest), _unit(factor * g[k] + rest), _unit(factor * b[k] + rest)


@njit(cache=True, fastmath=FAST)
def _grey_sum(r, g, b):
    total = ZERO
    for k in range(len(r)):
        total += RED * r[k] + GREEN * g[k] + BLUE * b[k]
    return total


@njit(cache=True, fastmath=FAST)
def _saturation(r, g, b, factor):
    for k in range(len(r)):
        grey = (ONE - factor) * (RED * r[k] + GREEN * g[k] + BLUE * b[k])
        r[k], g[k], b[k] = _unit(factor * r[k] + grey), _unit(factor * g[k] + grey), _unit(factor * b[k] + grey)


@njit(cache=True, fastmath=FAST)
def _hue(r, g, b, turns):
    """A channel is full within 1 sextant of its own hue (red 0, green 2, blue 4) and empty from 2 on. No branches."""
    for k in range(len(r)):
        red, green, blue = r[k], g[k], b[k]
        high, low = max(red, green, blue), min(red, green, blue)
        spread = high - low
        difference = green - blue if high == red else (blue - red if high == green else red - green)
        corner = ZERO if high == red else (TWO if high == green else FOUR)
        hue = (difference / (spread if spread > ZERO else ONE) + corner) / SIX + turns
        sextant = SIX * (hue - np.floor(hue))
        r[k] = low + spread * _unit(abs(sextant - THREE) - ONE)
        g[k] = low + spread * _unit(TWO - abs(sextant - TWO))
        b[k] = low + spread * _unit(TWO - abs(sextant - FOUR))


@njit(cache=True, fastmath=FAST)
def _gray(r, g, b):
    for k in range(len(r)):
        r[k] = g[k] = b[k] = RED * r[k] + GREEN * g[k] + BLUE * b[k]


@njit(cache=True, inline="always")
def _reflect(index, size):
    index = -index if index < 0 else index
    return 2 * size - 2 - index if index >= size else index


@njit(cache=True, fastmath=FAST)
def _blur(planes, size, sigma, taps):
    half = taps // 2
    kernel = np.empty(taps, dtype=np.float32)
    total = 0.0
    for t in range(taps):
        kernel[t] = math.exp(-0.5 * ((t - half) / sigma) ** 2)
        total += kernel[t]
    kernel /= np.float32(total)
    padded = np.empty(size + 2 * half, dtype=np.float32)
    rows = np.empty((size, size), dtype=np.float32)
    for c in range(3):
        plane = planes[c].reshape(size, size)
        for y in range(size):  # along x
            for x in range(size + 2 * half):
                padded[x] = plane[y, _reflect(x - half, size)]
            rows[y] = ZERO
            for t in range(taps):
                for x in range(size):
                    rows[y, x] += kernel[t] * padded[x + t]
        for y in range(size):  # along y
            plane[y] = ZERO
            for t in range(taps):
                source = rows[_reflect(y + t - half, size)]
                for x in range(size):
                    plane[y, x] += kernel[t] * source[x]


@njit(cache=True)
def _finish(r, g, b, solarize, shift, scale, out, begin, bfloat16):
    """Solarize, normalise and write a tile, pixel `begin` of the view first, to the bytes `out` of the view."""
    if solarize <= 1:
        _solarize(r, g, b, solarize)
    if bfloat16:
        _write_bfloat16(r, g, b, shift, scale, out[6 * begin :].view(np.uint16))
    else:
        _write_float32(r, g, b, shift, scale, out[12 * begin :].view(np.float32))


@njit(cache=True, fastmath=FAST)
def _solarize(r, g, b, threshold):
    for k in range(len(r)):
        r[k] = ONE - r[k] if r[k] >= threshold else r[k]
        g[k] = ONE - g[k] if g[k] >= threshold else g[k]
        b[k] = ONE - b[k] if b[k] >= threshold else b[k]


@njit(cache=True, fastmath=FAST)
def _write_float32(r, g, b, shift, scale, out):
    for k in range(len(r)):
        out[3 * k] = (r[k] - shift[0]) * scale[0]
        out[3 * k + 1] = (g[k] - shift[1]) * scale[1]
        out[3 * k + 2] = (b[k] - shift[2]) * scale[2]


@njit(cache=True, fastmath=FAST)
def _write_bfloat16(r, g, b, shift, scale, out):
    for k in range(len(r)):
        out[3 * k] = _bfloat16((r[k] - shift[0]) * scale[0])
        out[3 * k + 1] = _bfloat16((g[k] - shift[1]) * scale[1])
        out[3 * k + 2] = _bfloat16((b[k] - shift[2]) * scale[2])


@njit(cache=True, inline="always")
def _bfloat16(value):
    """Its bits: the upper half of those of float32, rounded to nearest, ties to even."""
    bits = np.float32(value).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return np.uint16((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))
