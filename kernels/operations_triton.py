"""The operations of operations.py in Triton, over planes of one view in scratch memory.

Scratch of a row: planes [3, size + TILE, size], as many again, and three tables of 256 levels. The first operation
reads the first planes and writes the second, the second one back.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import operations as names
from .colour_triton import TILE, gray_of, solarized, store, unit

TABLES = tl.constexpr(3 * 256)
LEVELS = tl.constexpr(names.LEVELS)
BRIGHTNESS, CONTRAST, COLOR = (tl.constexpr(op) for op in (names.BRIGHTNESS, names.CONTRAST, names.COLOR))
SHARPNESS, POSTERIZE, SOLARIZE = (tl.constexpr(op) for op in (names.SHARPNESS, names.POSTERIZE, names.SOLARIZE))
AUTOCONTRAST, EQUALIZE, INVERT = (tl.constexpr(op) for op in (names.AUTOCONTRAST, names.EQUALIZE, names.INVERT))
AFFINE = tl.constexpr(names.AFFINE)


@triton.jit
def operate(planes, program, rows, size):
    """Both operations of a row; `program` points at its column, see Plan.words."""
    apart = size * (size + TILE)
    if tl.load(program) + tl.load(program + rows) > 0.0:
        for step in range(2):
            op = tl.load(program + step * rows).to(tl.int32)
            magnitude = tl.load(program + (2 + step) * rows)
            matrix = program + (4 + 6 * step) * rows
            source, target = planes + step * 3 * apart, planes + (1 - step) * 3 * apart
            if op >= AFFINE:
                _affine(source, target, matrix, rows, size)
            else:
                _recolour(source, target, planes + 6 * apart, op, magnitude, size)
            tl.debug_barrier()


@triton.jit
def _recolour(source, target, tables, op, magnitude, size):
    """The operations that do not move pixels."""
    apart = size * (size + TILE)
    average = 0.0
    r_low, g_low, b_low = 0.0, 0.0, 0.0
    r_scale, g_scale, b_scale = 1.0, 1.0, 1.0
    if op == CONTRAST:
        average = _average(source, size)
    elif op == AUTOCONTRAST:
        r_low, r_scale = _range(source, size)
        g_low, g_scale = _range(source + apart, size)
        b_low, b_scale = _range(source + 2 * apart, size)
    elif op == EQUALIZE:
        for c in range(3):
            _equalized(source + c * apart, tables + c * 256, size)
        tl.debug_barrier()
    across = tl.cdiv(size, TILE)
    for tile in range(across * across):
        y, x, inside = _tile(tile, size)
        r, g, b = _load(source + y * size + x, apart, inside)
        if op == SHARPNESS:
            sr, sg, sb = _smooth(source, y, x, r, g, b, size)
            r, g, b = _blend(r, sr, magnitude), _blend(g, sg, magnitude), _blend(b, sb, magnitude)
        elif op == POSTERIZE:
            r, g, b = _posterize(r, magnitude), _posterize(g, magnitude), _posterize(b, magnitude)
        elif op == AUTOCONTRAST:
            r, g, b = unit((r - r_low) * r_scale), unit((g - g_low) * g_scale), unit((b - b_low) * b_scale)
        elif op == EQUALIZE:
            r, g = tl.load(tables + _level(r)), tl.load(tables + 256 + _level(g))
            b = tl.load(tables + 512 + _level(b))
        elif (op == SOLARIZE) | (op == INVERT):
            threshold = tl.where(op == INVERT, -float("inf"), magnitude)
            r, g, b = solarized(r, threshold), solarized(g, threshold), solarized(b, threshold)
        elif op > 0:
            other = tl.where(op == COLOR, gray_of(r, g, b), tl.where(op == CONTRAST, average, 0.0))
            r, g, b = _blend(r, other, magnitude), _blend(g, other, magnitude), _blend(b, other, magnitude)
        store(target + y * size + x, apart, r, g, b, inside)


@triton.jit
def _tile(tile, size):
    across = tl.cdiv(size, TILE)
    y = tile // across * TILE + tl.arange(0, TILE)[:, None]
    x = tile % across * TILE + tl.arange(0, TILE)[None, :]
    return y, x, (y < size) & (x < size)


@triton.jit
def _load(at, apart, mask):
    return tl.load(at, mask, 0.0), tl.load(at + apart, mask, 0.0), tl.load(at + 2 * apart, mask, 0.0)


@triton.jit
def _blend(x, other, factor):
    return unit(factor * x + (1.0 - factor) * other)


@triton.jit
def _posterize(x, levels):
    return tl.minimum(tl.maximum(tl.floor(x * levels), 0.0), levels - 1.0) / levels


@triton.jit
def _level(x):
    return tl.minimum(tl.maximum(x * LEVELS, 0.0), 255.0).to(tl.int32)


@triton.jit
def _average(source, size):
    """Of the grey image."""
    across = tl.cdiv(size, TILE)
    total = tl.zeros([TILE, TILE], tl.float32)
    for tile in range(across * across):
        y, x, inside = _tile(tile, size)
        r, g, b = _load(source + y * size + x, size * (size + TILE), inside)
        total += gray_of(r, g, b)
    return tl.sum(total) / (size * size)


@triton.jit
def _range(plane, size):
    """(lowest value, 1 / (highest - lowest)) of a plane; of a flat one (0, 1)."""
    across = tl.cdiv(size, TILE)
    low = tl.full([TILE, TILE], float("inf"), tl.float32)
    high = -low
    for tile in range(across * across):
        y, x, inside = _tile(tile, size)
        low = tl.minimum(low, tl.load(plane + y * size + x, inside, float("inf")))
        high = tl.maximum(high, tl.load(plane + y * size + x, inside, -float("inf")))
    lowest, highest = tl.min(low), tl.max(high)
    flat = lowest == highest
    return tl.where(flat, 0.0, lowest), 1.0 / tl.where(flat, 1.0, highest - lowest)


@triton.jit
def _equalized(plane, table, size):
    """Write what becomes of each level of a plane."""
    across = tl.cdiv(size, TILE)
    count = tl.zeros([256], tl.int32)
    for tile in range(across * across):
        y, x, inside = _tile(tile, size)
        level = _level(tl.load(plane + y * size + x, inside, 0.0))
        count += tl.histogram(tl.reshape(level, [TILE * TILE]), 256, mask=tl.reshape(inside, [TILE * TILE]))
    level = tl.arange(0, 256)
    last = tl.max(tl.where(count > 0, level, 0))
    step = (size * size - tl.sum(tl.where(level == last, count, 0))) // 255
    below = tl.cumsum(count) - count
    becomes = tl.where(step > 0, tl.minimum((below + step // 2) // tl.maximum(step, 1), 255), level)
    tl.store(table + level, becomes.to(tl.float32) / 255.0)


@triton.jit
def _smooth(source, y, x, r, g, b, size):
    """The 3 x 3 average around pixels (y, x), whose values are r, g, b; on the border their own values."""
    apart = size * (size + TILE)
    border = (y < 1) | (y > size - 2) | (x < 1) | (x > size - 2)
    sr, sg, sb = r * (4.0 / 13.0), g * (4.0 / 13.0), b * (4.0 / 13.0)
    for neighbour in range(9):
        at = source + (y + neighbour // 3 - 1) * size + (x + neighbour % 3 - 1)
        nr, ng, nb = _load(at, apart, border == 0)
        sr += nr * (1.0 / 13.0)
        sg += ng * (1.0 / 13.0)
        sb += nb * (1.0 / 13.0)
    return tl.where(border, r, sr), tl.where(border, g, sg), tl.where(border, b, sb)


@triton.jit
def _affine(source, target, matrix, rows, size):
    """Bilinear, black outside: source (x, y) = matrix (x, y, 1). A channel at a time, for want of registers."""
    across = tl.cdiv(size, TILE)
    for tile in range(across * across):
        y, x, inside = _tile(tile, size)
        source_x = tl.load(matrix) * x + tl.load(matrix + rows) * y + tl.load(matrix + 2 * rows)
        source_y = tl.load(matrix + 3 * rows) * x + tl.load(matrix + 4 * rows) * y + tl.load(matrix + 5 * rows)
        left, top = tl.floor(source_x), tl.floor(source_y)
        right_share, lower_share = source_x - left, source_y - top
        from_x, from_y = left.to(tl.int32), top.to(tl.int32)
        for c in range(3):
            plane = source + c * size * (size + TILE)
            upper = _between(plane, from_y, from_x, right_share, size)
            lower = _between(plane, from_y + 1, from_x, right_share, size)
            at = target + c * size * (size + TILE) + y * size + x
            tl.store(at, upper + lower_share * (lower - upper), inside)


@triton.jit
def _between(plane, y, x, share, size):
    """In row y, between pixels x and x + 1."""
    at = plane + y * size + x
    there = (y >= 0) & (y < size)
    left = tl.load(at, there & (x >= 0) & (x < size), 0.0)
    right = tl.load(at + 1, there & (x >= -1) & (x < size - 1), 0.0)
    return left + share * (right - left)
