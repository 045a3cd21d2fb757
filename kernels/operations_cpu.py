"""The operations of operations.py in numba, over the planes of one view."""

from __future__ import annotations

import math

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
        for c in range(3):
            _affine(planes[c].reshape(size, size), spare[c].reshape(size, size), matrix)
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
    out[:] = plane
    for y in range(1, last):
        for x in range(1, last):
            total = ZERO
            for dy in range(-1, 2):
                total += plane[y + dy, x - 1] + plane[y + dy, x] + plane[y + dy, x + 1]
            average = SIDE * total + MIDDLE * plane[y, x]
            out[y, x] = factor * plane[y, x] + (ONE - factor) * average
    for y in range(last + 1):
        for x in range(last + 1):
            out[y, x] = unit(out[y, x])


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


@njit
def _affine(plane, out, matrix):
    """Bilinear, black outside: source (x, y) = matrix (x, y, 1)."""
    size = len(plane)
    for y in range(size):
        row = np.float32(y)
        from_x, from_y = matrix[0, 1] * row + matrix[0, 2], matrix[1, 1] * row + matrix[1, 2]
        for x in range(size):
            source_x, source_y = from_x + matrix[0, 0] * np.float32(x), from_y + matrix[1, 0] * np.float32(x)
            left, top = math.floor(source_x), math.floor(source_y)
            right_share, lower_share = source_x - np.float32(left), source_y - np.float32(top)
            upper = _between(plane, top, left, right_share)
            lower = _between(plane, top + 1, left, right_share)
            out[y, x] = upper + lower_share * (lower - upper)


@njit(inline="always")
def _between(plane, y, x, share):
    """In row y, between pixels x and x + 1."""
    size = len(plane)
    left = plane[y, x] if 0 <= y < size and 0 <= x < size else ZERO
    right = plane[y, x + 1] if 0 <= y < size and -1 <= x < size - 1 else ZERO
    return left + share * (right - left)
