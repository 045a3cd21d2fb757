"""Triton view kernel: the function of kernels/reference.py in one launch that reads the ragged batch where it lies.

One program of 4 warps makes one view, in tiles of 32 x 32 pixels that stay in registers from bytes to written pixels:

    resample    sum of wy wx pixel over the taps of both axes; the weights are reckoned on the way (view_plan.py)
    jitter      the operations in the order of the table. Contrast needs the mean of the whole view: its tiles are made
                up to the contrast, to add up their grey, and then again from the start to the end. The last tile is
                still held and not made again; so a view of one tile does nothing twice
    the rest    gray, solarize, normalise, cast, store

Scalars of the plan decide what is done, so that no pixel pays for an operation that its view does not have, and all
sizes run the same machine code: there is one for each dtype of the result and each filter, without scratch memory, with
it, and with the operations of operations_triton.py. Blur needs neighbours: the program writes its colours to scratch
planes in global memory and reads them from there. They take 12 size (size + 32) bytes for each row that blurs, 0.7 MB
at 224 pixels; where a table has operations, twice that and 3 KB for each row that blurs or has one.

Cost on sm_90, counted in its machine code, not measured: 14 instructions a pixel and tap, 3 of them loads of a byte; 16
more a pixel and row of taps; 43 for hue, 15 for another operation, 84 for the rest; 38 a tap of the blur. SimAugment at
224 pixels from 400 takes some 600 instructions a pixel, at 32 from 32 some 240. With 132 x 128 lanes at 1.7 GHz, all of
them busy, that is 0.95 million views a second, and 0.14 ms for 16,384 views. 96 registers let 5 programs share a
multiprocessor. Memory is no limit: 150,000 views of 224 pixels a second in bfloat16 read and write 0.1 TB. But the taps
grow with the square of the shrinking, from 9 for a box of 300 pixels to 324 for one of 2,000.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import triton_cache  # noqa: F401 (acts when it is imported)
from .colour_triton import TILE, gray_of, jitter, solarized, store, unit
from .operations_triton import TABLES, operate
from .reference import blur_taps
from .view_plan import Plan, make_plan

UNIT = tl.constexpr(2.0**-32)  # of the fixed-point places


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
    device: torch.device | None = None,
) -> Tensor:
    """As `reference.views` (same arguments, result and errors), on a GPU, for any dtype below float64.

    Nothing waits for the GPU, unless columns of the batch lie there: sizes are checked on the host.

    Args:
        device: where the views are made; default where the pixels are. Pixels on the host must be page-locked. They are
            read in place, and must stay as they are until the kernel has run.
    """
    device = batch.pixels.device if device is None else device
    if len(batch) == len(table) == 0:
        return torch.empty((0, 3, size, size), dtype=dtype, device=device)
    plan = make_plan(batch, table, size, interpolation, clip)
    if device.type == "cuda" and batch.pixels.device.type == "cpu" and not batch.pixels.is_pinned():
        raise ValueError("a GPU reads pixels on the host only where they are page-locked")
    return launch(batch.pixels, plan.to(device), mean=mean, std=std, dtype=dtype)


def launch(pixels: Tensor, plan: Plan, *, mean, std, dtype: torch.dtype = torch.float32) -> Tensor:
    """The views of a plan, made where the plan lies: nothing but a launch, which a CUDA graph can hold.

    Before a replay, `plan.update` gives the graph other rows. One whose rows may blur or not is captured with
    `dataclasses.replace(plan, slots=plan.rows)`.
    """
    size, device = plan.size, plan.words.device
    out = torch.empty((plan.rows, size, size, 3), dtype=dtype, device=device)
    scratch = None
    if plan.slots:
        planes = 3 * size * (size + TILE.value)
        each = 2 * planes + TABLES.value if plan.programs else planes
        scratch = torch.empty((plan.slots, each), dtype=torch.float32, device=device)
    with torch.cuda.device_of(out):
        _views[(plan.rows,)](
            pixels,
            *plan.columns(),
            out,
            scratch,
            plan.images,
            plan.rows,
            size,
            blur_taps(size) // 2,
            tuple(float(value) for value in mean),
            tuple(1 / float(value) for value in std),
            plan.radius,
            plan.clip,
            num_warps=4,
            num_stages=1,
            enable_fp_fusion=True,
            maxnreg=128 if plan.programs or plan.clip else None,  # left alone: 219 and 164, for more loads under way
        )
    return out.permute(0, 3, 1, 2)


@triton.jit(do_not_specialize=["pixels", "longs", "ints", "floats", "programs", "images", "rows", "size", "half"])
def _views(
    pixels,
    longs,
    ints,
    floats,
    programs,
    out,
    scratch,
    images,
    rows,
    size,
    half,
    mean,
    scale,
    radius: tl.constexpr,
    clip: tl.constexpr,
):
    row = tl.program_id(0)
    image = row % images
    source = pixels + tl.load(longs + image)
    stride = tl.load(ints + image)
    longs += images + row  # the columns of the table: see Plan.words
    ints += images + row
    floats += row
    y_first, x_first = tl.load(longs), tl.load(longs + rows)
    y_step, x_step = tl.load(longs + 2 * rows), tl.load(longs + 3 * rows)
    y_low, x_low = tl.load(ints), tl.load(ints + rows)
    y_high, x_high = tl.load(ints + 2 * rows), tl.load(ints + 3 * rows)
    flip, gray = tl.load(ints + 4 * rows), tl.load(ints + 5 * rows)
    contrast_at, order = tl.load(ints + 6 * rows), tl.load(ints + 7 * rows)
    slot = tl.load(ints + 8 * rows)
    brightness, contrast = tl.load(floats), tl.load(floats + rows)
    saturation, hue = tl.load(floats + 2 * rows), tl.load(floats + 3 * rows)
    sigma, solarize = tl.load(floats + 4 * rows), tl.load(floats + 5 * rows)
    factors = (brightness, contrast, saturation, hue)
    view = out + row.to(tl.int64) * (3 * size * size)
    apart = size * (size + TILE)
    planes = scratch
    if programs is not None:
        planes += slot.to(tl.int64) * (6 * apart + TABLES)
    elif scratch is not None:
        planes += slot.to(tl.int64) * (3 * apart)

    across = tl.cdiv(size, TILE)
    last = across * across - 1
    grey = tl.zeros([TILE, TILE], tl.float32)
    average = 0.0
    # turns 0 ... last add up the grey, turns last ... 2 last make the view; tile `last` does both at once
    for turn in range(tl.where(contrast != 1.0, 0, last), 2 * last + 1):
        tile = turn % (last + 1)
        y = tile // across * TILE + tl.arange(0, TILE)[:, None]
        x = tile % across * TILE + tl.arange(0, TILE)[None, :]
        inside = (y < size) & (x < size)
        column = tl.minimum(x, size - 1)
        column = tl.where(flip != 0, size - 1 - column, column)
        y_axis = _axis(y_first + y_step * tl.minimum(y, size - 1), y_step, y_low, y_high, radius)
        x_axis = _axis(x_first + x_step * column, x_step, x_low, x_high, radius)
        r, g, b = _resample(source, stride, y_axis, x_axis, radius, clip)
        r, g, b = jitter(r, g, b, order, 0, contrast_at, factors, 0.0)
        if turn <= last:
            grey += tl.where(inside, gray_of(r, g, b), 0.0)
        if turn == last:
            average = tl.sum(grey) / (size * size)
        if turn >= last:
            r, g, b = jitter(r, g, b, order, contrast_at, 4, factors, average)
            if slot < 0:
                _finish(view, r, g, b, y, x, size, gray, solarize, mean, scale)
            elif scratch is not None:
                store(planes + y * size + x, apart, r, g, b, inside)
    if scratch is not None and slot >= 0:
        tl.debug_barrier()
        if programs is not None:
            operate(planes, programs + row, rows, size)
        half, sigma = tl.where(sigma > 0.0, half, 0), tl.where(sigma > 0.0, sigma, 1.0)  # one tap changes nothing
        _blur(planes, view, size, half, sigma, gray, solarize, mean, scale)


@triton.jit
def _axis(place, step, low, high, radius: tl.constexpr):
    """What `_tap` needs of outputs whose taps begin at `place`, fixed point: [n, 1] or [1, n]."""
    scale = tl.maximum(step.to(tl.float32) * UNIT, 1.0)
    support = radius * scale
    fraction = place.to(tl.uint32).to(tl.float32) * UNIT
    pixel = (place >> 32).to(tl.int32)
    return pixel, 1.0 - fraction - support, 1.0 / scale, tl.ceil(2.0 * support).to(tl.int32), low, high


@triton.jit
def _tap(axis, tap, radius: tl.constexpr):
    """(pixel, weight before normalisation) of tap number `tap`; where there is no pixel, one nearby with weight 0."""
    pixel, distance, inverse, _, low, high = axis
    j = pixel + tap
    t = tl.abs(distance + tap) * inverse
    if radius == 1:
        weight = tl.maximum(1.0 - t, 0.0)
    else:
        far = ((-0.5 * t + 2.5) * t - 4.0) * t + 2.0
        weight = tl.where(t < 1.0, (1.5 * t - 2.5) * t * t + 1.0, tl.where(t < 2.0, far, 0.0))
    return tl.minimum(tl.maximum(j, low), high - 1), tl.where((j >= low) & (j < high), weight, 0.0)


@triton.jit
def _total(axis, radius: tl.constexpr):
    _, total = _tap(axis, 0, radius)
    for tap in range(1, axis[3]):
        _, weight = _tap(axis, tap, radius)
        total += weight
    return total


@triton.jit
def _resample(source, stride, y_axis, x_axis, radius: tl.constexpr, clip: tl.constexpr):
    """Red, green, blue [TILE, TILE]; in [0, 1], but for what bicubic overshoots without `clip`."""
    y_norm, x_norm = 1.0 / _total(y_axis, radius), 1.0 / (255.0 * _total(x_axis, radius))
    r = tl.zeros([TILE, TILE], tl.float32)
    g, b = r, r
    for i in range(y_axis[3]):
        y, wy = _tap(y_axis, i, radius)
        line = source + y * stride
        wy *= y_norm
        if clip:
            red, green, blue = _along_line(line, x_axis, x_norm, radius)
            r, g, b = r + wy * unit(red), g + wy * unit(green), b + wy * unit(blue)
        else:
            for j in range(x_axis[3]):
                x, wx = _tap(x_axis, j, radius)
                weight = wy * (wx * x_norm)
                at = line + 3 * x
                r += weight * tl.load(at).to(tl.float32)
                g += weight * tl.load(at + 1).to(tl.float32)
                b += weight * tl.load(at + 2).to(tl.float32)
    if clip:
        r, g, b = unit(r), unit(g), unit(b)
    return r, g, b


@triton.jit
def _along_line(line, x_axis, x_norm, radius: tl.constexpr):
    """The resampled pixels of one line for each output."""
    r = tl.zeros([TILE, TILE], tl.float32)
    g, b = r, r
    for j in range(x_axis[3]):
        x, wx = _tap(x_axis, j, radius)
        weight = wx * x_norm
        at = line + 3 * x
        r += weight * tl.load(at).to(tl.float32)
        g += weight * tl.load(at + 1).to(tl.float32)
        b += weight * tl.load(at + 2).to(tl.float32)
    return r, g, b


@triton.jit
def _finish(view, r, g, b, y, x, size, gray, solarize, mean, scale):
    """Gray, solarize, normalise and write pixels (y, x) of an NHWC view."""
    if gray != 0:
        r = gray_of(r, g, b)
        g, b = r, r
    if solarize <= 1.0:
        r, g, b = solarized(r, solarize), solarized(g, solarize), solarized(b, solarize)
    r, g, b = (r - mean[0]) * scale[0], (g - mean[1]) * scale[1], (b - mean[2]) * scale[2]
    store(view + (y * size + x) * 3, 1, r, g, b, (y < size) & (x < size))


@triton.jit
def _blur(planes, view, size, half, sigma, gray, solarize, mean, scale):
    """Gaussian with reflected borders of the colours in `planes` [3, size + TILE, size], then finish.

    A band of TILE rows at a time: vertically into the last TILE rows of the planes, from there horizontally.
    """
    apart = size * (size + TILE)
    total = 0.0
    for tap in range(2 * half + 1):
        total += _gauss(tap - half, sigma)
    for top in range(0, size, TILE):
        y = top + tl.arange(0, TILE)[:, None]
        row = tl.minimum(y, size - 1)
        band = planes + (size + y - top) * size
        for left in range(0, size, TILE):
            x = left + tl.arange(0, TILE)[None, :]
            column = tl.minimum(x, size - 1)
            r, g, b = _convolve(planes + column, row, size, apart, size, half, sigma, total)
            store(band + x, apart, r, g, b, x < size)
        tl.debug_barrier()
        for left in range(0, size, TILE):
            x = left + tl.arange(0, TILE)[None, :]
            column = tl.minimum(x, size - 1)
            r, g, b = _convolve(band, column, 1, apart, size, half, sigma, total)
            _finish(view, r, g, b, y, x, size, gray, solarize, mean, scale)
        tl.debug_barrier()


@triton.jit
def _convolve(at, place, pitch, apart, size, half, sigma, total):
    """Blur along one axis: of outputs at `place` on lines of elements `pitch` apart that begin at `at`."""
    r = tl.zeros([TILE, TILE], tl.float32)
    g, b = r, r
    for tap in range(2 * half + 1):
        weight = _gauss(tap - half, sigma) / total
        pixel = at + _reflect(place + tap - half, size) * pitch
        r += weight * tl.load(pixel)
        g += weight * tl.load(pixel + apart)
        b += weight * tl.load(pixel + 2 * apart)
    return r, g, b


@triton.jit
def _gauss(distance, sigma):
    return tl.exp(-0.5 * (distance / sigma) * (distance / sigma))


@triton.jit
def _reflect(index, size):
    index = tl.abs(index)
    return tl.minimum(index, 2 * size - 2 - index)
