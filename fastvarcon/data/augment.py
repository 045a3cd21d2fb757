"""Random numbers -> a table of view parameters: a pure function of (policy, seed, epoch, sample id, view).

The table says what to do with the pixels in numbers; `kernels.views` does it. Distributions are torchvision's:
RandomResizedCrop with its ten tries and its fallback, ColorJitter with its random order, RandAugment and AutoAugment,
RandomGrayscale, GaussianBlur, RandomSolarize. Philox counters are laid out as (block + 2**16 view, epoch, id low,
id high) with the seed as key; every quantity owns fixed words of fixed blocks, so that two policies with the same crop
range crop alike.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fastvarcon.data.auto_augment import AUTO_AUGMENT, RAND_AUGMENT, Pair, as_arrays
from fastvarcon.errors import UserError

if TYPE_CHECKING:
    from fastvarcon.data.draws import Ranges

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
    pairs: tuple[Pair, ...] = ()
    """One of these pairs of operations follows the colour jitter."""
    gray: float = 0.0
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.0
    solarize_threshold: float = 0.5


POLICIES = {
    # SupContrast and VarCon: docs/maths/varcon.md#the-reference-run; called SimAugment in their papers.
    "simaugment": Policy(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, jitter=0.8, gray=0.2),
    # SimCLR (Chen et al. 2020, appendix A) at strength 1: crops from 8 %, stronger colour, blur.
    "simclr": Policy(
        scale=(0.08, 1.0), brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, jitter=0.8, gray=0.2, blur=0.5
    ),
    # NSCL on CIFAR (docs/maths/family.md#the-recipe-of-nscl): simaugment with crops from 8 %.
    "nscl-cifar": Policy(
        scale=(0.08, 1.0), brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, jitter=0.8, gray=0.2
    ),
    # The two others of SupCon's and VarCon's study of augmentations. AutoAugment (ImageNet) and RandAugment are
    # torchvision's, with interpolation="bilinear"; stacked: RandAugment between the jitter and the grey of SimCLR.
    "autoaugment": Policy(scale=(0.08, 1.0), pairs=AUTO_AUGMENT),
    "randaugment": Policy(scale=(0.08, 1.0), pairs=RAND_AUGMENT),
    "stacked-randaugment": Policy(
        scale=(0.08, 1.0),
        brightness=0.8,
        contrast=0.8,
        saturation=0.8,
        hue=0.2,
        jitter=0.8,
        pairs=RAND_AUGMENT,
        gray=0.2,
        blur=0.5,
    ),
    "crop-flip": Policy(),
    # For images whose mirror image means something else: digits, letters.
    "crop": Policy(scale=(0.5, 1.0), flip=0.0),
}
EVAL = "eval"
"""The name of evaluation: resize, centre crop, no randomness."""


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
    ops: Tensor
    """[n, 2] uint8, operations of kernels/operations.py by number, one after the other, behind the jitter; 0 = none."""
    magnitudes: Tensor
    """[n, 2] float32, of the operations."""
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
    from fastvarcon.data.draws import Columns, draw  # numba takes a moment to load, and evaluation needs none

    ranges = _ranges(find_policy(policy) if isinstance(policy, str) else policy)
    n = len(ids)
    factors, switches = np.empty((6, n), dtype=np.float32), np.empty((2, n), dtype=bool)
    columns = Columns(
        box=np.empty((n, 4), dtype=np.float32),
        order=np.empty((n, 4), dtype=np.uint8),
        ops=np.zeros((n, 2), dtype=np.uint8),
        magnitudes=np.zeros((n, 2), dtype=np.float32),
        **dict(zip(("brightness", "contrast", "saturation", "hue", "blur_sigma", "solarize"), factors, strict=True)),
        **dict(zip(("flip", "gray"), switches, strict=True)),
    )
    words = (np.uint64(word) for word in (seed, epoch, view))
    kinds = ((ids, np.uint64), (heights, np.int64), (widths, np.int64))  # one for each argument: compiled once
    draw(*words, *(np.ascontiguousarray(values, dtype=kind) for values, kind in kinds), ranges, OP_ORDERS, columns)
    return _table(extend=np.zeros(n, dtype=bool), **columns._asdict())


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
        ops=np.zeros((n, 2)),
        magnitudes=np.zeros((n, 2)),
        gray=off,
        blur_sigma=off,
        solarize=np.full(n, NO_SOLARIZE),
    )


def view_table(
    policy: str,
    seed: int,
    epoch: int,
    ids: np.ndarray,
    num_views: int,
    *,
    heights: np.ndarray,
    widths: np.ndarray,
    resize: int,
    size: int,
) -> ViewTable:
    """All views of a batch by the name of their policy; `resize` and `size` are those of `eval_params`, for "eval"."""
    if policy == EVAL:
        return ViewTable.cat([eval_params(heights, widths, resize=resize, size=size)] * num_views)
    sizes = {"heights": heights, "widths": widths}
    return ViewTable.cat([view_params(policy, seed, epoch, ids, view, **sizes) for view in range(num_views)])


def find_policy(name: str) -> Policy:
    """Raises UserError for a name that no random policy has; `eval` has fixed parameters, see `view_table`."""
    if name not in POLICIES:
        raise UserError(f"unknown augmentation policy {name!r}: choose from {', '.join([*POLICIES, EVAL])}")
    return POLICIES[name]


def _ranges(policy: Policy) -> Ranges:
    """The policy as draws.py takes it."""
    from fastvarcon.data.draws import Ranges

    ops, probabilities, magnitudes = as_arrays(policy.pairs)
    low, high = (float(Decimal(ratio).ln()) for ratio in policy.ratio)  # the same on every machine
    return Ranges(
        scale=_pair(policy.scale),
        ratio=_pair(policy.ratio),
        log_ratio=(low, high),
        flip=float(policy.flip),
        jitter=float(policy.jitter),
        strengths=(*_pair((policy.brightness, policy.contrast)), *_pair((policy.saturation, policy.hue))),
        gray=float(policy.gray),
        blur=float(policy.blur),
        blur_sigma=_pair(policy.blur_sigma),
        solarize=float(policy.solarize),
        solarize_threshold=float(policy.solarize_threshold),
        pair_ops=ops,
        pair_probabilities=probabilities,
        pair_magnitudes=magnitudes,
    )


def _pair(numbers: tuple[float, float]) -> tuple[float, float]:
    return float(numbers[0]), float(numbers[1])


def _table(**columns: np.ndarray) -> ViewTable:
    dtypes = {"extend": bool, "flip": bool, "gray": bool, "order": np.uint8, "ops": np.uint8}
    return ViewTable(
        **{
            name: torch.from_numpy(np.ascontiguousarray(column, dtype=dtypes.get(name, np.float32)))
            for name, column in columns.items()
        }
    )
