"""The operations of AutoAugment and RandAugment in plain torch; a view has up to two, behind its colour jitter.

Semantics of torchvision v2 on float tensors, which is where AutoAugment's own are not defined: Posterize, Solarize and
Equalize cut at values between the 256 levels too. Affine operations interpolate bilinearly and show black outside.
The magnitude of an operation, by name:

    Brightness, Contrast, Color, Sharpness    factor, 1 = unchanged
    Posterize                                 number of levels, 2 ** bits
    Solarize                                  threshold in [0, 1] units
    ShearX, ShearY                            slope
    TranslateX, TranslateY                    fraction of the view's side; whole pixels, cut towards zero
    Rotate                                    degrees
    Identity, AutoContrast, Equalize, Invert  none
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

GRAY_WEIGHTS = (0.2989, 0.587, 0.114)  # ITU-R 601-2, the digits that torchvision uses
OPERATIONS = (
    "Identity",
    "Brightness",
    "Contrast",
    "Color",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
    "Invert",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
)
BRIGHTNESS, CONTRAST, COLOR, SHARPNESS, POSTERIZE, SOLARIZE, AUTOCONTRAST, EQUALIZE, INVERT, AFFINE = range(1, 11)
"""Numbers of the operations; AFFINE is the first of those that move pixels."""
LEVELS = 255.999  # from [0, 1] to one of 256 levels, as torchvision converts


def affine_matrices(ops: Tensor, magnitude: Tensor, size: int) -> Tensor:
    """Where the pixels of views of `size` pixels come from: source (x, y) = M (x, y, 1) in pixel indices.

    ops [...] uint8, magnitude [...] float32 -> [..., 2, 3] float32; the identity for operations that move nothing.
    """
    if not (ops >= AFFINE).any():  # as in most tables
        return torch.eye(2, 3).repeat(*ops.shape, 1, 1)
    m = magnitude.double()
    shear_x, shear_y, shift_x, shift_y, angle = (
        torch.where(ops == OPERATIONS.index(name), m, 0.0)
        for name in ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
    )
    turn = torch.deg2rad(angle)
    linear = torch.stack([turn.cos(), shear_x - turn.sin(), shear_y + turn.sin(), turn.cos()], -1)
    linear = linear.unflatten(-1, (2, 2))
    # rotation is about the centre of the view, shears keep the line through its upper left corner
    moved = torch.stack(
        [shear_x * size / 2 - (shift_x * size).trunc(), shear_y * size / 2 - (shift_y * size).trunc()], -1
    )
    centre = (size - 1) / 2
    offset = centre + moved - centre * linear.sum(-1)
    return torch.cat([linear, offset.unsqueeze(-1)], -1).float()


def operate(x: Tensor, op: int, magnitude: Tensor, matrix: Tensor) -> Tensor:
    """Apply operation number `op` to x [n, 3, size, size], with magnitudes [n, 1, 1, 1] and matrices [n, 2, 3]."""
    if op >= AFFINE:
        return _affine(x, matrix)
    return _FUNCTIONS[op](x, magnitude)


def gray(x: Tensor) -> Tensor:
    """[n, 1, h, w]"""
    r, g, b = x.unbind(1)
    return (GRAY_WEIGHTS[0] * r + GRAY_WEIGHTS[1] * g + GRAY_WEIGHTS[2] * b).unsqueeze(1)


def brightness(x: Tensor, factor: Tensor) -> Tensor:
    return (x * factor).clamp(0, 1)


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    mean = gray(x).mean((1, 2, 3), keepdim=True)
    return (factor * x + (1 - factor) * mean).clamp(0, 1)


def saturation(x: Tensor, factor: Tensor) -> Tensor:
    return (factor * x + (1 - factor) * gray(x)).clamp(0, 1)


def solarize(x: Tensor, threshold: Tensor) -> Tensor:
    return torch.where(x >= threshold, 1 - x, x)


def _sharpness(x: Tensor, factor: Tensor) -> Tensor:
    """Away from a 3 x 3 average; the outermost pixels have none and stay."""
    if x.shape[-1] <= 2:
        return x
    kernel = torch.full((3, 1, 3, 3), 1 / 13, dtype=x.dtype, device=x.device)
    kernel[:, :, 1, 1] = 5 / 13
    result = x.clone()
    inner = result[:, :, 1:-1, 1:-1]
    inner += (1 - factor) * (F.conv2d(x, kernel, groups=3) - inner)
    return result.clamp(0, 1)


def _posterize(x: Tensor, levels: Tensor) -> Tensor:
    return torch.minimum((x * levels).floor().clamp(min=0), levels - 1) / levels


def _autocontrast(x: Tensor, _: Tensor) -> Tensor:
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    flat = low == high
    return ((x - torch.where(flat, 0, low)) / torch.where(flat, 1, high - low)).clamp(0, 1)


def _equalize(x: Tensor, _: Tensor) -> Tensor:
    """A level becomes the share of the pixels below it, reckoned in whole numbers as PIL does."""
    level = (x * LEVELS).long().clamp(0, 255).flatten(2)
    count = torch.zeros((*level.shape[:2], 256), dtype=torch.int64, device=x.device)
    count.scatter_add_(2, level, torch.ones_like(level))
    step = (level.shape[2] - count.gather(2, level.amax(2, keepdim=True))) // 255
    below = count.cumsum(2) - count
    table = torch.where(step > 0, (below + step // 2) // step.clamp(min=1), torch.arange(256, device=x.device))
    return (table.clamp(max=255).gather(2, level) / 255).to(x.dtype).view_as(x)


def _affine(x: Tensor, matrix: Tensor) -> Tensor:
    """Bilinear, black outside."""
    n, _, height, width = x.shape
    m = matrix.to(x).view(n, 6, 1, 1)
    rows = torch.arange(height, dtype=x.dtype, device=x.device).view(1, -1, 1)
    columns = torch.arange(width, dtype=x.dtype, device=x.device).view(1, 1, -1)
    source_x, source_y = (m[:, k] * columns + m[:, k + 1] * rows + m[:, k + 2] for k in (0, 3))
    scaled = [(2 * place + 1) / side - 1 for place, side in ((source_x, width), (source_y, height))]
    return F.grid_sample(x, torch.stack(scaled, -1), mode="bilinear", padding_mode="zeros", align_corners=False)


_FUNCTIONS = (
    lambda x, _: x,
    brightness,
    contrast,
    saturation,
    _sharpness,
    _posterize,
    solarize,
    _autocontrast,
    _equalize,
    lambda x, _: 1 - x,
)
