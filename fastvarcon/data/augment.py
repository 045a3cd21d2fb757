"""Random numbers -> a table of view parameters: a pure function of (policy, seed, epoch, sample id, view).

The table says what to do with the pixels in numbers; `kernels.views` does it. Distributions are torchvision's:
RandomResizedCrop with its ten tries and its fallback, ColorJitter with its random order, RandomGrayscale, GaussianBlur,
RandomSolarize. Philox counters are laid out as (block + 2**16 view, epoch, id low, id high) with the seed as key; every
quantity owns fixed words of fixed blocks, so that two policies with the same crop range crop alike.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastvarcon.data.philox import philox4x32, uniforms
from fastvarcon.errors import UserError

CROP_TRIES = 10  # torchvision's RandomResizedCrop gives up after as many
SWITCHES, FACTORS, REST = CROP_TRIES, CROP_TRIES + 1, CROP_TRIES + 2  # Philox blocks after those of the crop
OP_ORDERS = np.array(
    list(itertools.permutations(range(4))), dtype=np.uint8
)  # 0 brightness 1 contrast 2 saturation 3 hue
NO_SOLARIZE = 2.0  # a threshold above every pixel value


@dataclass(frozen=True)
class Policy:
    """Ranges and probabilities of an augmentation, named as torchvision names them."""

    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    jitter: float = 0.0
    """Probability that the colour jitter is applied at all."""
    gray: float = 0.0
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.0
    solarize_threshold: float = 0.5


POLICIES = {
    # SupContrast and VarCon: spec/varcon.md 2.1; called SimAugment in their papers.
    "simaugment": Policy(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, jitter=0.8, gray=0.2),
    # SimCLR (Chen et al. 2020, appendix A) at strength 1: crops from 8 %, stronger colour, blur.
    "simclr": Policy(
        scale=(0.08, 1.0), brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, jitter=0.8, gray=0.2, blur=0.5
    ),
    "crop-flip": Policy(),
    # For images whose mirror image means something else: digits, letters.
    "crop": Policy(scale=(0.5, 1.0), flip=0.0),
}


@dataclass(frozen=True)
class ViewTable:
    """Parameters of n views, host tensors. Rows of V views of a batch are view-major: row v * B + b."""

    box: Tensor
    """[n, 4] float32: y, x, height, width in source pixels of the region that the view shows."""
    extend: Tensor
    """[n] bool: resampling may read pixels outside the box (evaluation: resize, then crop). Training crops first."""
    flip: Tensor
    """[n] bool, left-right."""
    order: Tensor
    """[n, 4] uint8, order of 0 brightness, 1 contrast, 2 saturation, 3 hue."""
    brightness: Tensor
    """[n] float32 factor, 1 = unchanged."""
    contrast: Tensor
    """[n] float32 factor, 1 = unchanged."""
    saturation: Tensor
    """[n] float32 factor, 1 = unchanged."""
    hue: Tensor
    """[n] float32 shift in turns, [-0.5, 0.5], 0 = unchanged."""
    gray: Tensor
    """[n] bool."""
    blur_sigma: Tensor
    """[n] float32, view pixels, 0 = none."""
    solarize: Tensor
    """[n] float32 threshold in [0, 1] units from which a value is inverted; 2 = none."""

    def __len__(self) -> int:
        return len(self.flip)

    @staticmethod
    def cat(tables: list[ViewTable]) -> ViewTable:
        """One table of all views, view-major."""
        names = [field.name for field in dataclasses.fields(ViewTable)]
        return ViewTable(**{name: torch.cat([getattr(table, name) for table in tables]) for name in names})


def view_params(
    policy: str | Policy, seed: int, epoch: int, ids: np.ndarray, view: int, *, heights: np.ndarray, widths: np.ndarray
) -> ViewTable:
    """Parameters of view number `view` of images `ids` [B] of `heights` [B] x `widths` [B] pixels."""
    policy = find_policy(policy) if isinstance(policy, str) else policy
    ids = np.asarray(ids, dtype=np.uint64)
    blocks = np.arange(CROP_TRIES + 3, dtype=np.uint64) + np.uint64(view << 16)
    words = philox4x32(
        blocks[None, :], epoch, (ids & np.uint64(0xFFFFFFFF))[:, None], (ids >> np.uint64(32))[:, None], seed
    )
    u = uniforms(words)  # [B, blocks, 4]
    flip_u, jitter_u, gray_u, blur_u = u[:, SWITCHES].T
    order_u, sigma_u, solarize_u, _ = u[:, REST].T
    jitter = jitter_u < policy.jitter
    low, high = policy.blur_sigma
    return _table(
        box=_random_resized_crop(u[:, :CROP_TRIES], np.asarray(heights), np.asarray(widths), policy),
        extend=np.zeros(len(ids), dtype=bool),
        flip=flip_u < policy.flip,
        order=OP_ORDERS[(order_u * len(OP_ORDERS)).astype(np.int64)],
        brightness=_factor(u[:, FACTORS, 0], policy.brightness, jitter),
        contrast=_factor(u[:, FACTORS, 1], policy.contrast, jitter),
        saturation=_factor(u[:, FACTORS, 2], policy.saturation, jitter),
        hue=np.where(jitter, (2 * u[:, FACTORS, 3] - 1) * policy.hue, 0.0),
        gray=gray_u < policy.gray,
        blur_sigma=np.where(blur_u < policy.blur, low + (high - low) * sigma_u, 0.0),
        solarize=np.where(solarize_u < policy.solarize, policy.solarize_threshold, NO_SOLARIZE),
    )


def eval_params(heights: np.ndarray, widths: np.ndarray, *, resize: int, size: int) -> ViewTable:
    """torchvision's Resize(resize) + CenterCrop(size) as a table: no randomness, colours untouched.

    As there, the longer side is rounded down to whole pixels and the corner of the crop half to even.
    """
    if size > resize:
        raise ValueError(f"a centre crop of {size} pixels does not fit into a shorter side of {resize}")
    heights, widths = np.asarray(heights, dtype=np.float64), np.asarray(widths, dtype=np.float64)
    short = np.minimum(heights, widths)
    resized_h = np.where(heights <= widths, resize, np.floor(resize * heights / short))
    resized_w = np.where(widths <= heights, resize, np.floor(resize * widths / short))
    scale_y, scale_x = heights / resized_h, widths / resized_w
    top, left = np.rint((resized_h - size) / 2), np.rint((resized_w - size) / 2)
    n = len(heights)
    off, one = np.zeros(n), np.ones(n)
    return _table(
        box=np.stack([top * scale_y, left * scale_x, size * scale_y, size * scale_x], axis=1),
        extend=one,
        flip=off,
        order=np.tile(OP_ORDERS[0], (n, 1)),
        brightness=one,
        contrast=one,
        saturation=one,
        hue=off,
        gray=off,
        blur_sigma=off,
        solarize=np.full(n, NO_SOLARIZE),
    )


def find_policy(name: str) -> Policy:
    if name not in POLICIES:
        raise UserError(f"unknown augmentation policy {name!r}: choose from {', '.join(POLICIES)}")
    return POLICIES[name]


def _random_resized_crop(u: np.ndarray, heights: np.ndarray, widths: np.ndarray, policy: Policy) -> np.ndarray:
    """torchvision.transforms.RandomResizedCrop.get_params, all ten tries at once. u: [B, tries, 4] -> box [B, 4]."""
    h_img, w_img = heights.astype(np.float64)[:, None], widths.astype(np.float64)[:, None]
    area = h_img * w_img * (policy.scale[0] + (policy.scale[1] - policy.scale[0]) * u[..., 0])
    log_ratio = np.log(policy.ratio)
    ratio = np.exp(log_ratio[0] + (log_ratio[1] - log_ratio[0]) * u[..., 1])
    w, h = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (w > 0) & (w <= w_img) & (h > 0) & (h <= h_img)
    y, x = np.floor(u[..., 2] * (h_img - h + 1)), np.floor(u[..., 3] * (w_img - w + 1))
    first = fits.argmax(axis=1)
    tried = np.stack([y, x, h, w], axis=-1)[np.arange(len(u)), first]
    return np.where(fits.any(axis=1)[:, None], tried, _central_crop(h_img[:, 0], w_img[:, 0], policy.ratio))


def _central_crop(h_img: np.ndarray, w_img: np.ndarray, ratio: tuple[float, float]) -> np.ndarray:
    """The fallback after ten misses: the largest central crop whose aspect ratio is within `ratio`. -> [B, 4]"""
    aspect = w_img / h_img
    w = np.where(aspect > max(ratio), np.rint(h_img * max(ratio)), w_img)
    h = np.where(aspect < min(ratio), np.rint(w_img / min(ratio)), h_img)
    return np.stack([np.floor((h_img - h) / 2), np.floor((w_img - w) / 2), h, w], axis=1)


def _factor(u: np.ndarray, strength: float, applied: np.ndarray) -> np.ndarray:
    low = max(0.0, 1 - strength)
    return np.where(applied, low + (1 + strength - low) * u, 1.0)


def _table(**columns: np.ndarray) -> ViewTable:
    dtypes = {"extend": bool, "flip": bool, "gray": bool, "order": np.uint8}
    return ViewTable(
        **{
            name: torch.from_numpy(np.ascontiguousarray(column, dtype=dtypes.get(name, np.float32)))
            for name, column in columns.items()
        }
    )
