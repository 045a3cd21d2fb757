"""Plain-torch view kernel, any dtype, any device: what every faster version is measured against.

A view of an image is, in this order (semantics of torchvision v2 on float tensors in [0, 1], antialias=True):

    crop + resize   out = Wy @ image @ Wx^T per channel, antialiased resampling with a filter f:
                    W[o, j] ~ f(|j + 1/2 - c_o| / s),  c_o = start + (o + 1/2) len/out,  s = max(1, len/out),
                    rows normalised to 1 over the pixels j that may be read (the box, or the whole image if `extend`).
                    bilinear: f(t) = 1 - t up to 1; bicubic: Keys' cubic with a = -1/2 up to 2, which may overshoot
                    [0, 1]: as in torchvision on float tensors, what follows clamps it, or nothing does. With `clip`
                    it is clamped behind Wx and again behind Wy, as PIL's 8 bits are
    flip            left-right
    jitter          brightness, contrast, saturation, hue in the order of the table, each clamped to [0, 1]
    operations      up to two of AutoAugment's and RandAugment's, operations.py
    gray, blur, solarize
    normalise       (x - mean) / std, cast, channels_last

`batch` has the fields of fastvarcon.data.batch.ImageBatch, `table` those of fastvarcon.data.augment.ViewTable (on the
host: its switches decide there which rows an operation touches, so that no row pays for what it does not have).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .operations import affine_matrices, brightness, contrast, gray, operate, saturation, solarize

FILTER_RADIUS = {"bilinear": 1, "bicubic": 2}
"""Interpolations by name, with the pixels that their filter reaches to either side where nothing shrinks."""
CANVAS_BYTES = 64 << 20  # float pixels handled at a time, unless a single image has more


def views(
    batch,
    table,
    *,
    size: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    dtype: torch.dtype = torch.float32,
    interpolation: str = "bilinear",
    clip: bool = False,
) -> Tensor:
    """Make V views of each of the B images of `batch`.

    Args:
        batch: ImageBatch of B images; the result lies on its device.
        table: ViewTable of V * B rows, view-major: row v * B + b shows image b.
        size: side of a view in pixels.
        mean, std: per-channel normalisation in [0, 1] units.
        dtype: of the result. Arithmetic is float32, or float64 if `dtype` is float64.
        interpolation: "bilinear" or "bicubic".
        clip: clamp the resized image to [0, 1] after each axis, rows first. Evaluation does: see ViewSpec.

    Returns:
        [V * B, 3, size, size], channels_last.

    Raises:
        ValueError: the table does not fit the batch, a box lies outside its image, an image has no pixels, lies outside
            the buffer or has rows too short for three channels; names the offending row.
    """
    if len(batch) == len(table) == 0:
        return torch.empty((0, 3, size, size), dtype=dtype, device=batch.pixels.device)
    rows = check_table(batch, table)
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    device = batch.pixels.device
    out = torch.empty((len(table), 3, size, size), dtype=dtype, device=device, memory_format=torch.channels_last)
    shift = torch.tensor(mean, dtype=arithmetic, device=device).view(3, 1, 1)
    scale = torch.tensor(std, dtype=arithmetic, device=device).view(3, 1, 1)
    for images in _chunks(batch, arithmetic):
        canvas = _canvas(batch, images, arithmetic)
        for view in range(rows.shape[0]):
            row = rows[view, images]
            x = _crop_resize(canvas, batch, images, table, row, size, FILTER_RADIUS[interpolation], clip)
            x = _colour(x, table, row)
            out[row] = ((x - shift) / scale).to(dtype)
    return out


def check_table(batch, table) -> Tensor:
    """[V, B] row numbers, after checking that every row has its columns, its image and a box within it.

    What the kernels read wrongly would be a crash or another image's pixels, so this is asked of every batch.
    """
    count, rows = len(batch), len(table)
    if count == 0 or rows % count:
        begun = rows - rows % count if count else 0
        raise ValueError(f"row {begun}: a table of {rows} rows does not fit a batch of {count} images")
    for name, column in vars(table).items():
        if len(column) != rows:
            raise ValueError(f"row {min(len(column), rows)}: column {name} has {len(column)} rows, others {rows}")
    images = (getattr(batch, name).cpu().long() for name in ("offset", "height", "width", "row_stride"))
    offset, height, width, stride = images
    span = (height - 1) * stride + 3 * width
    _refuse((height < 1) | (width < 1), lambda i: f"its image has {height[i]} x {width[i]} pixels")
    _refuse(stride < 3 * width, lambda i: f"{width[i]} pixels of 3 channels do not fit into {stride[i]} bytes")
    _refuse(
        (offset < 0) | (offset + span > len(batch.pixels)) | (span >= 2**31),  # rows of bytes are int32
        lambda i: (
            f"bytes {offset[i]} to {offset[i] + span[i]} of its image must lie within the {len(batch.pixels)} bytes of "
            "pixels and be less than 2 GiB"
        ),
    )
    height, width = (t.float().repeat(rows // count) for t in (height, width))
    y, x, h, w = table.box.unbind(1)
    slack = 1e-3  # a fractional box that touches the border may overshoot it by rounding
    inside = (h > 0) & (w > 0) & (y >= -slack) & (x >= -slack) & (y + h <= height + slack) & (x + w <= width + slack)
    _refuse(
        ~inside,
        lambda i: f"box {table.box[i].tolist()} lies outside its image of {height[i]:.0f} x {width[i]:.0f} pixels",
    )
    return torch.arange(rows).view(-1, count)


def _refuse(bad: Tensor, reason) -> None:
    """Raise ValueError for the first bad row. That of a bad image is the row that shows it in the first view."""
    if bad.any():
        row = int(bad.int().argmax())
        raise ValueError(f"row {row}: {reason(row)}")


def _chunks(batch, dtype: torch.dtype):
    """Consecutive image numbers whose padded canvas stays within CANVAS_BYTES."""
    per_image = int(batch.height.max()) * int(batch.width.max()) * 3 * dtype.itemsize
    return torch.arange(len(batch)).split(max(1, CANVAS_BYTES // per_image))


def _canvas(batch, images: Tensor, dtype: torch.dtype) -> Tensor:
    """The images padded to a common size, [n, 3, Hmax, Wmax] in [0, 1]. The padding never gets a weight."""
    shape = (len(images), int(batch.height[images].max()), int(batch.width[images].max()), 3)
    canvas = torch.zeros(shape, dtype=torch.uint8, device=batch.pixels.device)
    for slot, index in enumerate(images.tolist()):
        image = batch.image(index)
        canvas[slot, : image.shape[0], : image.shape[1]] = image
    return canvas.permute(0, 3, 1, 2).to(dtype) / 255


def _crop_resize(
    canvas: Tensor, batch, images: Tensor, table, row: Tensor, size: int, radius: int, clip: bool
) -> Tensor:
    """[n, 3, size, size]: the box of each row, resampled and flipped."""
    y, x, h, w = table.box[row].double().unbind(1)  # float32 would lose digits of the position, not of the weights
    extend = table.extend[row]
    rows = _resampling(y, h, batch.height[images].cpu(), extend, canvas.shape[2], size, radius)
    columns = _resampling(x, w, batch.width[images].cpu(), extend, canvas.shape[3], size, radius)
    columns = torch.where(table.flip[row].view(-1, 1, 1), columns.flip(1), columns)
    wide = torch.matmul(canvas, columns.to(canvas).transpose(1, 2).unsqueeze(1))  # [n, 3, Hmax, size]
    if clip:
        return torch.matmul(rows.to(canvas).unsqueeze(1), wide.clamp(0, 1)).clamp(0, 1)
    return torch.matmul(rows.to(canvas).unsqueeze(1), wide)


def _resampling(
    start: Tensor, length: Tensor, limit: Tensor, extend: Tensor, inputs: int, outputs: int, radius: int
) -> Tensor:
    """Weights [n, outputs, inputs] of the filter, zero outside the pixels that may be read."""
    scale = (length / outputs).view(-1, 1, 1)
    centre = start.view(-1, 1, 1) + scale * (torch.arange(outputs, dtype=start.dtype).view(1, -1, 1) + 0.5)
    pixel = torch.arange(inputs, dtype=start.dtype).view(1, 1, -1)
    low = torch.where(extend, torch.zeros_like(start), start).view(-1, 1, 1)
    high = torch.where(extend, limit.to(start.dtype), start + length).view(-1, 1, 1)
    distance = (pixel + 0.5 - centre).abs() / scale.clamp(min=1)
    weights = ((1 - distance).clamp(min=0) if radius == 1 else _cubic(distance)) * ((pixel >= low) & (pixel < high))
    return weights / weights.sum(2, keepdim=True)


def _cubic(t: Tensor) -> Tensor:
    """Keys 1981 with a = -1/2, of distances t >= 0."""
    near = (1.5 * t - 2.5) * t * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return torch.where(t < 1, near, torch.where(t < 2, far, 0))


def _colour(x: Tensor, table, row: Tensor) -> Tensor:
    """Jitter, operations, gray, blur and solarize on x [n, 3, size, size]."""
    factors = (table.brightness[row], table.contrast[row], table.saturation[row], table.hue[row])
    neutral = (1.0, 1.0, 1.0, 0.0)
    order = table.order[row]
    for position in range(4):
        for op, apply in enumerate((brightness, contrast, saturation, _hue)):
            x = _where(x, (order[:, position] == op) & (factors[op] != neutral[op]), apply, factors[op])
    x = _operations(x, table.ops[row], table.magnitudes[row])
    x = _where(x, table.gray[row], lambda part, _: gray(part).expand_as(part), factors[0])
    x = _where(x, table.blur_sigma[row] > 0, _blur, table.blur_sigma[row])
    return _where(x, table.solarize[row] <= 1, solarize, table.solarize[row])


def _operations(x: Tensor, ops: Tensor, magnitudes: Tensor) -> Tensor:
    """Those of operations.py, ops and magnitudes [n, 2]: a group of rows with the same operation at a time."""
    matrices = affine_matrices(ops, magnitudes, x.shape[-1])
    for step in range(ops.shape[1]):
        for op in ops[:, step].unique().tolist():
            chosen = ops[:, step] == op
            if op:
                matrix = matrices[chosen, step]
                x = _where(
                    x, chosen, lambda part, m, op=op, matrix=matrix: operate(part, op, m, matrix), magnitudes[:, step]
                )
    return x


def _where(x: Tensor, chosen: Tensor, apply, parameter: Tensor) -> Tensor:
    """Replace the chosen rows of x by apply(rows, parameter [k, 1, 1, 1])."""
    index = chosen.nonzero().squeeze(1)
    if len(index) == 0:
        return x
    index_x = index.to(x.device)
    result = apply(x[index_x], parameter[index].to(x).view(-1, 1, 1, 1))
    return result if len(index) == len(x) else x.index_copy(0, index_x, result)


def _hue(x: Tensor, shift: Tensor) -> Tensor:
    """RGB -> HSV, turn the hue by `shift`, -> RGB. Grey pixels have no hue and stay as they are."""
    r, g, b = x.unbind(1)
    low, high = torch.aminmax(x, dim=1)
    spread = high - low
    safe = torch.where(spread == 0, 1, spread)
    sextant = torch.where(high == r, (g - b) / safe, torch.where(high == g, (b - r) / safe + 2, (r - g) / safe + 4))
    sextant = (sextant + 6 * shift.squeeze(1)) % 6
    # channel n of HSV -> RGB is v - v s max(0, min(k, 4 - k, 1)) with k = (n + sextant) mod 6; v s is the spread
    k = (torch.tensor([5.0, 3.0, 1.0], dtype=x.dtype, device=x.device).view(1, 3, 1, 1) + sextant.unsqueeze(1)) % 6
    share = torch.minimum(k, 4 - k).clamp(0, 1)
    turned = (high.unsqueeze(1) - spread.unsqueeze(1) * share).clamp(0, 1)
    return torch.where(share > 0, turned, high.unsqueeze(1))  # torchvision clamps all but the highest channel


def blur_taps(size: int) -> int:
    """Side of the blur kernel: a tenth of the view (Chen et al. 2020, appendix A), odd, at least 3."""
    return max(3, 2 * (size // 20) + 1)


def _blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Separable Gaussian with reflected borders, one sigma [n, 1, 1, 1] per row."""
    n, channels, height, width = x.shape
    taps = blur_taps(height)
    half = taps // 2
    if half >= min(height, width):  # nothing to reflect
        return x
    distance = torch.arange(-half, half + 1, dtype=x.dtype, device=x.device)
    kernel = torch.softmax(-0.5 * (distance / sigma.view(-1, 1)) ** 2, dim=1)  # [n, taps]
    kernel = kernel.repeat_interleave(channels, 0)
    padded = F.pad(x, (half, half, half, half), mode="reflect").reshape(
        1, n * channels, height + 2 * half, width + 2 * half
    )
    padded = F.conv2d(padded, kernel.view(-1, 1, 1, taps), groups=n * channels)
    return F.conv2d(padded, kernel.view(-1, 1, taps, 1), groups=n * channels).view_as(x)
