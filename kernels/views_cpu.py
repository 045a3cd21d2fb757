"""CPU view kernel in numba: the function of kernels/reference.py, one view at a time per core.

No view exists in the size of its source: every output row gathers its source rows (vertical filter over contiguous
bytes, which vectorises), then resamples that one row horizontally into three planes of float32. The colour operations
run over the planes; normalisation writes them interleaved, which is torch's channels_last.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from .reference import GRAY_WEIGHTS, blur_taps, check_table

RED, GREEN, BLUE = (np.float32(weight) for weight in GRAY_WEIGHTS)
FAST = {"contract", "reassoc", "nsz", "arcp"}  # sums may be reordered; NaN and infinity keep their meaning
ZERO, ONE, TWO, SIX = np.float32(0), np.float32(1), np.float32(2), np.float32(6)


def views(batch, table, *, size: int, mean, std, dtype: torch.dtype = torch.float32) -> Tensor:
    """As `reference.views` (same arguments, result and errors), for a batch on the host and any dtype below float64.

    Runs on as many threads as torch does. Compiled once; the machine code is cached on disk.
    """
    if len(batch) == len(table) == 0:
        return torch.empty((0, 3, size, size), dtype=dtype)
    check_table(batch, table)
    out = torch.empty((len(table), size, size, 3), dtype=torch.float32)
    factors = torch.stack([table.brightness, table.contrast, table.saturation, table.hue], 1)
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
    _all_views(
        batch.pixels.numpy(),
        *(getattr(batch, name).numpy() for name in ("offset", "height", "width", "row_stride")),
        *(getattr(table, name).numpy() for name in ("box", "extend", "flip", "order")),
        factors.numpy(),
        *(getattr(table, name).numpy() for name in ("gray", "blur_sigma", "solarize")),
        blur_taps(size),
        np.asarray(mean, dtype=np.float32),
        1 / np.asarray(std, dtype=np.float32),
        out.numpy(),
    )
    return out.permute(0, 3, 1, 2).to(dtype)


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
    mean,
    scale,
    out,
):
    images = len(offset)
    for row in prange(len(box)):
        i = row % images
        planes = np.empty((3, out.shape[1] * out.shape[1]), dtype=np.float32)
        _crop_resize(pixels, offset[i], height[i], width[i], stride[i], box[row], extend[row], flip[row], planes)
        for position in range(4):
            op = order[row, position]
            factor = factors[row, op]
            if op == 0 and factor != ONE:
                _brightness(planes, factor)
            elif op == 1 and factor != ONE:
                _contrast(planes, factor)
            elif op == 2 and factor != ONE:
                _saturation(planes, factor)
            elif op == 3 and factor != ZERO:
                _hue(planes, factor)
        if gray[row]:
            _gray(planes)
        if sigma[row] > 0 and taps // 2 < out.shape[1]:
            _blur(planes, out.shape[1], sigma[row], taps)
        if solarize[row] <= 1:
            _solarize(planes, solarize[row])
        _normalise(planes, mean, scale, out[row])


@njit(cache=True)
def _filter(start, length, low, high, outputs):
    """(first pixel, number of pixels, weights) of every output of the triangle filter; see reference.py."""
    step = length / outputs
    support = max(step, 1.0)
    first = np.empty(outputs, dtype=np.int64)
    count = np.empty(outputs, dtype=np.int64)
    weights = np.zeros((outputs, math.ceil(2 * support) + 2), dtype=np.float32)
    for o in range(outputs):
        centre = start + step * (o + 0.5)
        begin = max(low, math.floor(centre - support))
        end = min(high, math.ceil(centre + support) + 1)
        taken, total = 0, 0.0
        first[o] = begin
        for j in range(begin, end):
            weight = 1.0 - abs(j + 0.5 - centre) / support
            if weight > 0.0:
                if taken == 0:
                    first[o] = j
                weights[o, taken] = weight
                total += weight
                taken += 1
        count[o] = taken
        for t in range(taken):
            weights[o, t] /= total
    return first, count, weights


@njit(cache=True, fastmath=FAST)
def _crop_resize(pixels, offset, height, width, stride, box, extend, flip, planes):
    size = int(math.sqrt(planes.shape[1]) + 0.5)
    y, x, h, w = float(box[0]), float(box[1]), float(box[2]), float(box[3])
    y_low, y_high, x_low, x_high = 0, int(height), 0, int(width)
    if not extend:  # crop first: pixels outside the box do not exist
        y_low, x_low = math.ceil(y), math.ceil(x)
        y_high, x_high = min(y_high, math.ceil(y + h)), min(x_high, math.ceil(x + w))
    y_first, y_count, y_weights = _filter(y, h, y_low, y_high, size)
    x_first, x_count, x_weights = _filter(x, w, x_low, x_high, size)
    begin = x_first[0]
    span = 3 * (x_first[size - 1] + x_count[size - 1] - begin)
    line = np.empty(span, dtype=np.float32)
    unit = np.float32(1 / 255)
    for o in range(size):
        base = offset + y_first[o] * stride + 3 * begin
        weight = y_weights[o, 0] * unit
        source = pixels[base : base + span]
        for k in range(span):
            line[k] = weight * np.float32(source[k])
        for t in range(1, y_count[o]):
            weight = y_weights[o, t] * unit
            source = pixels[base + t * stride : base + t * stride + span]
            for k in range(span):
                line[k] += weight * np.float32(source[k])
        for c in range(size):
            red = green = blue = ZERO
            at = 3 * (x_first[c] - begin)
            for t in range(x_count[c]):
                weight = x_weights[c, t]
                red += weight * line[at]
                green += weight * line[at + 1]
                blue += weight * line[at + 2]
                at += 3
            target = o * size + (size - 1 - c if flip else c)
            planes[0, target], planes[1, target], planes[2, target] = red, green, blue


@njit(cache=True, inline="always")
def _unit(value):
    return min(max(value, ZERO), ONE)


@njit(cache=True, fastmath=FAST)
def _brightness(planes, factor):
    for c in range(3):
        plane = planes[c]
        for k in range(len(plane)):
            plane[k] = _unit(plane[k] * factor)


@njit(cache=True, fastmath=FAST)
def _contrast(planes, factor):
    r, g, b = planes[0], planes[1], planes[2]
    total = 0.0
    for k in range(len(r)):
        total += RED * r[k] + GREEN * g[k] + BLUE * b[k]
    grey = (ONE - factor) * np.float32(total / len(r))
    for c in range(3):
        plane = planes[c]
        for k in range(len(plane)):
            plane[k] = _unit(factor * plane[k] + grey)


@njit(cache=True, fastmath=FAST)
def _saturation(planes, factor):
    r, g, b = planes[0], planes[1], planes[2]
    rest = ONE - factor
    for k in range(len(r)):
        grey = rest * (RED * r[k] + GREEN * g[k] + BLUE * b[k])
        r[k], g[k], b[k] = _unit(factor * r[k] + grey), _unit(factor * g[k] + grey), _unit(factor * b[k] + grey)


@njit(cache=True, inline="always")
def _channel(high, spread, sextant, shift):
    k = shift + sextant
    k = k - SIX if k >= SIX else k
    return _unit(high - spread * _unit(min(k, np.float32(4) - k)))


@njit(cache=True, fastmath=FAST)
def _hue(planes, turns):
    r, g, b = planes[0], planes[1], planes[2]
    turn = SIX * turns
    for k in range(len(r)):
        red, green, blue = r[k], g[k], b[k]
        high, low = max(red, green, blue), min(red, green, blue)
        spread = high - low
        inverse = ONE / (spread if spread > ZERO else ONE)
        if high == red:
            sextant = (green - blue) * inverse
        elif high == green:
            sextant = (blue - red) * inverse + TWO
        else:
            sextant = (red - green) * inverse + np.float32(4)
        sextant += turn
        sextant -= SIX * math.floor(sextant / SIX)
        r[k] = _channel(high, spread, sextant, np.float32(5))
        g[k] = _channel(high, spread, sextant, np.float32(3))
        b[k] = _channel(high, spread, sextant, ONE)


@njit(cache=True, fastmath=FAST)
def _gray(planes):
    r, g, b = planes[0], planes[1], planes[2]
    for k in range(len(r)):
        grey = RED * r[k] + GREEN * g[k] + BLUE * b[k]
        r[k] = g[k] = b[k] = grey


@njit(cache=True, fastmath=FAST)
def _solarize(planes, threshold):
    for c in range(3):
        plane = planes[c]
        for k in range(len(plane)):
            plane[k] = ONE - plane[k] if plane[k] >= threshold else plane[k]


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


@njit(cache=True, fastmath=FAST)
def _normalise(planes, mean, scale, out):
    flat = out.reshape(-1, 3)
    for c in range(3):
        plane = planes[c]
        for k in range(len(plane)):
            flat[k, c] = (plane[k] - mean[c]) * scale[c]
