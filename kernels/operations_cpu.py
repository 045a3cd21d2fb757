"""The operations of operations.py in numba, over the planes of one view."""

from __future__ import annotations

import numpy as np
from numba import njit

from .colour_cpu import FAST, ONE, ZERO, grey_sum, saturation, solarize, straight, unit
from .operations import (
    AFFINE,
    AUTOCONTRAST,
    BRIGHTNESS,
    COLOR,
    CONTRAST,
    EQUALIZE,
    INVERT,
    LEVELS,
    POSTERIZE,
    SHARPNESS,
    SOLARIZE,
)

U = np.uintp
U1 = U(1)
LEVELS_32, TOP = np.float32(LEVELS), np.float32(255)
SIDE, MIDDLE = np.float32(1 / 13), np.float32(4 / 13)  # of the 3 x 3 average; the middle pixel has 1/13 + 4/13


@njit
def operate(planes, spare, size, op, magnitude, matrix):
    """Operation `op` on planes [3, size * size]; returns the planes of the result, and the others."""
    r, g, b = planes
    if op == BRIGHTNESS:
        straight(r, g, b, magnitude, ZERO)
    elif op == CONTRAST:
        straight(r, g, b, magnitude, (ONE - magnitude) * np.float32(grey_sum(r, g, b) / len(r)))
    elif op == COLOR:
        saturation(r, g, b, magnitude)
    elif op == SOLARIZE:
        solarize(r, g, b, magnitude)
    elif op == INVERT:
        solarize(r, g, b, np.float32(-np.inf))
    elif op == SHARPNESS and size > 2:
        for c in range(3):
            _sharpness(planes[c].reshape(size, size), spare[c].reshape(size, size), magnitude)
        return spare, planes
    elif op >= AFFINE:
        _affine(planes, spare, size, matrix)
        return spare, planes
    else:
        for c in range(3):
            if op == POSTERIZE:
                _posterize(planes[c], magnitude)
            elif op == AUTOCONTRAST:
                _autocontrast(planes[c])
            elif op == EQUALIZE:
                _equalize(planes[c])
    return planes, spare


@njit(fastmath=FAST)
def _sharpness(plane, out, factor):
    last = len(plane) - 1
    for y in range(last + 1):
        for x in range(last + 1):
            out[y, x] = unit(plane[y, x])
    for y in range(1, last):
        for x in range(1, last):
            total = ZERO
            for dy in range(-1, 2):
                total += plane[y + dy, x - 1] + plane[y + dy, x] + plane[y + dy, x + 1]
            average = SIDE * total + MIDDLE * plane[y, x]
            out[y, x] = unit(factor * plane[y, x] + (ONE - factor) * average)


@njit(fastmath=FAST)
def _posterize(plane, levels):
    for k in range(len(plane)):
        plane[k] = min(max(np.floor(plane[k] * levels), ZERO), levels - ONE) / levels


@njit(fastmath=FAST)
def _autocontrast(plane):
    low = high = plane[0]
    for k in range(len(plane)):
        low, high = min(low, plane[k]), max(high, plane[k])
    if low == high:
        low, high = ZERO, ONE
    scale = ONE / (high - low)
    for k in range(len(plane)):
        plane[k] = unit((plane[k] - low) * scale)


@njit
def _equalize(plane):
    count = np.zeros(256, dtype=np.int64)
    for k in range(len(plane)):
        count[_level(plane[k])] += 1
    last = 255
    while count[last] == 0:
        last -= 1
    step = (len(plane) - count[last]) // 255
    table = np.arange(256).astype(np.float32)
    below = 0
    for level in range(256):
        if step > 0:
            table[level] = min((below + step // 2) // step, 255)
        below += count[level]
    table /= TOP
    for k in range(len(plane)):
        plane[k] = table[_level(plane[k])]


@njit(inline="always")
def _level(value):
    return np.uintp(min(max(value * LEVELS_32, ZERO), TOP))


@njit(fastmath=FAST)
def _affine(planes, out, size, matrix):
    """Bilinear, black outside: source (x, y) = matrix (x, y, 1). A black frame spares every pixel the question."""
    pitch = size + 3
    framed = np.zeros((3, pitch, pitch), dtype=np.float32)
    for c in range(3):
        for y in range(size):
            for x in range(size):
                framed[c, y + 1, x + 1] = planes[c, y * size + x]
    red, green, blue = framed.reshape(3, pitch * pitch)
    r, g, b = out
    most = np.float32(size + 1)
    k = U(0)
    for y in range(size):
        row = np.float32(y)
        from_x, from_y = matrix[0, 1] * row + matrix[0, 2] + ONE, matrix[1, 1] * row + matrix[1, 2] + ONE
        for x in range(size):
            source_x = min(max(from_x + matrix[0, 0] * np.float32(x), ZERO), most)
            source_y = min(max(from_y + matrix[1, 0] * np.float32(x), ZERO), most)
            left, top = np.int32(source_x), np.int32(source_y)
            at = U(top * pitch + left)
            right_share, lower_share = source_x - np.float32(left), source_y - np.float32(top)
            r[k] = _between(red, at, U(pitch), right_share, lower_share)
            g[k] = _between(green, at, U(pitch), right_share, lower_share)
            b[k] = _between(blue, at, U(pitch), right_share, lower_share)
            k += U1


@njit(inline="always")
def _between(plane, at, pitch, right_share, lower_share):
    """Between the pixel `at` and those to the right of it and below."""
    below = at + pitch
    upper = plane[at] + right_share * (plane[at + U1] - plane[at])
    lower = plane[below] + right_share * (plane[below + U1] - plane[below])
    return upper + lower_share * (lower - upper)
