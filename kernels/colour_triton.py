"""Colours in Triton: what a view does with tiles of red, green and blue, float32 in [0, 1]."""

from __future__ import annotations

import triton
import triton.language as tl

from .operations import GRAY_WEIGHTS

TILE = tl.constexpr(32)
RED, GREEN, BLUE = (tl.constexpr(weight) for weight in GRAY_WEIGHTS)


@triton.jit
def jitter(r, g, b, order, begin, end, factors, average):
    """Operations `begin` ... `end` - 1. All but hue blend with a grey: black, the average, or the pixel's own."""
    brightness, contrast, saturation, hue = factors
    for position in range(begin, end):
        op = order >> 2 * position & 3
        if op == 3:
            if hue != 0.0:
                r, g, b = turn_hue(r, g, b, hue)
        else:
            factor = tl.where(op == 0, brightness, tl.where(op == 1, contrast, saturation))
            if factor != 1.0:
                other = tl.where(op == 2, gray_of(r, g, b), tl.where(op == 1, average, 0.0))
                rest = (1.0 - factor) * other
                r, g, b = unit(factor * r + rest), unit(factor * g + rest), unit(factor * b + rest)
    return r, g, b


@triton.jit
def unit(x):
    return tl.minimum(tl.maximum(x, 0.0), 1.0)


@triton.jit
def gray_of(r, g, b):
    return RED * r + GREEN * g + BLUE * b


@triton.jit
def turn_hue(r, g, b, turns):
    """As in reference.py."""
    high, low = tl.maximum(tl.maximum(r, g), b), tl.minimum(tl.minimum(r, g), b)
    spread = high - low
    inverse = 1.0 / tl.where(spread == 0.0, 1.0, spread)
    of_green, of_blue = (b - r) * inverse + 2.0, (r - g) * inverse + 4.0
    sextant = tl.where(high == r, (g - b) * inverse, tl.where(high == g, of_green, of_blue)) + 6.0 * turns
    sextant -= 6.0 * tl.floor(sextant * (1.0 / 6.0))
    r, g, b = sextant + 5.0, sextant + 3.0, sextant + 1.0
    return _turned(high, spread, r), _turned(high, spread, g), _turned(high, spread, b)


@triton.jit
def _turned(high, spread, k):
    k = tl.where(k >= 6.0, k - 6.0, k)
    share = unit(tl.minimum(k, 4.0 - k))
    return tl.where(share > 0.0, unit(high - spread * share), high)


@triton.jit
def solarized(x, threshold):
    return tl.where(x >= threshold, 1.0 - x, x)


@triton.jit
def store(at, apart, r, g, b, mask):
    """Store three channels that lie `apart` elements apart, in the dtype of the pointer."""
    dtype = at.dtype.element_ty
    tl.store(at, r.to(dtype), mask)
    tl.store(at + apart, g.to(dtype), mask)
    tl.store(at + 2 * apart, b.to(dtype), mask)
