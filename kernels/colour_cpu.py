"""Colours in numba: what a view does with its planes of red, green and blue, float32 in [0, 1], or with tiles of them.

The loops have no branches, so that they vectorise.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from .operations import GRAY_WEIGHTS

RED, GREEN, BLUE = (np.float32(weight) for weight in GRAY_WEIGHTS)
FAST = {"contract", "reassoc", "nsz", "arcp"}  # sums may be reordered; NaN and infinity keep their meaning
ZERO, ONE, TWO, THREE, FOUR, SIX = (np.float32(number) for number in (0, 1, 2, 3, 4, 6))
CONTRAST = 1  # its number in ViewTable.order


@njit
def jitter(r, g, b, order, factors, mean, overshoot):
    """Apply the colour operations of `order`; `mean` is that of the grey image, for contrast."""
    for op in order:
        factor = factors[op]
        if op <= CONTRAST and factor != ONE:
            straight(r, g, b, factor, (ONE - factor) * mean if op == CONTRAST else ZERO)
        elif op == 2 and factor != ONE:
            saturation(r, g, b, factor)
        elif op == 3 and factor != ZERO:
            hue(r, g, b, factor, overshoot)


@njit(inline="always")
def unit(value):
    return min(max(value, ZERO), ONE)


@njit(fastmath=FAST)
def straight(r, g, b, factor, rest):
    """Brightness and contrast."""
    for k in range(len(r)):
        r[k], g[k], b[k] = unit(factor * r[k] + rest), unit(factor * g[k] + rest), unit(factor * b[k] + rest)


@njit(fastmath=FAST)
def grey_sum(r, g, b):
    total = ZERO
    for k in range(len(r)):
        total += RED * r[k] + GREEN * g[k] + BLUE * b[k]
    return total


@njit(fastmath=FAST)
def saturation(r, g, b, factor):
    for k in range(len(r)):
        grey = (ONE - factor) * (RED * r[k] + GREEN * g[k] + BLUE * b[k])
        r[k], g[k], b[k] = unit(factor * r[k] + grey), unit(factor * g[k] + grey), unit(factor * b[k] + grey)


@njit(fastmath=FAST)
def hue(r, g, b, turns, overshoot):
    """overshoot: values may lie outside [0, 1]. A constant for each of the loops, of which one is quicker."""
    if overshoot:
        _turn(r, g, b, turns, True)
    else:
        _turn(r, g, b, turns, False)


@njit(inline="always")
def _turn(r, g, b, turns, overshoot):
    """A channel is full within 1 sextant of its own hue (red 0, green 2, blue 4) and empty from 2 on. No branches."""
    for k in range(len(r)):
        red, green, blue = r[k], g[k], b[k]
        high, low = max(red, green, blue), min(red, green, blue)
        spread = high - low
        difference = green - blue if high == red else (blue - red if high == green else red - green)
        corner = ZERO if high == red else (TWO if high == green else FOUR)
        turned = (difference / (spread if spread > ZERO else ONE) + corner) / SIX + turns
        sextant = SIX * (turned - np.floor(turned))
        r[k] = _channel(low, high, unit(abs(sextant - THREE) - ONE), overshoot)
        g[k] = _channel(low, high, unit(TWO - abs(sextant - TWO)), overshoot)
        b[k] = _channel(low, high, unit(TWO - abs(sextant - FOUR)), overshoot)


@njit(inline="always")
def _channel(low, high, share, overshoot):
    value = low + (high - low) * share
    if overshoot:  # torchvision clamps all but the highest channel
        return unit(value) if share < ONE else high
    return value


@njit(fastmath=FAST)
def gray(r, g, b):
    for k in range(len(r)):
        r[k] = g[k] = b[k] = RED * r[k] + GREEN * g[k] + BLUE * b[k]


@njit(fastmath=FAST)
def solarize(r, g, b, threshold):
    for k in range(len(r)):
        r[k] = ONE - r[k] if r[k] >= threshold else r[k]
        g[k] = ONE - g[k] if g[k] >= threshold else g[k]
        b[k] = ONE - b[k] if b[k] >= threshold else b[k]


@njit(inline="always")
def _reflect(index, size):
    index = -index if index < 0 else index
    return 2 * size - 2 - index if index >= size else index


@njit(fastmath=FAST)
def blur(planes, size, sigma, taps):
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
