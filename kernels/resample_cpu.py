"""Antialiased resampling in numba: the filter of an axis, then along columns and along rows.

Pixels are indexed with unsigned numbers (`U`): for signed ones numba has to provide for Python's negative indices.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from .colour_cpu import FAST, ONE, ZERO

U = np.uintp
U1, U2, U3 = U(1), U(2), U(3)


@njit(error_model="numpy")
def axis_filter(start, length, limit, extend, outputs, radius):
    """(first pixel [outputs], weights [outputs, taps]) of the filter of reference.py, taps the same for all.

    A negative length mirrors. The taps lie in the `limit` pixels of the image; those outside the box have weight zero.
    """
    step = length / outputs
    scale = max(abs(step), 1.0)
    support = radius * scale
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
            distance = abs(pixel + 0.5 - centre) / scale
            weight = 0.0
            if low <= pixel < high:
                weight = max(0.0, 1.0 - distance) if radius == 1 else _cubic(distance)
            weights[o, t] = weight
            total += weight
        for t in range(taps):
            weights[o, t] /= total
    return first, weights


@njit(inline="always")
def _cubic(t):
    if t < 1:
        return (1.5 * t - 2.5) * t * t + 1
    return ((-0.5 * t + 2.5) * t - 4) * t + 2 if t < 2 else 0.0


@njit(fastmath=FAST)
def vertical(source, stride, first, weights, lines, pitch):
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


@njit(fastmath=FAST)
def horizontal(lines, pitch, at, weights, r, g, b):
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


@njit(inline="always")
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


@njit(fastmath=FAST)
def clipped(source, stride, y_filter, x_filter, planes):
    """All of a view, along rows and then along columns, clamped to [0, 1] after each: planes [3, size * size]."""
    (y_first, y_weights), (x_first, x_weights) = y_filter, x_filter
    size, top, unit = len(x_first), y_first.min(), np.float32(1 / 255)
    lines = np.empty((y_first.max() - top + y_weights.shape[1], 3 * size), dtype=np.float32)
    for y in range(len(lines)):
        line = source[(top + y) * stride :]
        for k in range(3 * size):
            first, total = 3 * x_first[k // 3] + k % 3, ZERO
            for t in range(x_weights.shape[1]):
                total += x_weights[k // 3, t] * np.float32(line[first + 3 * t])
            lines[y, k] = min(max(unit * total, ZERO), ONE)
    column = np.empty(3 * size, dtype=np.float32)
    for o in range(size):
        column[:] = ZERO
        for t in range(y_weights.shape[1]):
            column += y_weights[o, t] * lines[y_first[o] - top + t]
        for c in range(size):
            for k in range(3):
                planes[k, o * size + c] = min(max(column[3 * c + k], ZERO), ONE)
