"""The random numbers of view tables in numba: one Philox block after another, as many as a row needs.

Only operations that IEEE 754 rounds in one way (+, -, *, /, sqrt) make a number of the table, and none is fused: the
same bits on every machine, which the exp of a C library or of a vector unit does not promise.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fastvarcon.kernels.numba_cache import cached_njit

CROP_TRIES = 10  # torchvision's RandomResizedCrop gives up after as many
SWITCHES, FACTORS, REST, PAIR, SIGNS = range(CROP_TRIES, CROP_TRIES + 5)  # Philox blocks after those of the crop
NO_SOLARIZE = 2.0  # a threshold above every pixel value
_LOW, _SHIFT, _EIGHT = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(8)
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_UNIT = 2.0**-24


class Ranges(NamedTuple):
    """A policy as numba takes it: float64, and the pairs of operations as auto_augment.as_arrays gives them."""

    scale: tuple[float, float]
    ratio: tuple[float, float]
    log_ratio: tuple[float, float]
    flip: float
    jitter: float
    strengths: tuple[float, float, float, float]
    """Of brightness, contrast, saturation, hue."""
    gray: float
    blur: float
    blur_sigma: tuple[float, float]
    solarize: float
    solarize_threshold: float
    pair_ops: np.ndarray
    pair_probabilities: np.ndarray
    pair_magnitudes: np.ndarray


class Columns(NamedTuple):
    """Arrays of n rows that `draw` fills; the columns of a ViewTable."""

    box: np.ndarray
    flip: np.ndarray
    order: np.ndarray
    brightness: np.ndarray
    contrast: np.ndarray
    saturation: np.ndarray
    hue: np.ndarray
    gray: np.ndarray
    blur_sigma: np.ndarray
    solarize: np.ndarray
    ops: np.ndarray
    magnitudes: np.ndarray


@cached_njit(nogil=True, error_model="numpy")
def draw(seed, epoch, view, ids, heights, widths, ranges, orders, out):
    """Fill the rows of `out`, whose ops and magnitudes hold zeros.

    seed, epoch, view: uint64; ids, heights, widths: [n] uint64, int64, int64; orders: [24, 4] uint8.
    """
    first = view << np.uint64(16)
    for row in range(len(ids)):
        counter = first, epoch, ids[row] & _LOW, ids[row] >> _SHIFT
        _crop(counter, seed, heights[row], widths[row], ranges, row, out.box)
        flip, jitter, gray, blur = _uniforms(counter, SWITCHES, seed)
        out.flip[row] = flip < ranges.flip
        out.gray[row] = gray < ranges.gray
        order, sigma, solarize, _ = _uniforms(counter, REST, seed)
        which = int(order * len(orders))
        for position in range(4):
            out.order[row, position] = orders[which, position]
        low, high = ranges.blur_sigma
        out.blur_sigma[row] = low + (high - low) * sigma if blur < ranges.blur else 0.0
        out.solarize[row] = ranges.solarize_threshold if solarize < ranges.solarize else NO_SOLARIZE
        out.brightness[row] = out.contrast[row] = out.saturation[row] = 1.0
        out.hue[row] = 0.0
        if jitter < ranges.jitter:
            brightness, contrast, saturation, hue = _uniforms(counter, FACTORS, seed)
            out.brightness[row] = _factor(brightness, ranges.strengths[0])
            out.contrast[row] = _factor(contrast, ranges.strengths[1])
            out.saturation[row] = _factor(saturation, ranges.strengths[2])
            out.hue[row] = (2 * hue - 1) * ranges.strengths[3]
        if len(ranges.pair_ops):
            _operations(counter, seed, ranges, row, out.ops, out.magnitudes)


@cached_njit(nogil=True, error_model="numpy")
def _operations(counter, seed, ranges, row, ops, magnitudes):
    chance = _uniforms(counter, PAIR, seed)
    signs = _uniforms(counter, SIGNS, seed)
    pair = int(chance[2] * len(ranges.pair_ops))
    for step in range(2):
        if chance[step] < ranges.pair_probabilities[pair, step]:
            ops[row, step] = ranges.pair_ops[pair, step]
            magnitudes[row, step] = ranges.pair_magnitudes[pair, step, 0 if signs[step] < 0.5 else 1]


@cached_njit(nogil=True, error_model="numpy")
def _crop(counter, seed, height, width, ranges, row, box):
    """torchvision.transforms.RandomResizedCrop.get_params. Writes y, x, height, width."""
    for attempt in range(CROP_TRIES):
        area, ratio, y, x = _uniforms(counter, attempt, seed)
        area = float(height) * width * (ranges.scale[0] + (ranges.scale[1] - ranges.scale[0]) * area)
        ratio = _exp(ranges.log_ratio[0] + (ranges.log_ratio[1] - ranges.log_ratio[0]) * ratio)
        w, h = np.rint(math.sqrt(area * ratio)), np.rint(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            box[row, 0], box[row, 1] = math.floor(y * (height - h + 1)), math.floor(x * (width - w + 1))
            box[row, 2], box[row, 3] = h, w
            return
    # the largest central crop whose aspect ratio is within bounds
    low, high = ranges.ratio
    aspect = width / height
    w = np.rint(height * high) if aspect > high else float(width)
    h = np.rint(width / low) if aspect < low else float(height)
    box[row, 0], box[row, 1] = math.floor((height - h) / 2), math.floor((width - w) / 2)
    box[row, 2], box[row, 3] = h, w


@cached_njit(nogil=True, error_model="numpy")
def _factor(u, strength):
    low = max(0.0, 1 - strength)
    return low + (1 + strength - low) * u


@cached_njit(nogil=True, error_model="numpy")
def _exp(x):
    """Of |x| up to 3, to 1e-10: the series of exp(x / 16), squared four times."""
    x /= 16
    total = 1.0
    for k in range(8, 0, -1):
        total = 1 + total * (x * (1 / k))
    for _ in range(4):
        total *= total
    return total


@cached_njit(nogil=True, error_model="numpy")
def _uniforms(counter, block, key):
    """philox.philox4x32 and philox.uniforms for one counter: four numbers in [0, 1), multiples of 2**-24."""
    c0, c1, c2, c3 = counter
    c0 += np.uint64(block)
    k0, k1 = key & _LOW, key >> _SHIFT
    for _ in range(10):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (p1 >> _SHIFT) ^ c1 ^ k0, p1 & _LOW, (p0 >> _SHIFT) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return (c0 >> _EIGHT) * _UNIT, (c1 >> _EIGHT) * _UNIT, (c2 >> _EIGHT) * _UNIT, (c3 >> _EIGHT) * _UNIT
