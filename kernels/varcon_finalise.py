"""From class sums to what a row needs of the classes, in one launch (notation of kernels/varcon.py).

    w_k = s_k / max(|s_k|, 1e-12) in the compute dtype        bias_k = 0 for a class present, -inf for an absent one
    Wsum = sum of the rounded w_k         K = number of classes present         limit = highest class present + 1

The table of centroids is padded with zeros to whole tiles, so that the row kernel loads it without masks. Wsum, K and
limit are left as one partial result for each of at most 128 programs; the row kernel adds them up, in order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .varcon_tiles import ROW_MULTIPLE, cdiv, padded

PARTS = tl.constexpr(128)
ELEMENTS = 2048  # of the table that a program holds at once


class Centroids(NamedTuple):
    """Padded classes R and dimensions B; T <= PARTS partial results."""

    w: Tensor
    """[R, B] in the compute dtype."""
    bias: Tensor
    """[R] float32."""
    inverse_norm: Tensor
    """[R] float32, 1 / max(|s_k|, 1e-12)."""
    wsum: Tensor
    """[T + 1, B] float32: partial sums; the row kernel writes the whole sum into the last row."""
    parts: Tensor
    """[3, T] int32: classes present, rows counted, limit."""


def empty_centroids(num_classes: int, dim: int, dtype: torch.dtype, device: torch.device) -> Centroids:
    rows, block_d = cdiv(num_classes, ROW_MULTIPLE) * ROW_MULTIPLE, padded(dim)
    programs = cdiv(cdiv(rows, _classes_at_once(block_d)), _tiles_each(rows, block_d))
    return Centroids(
        torch.empty((rows, block_d), dtype=dtype, device=device),
        torch.empty(rows, dtype=torch.float32, device=device),
        torch.empty(rows, dtype=torch.float32, device=device),
        torch.empty((programs + 1, block_d), dtype=torch.float32, device=device),
        torch.empty((3, programs), dtype=torch.int32, device=device),
    )


def _classes_at_once(block_d: int) -> int:
    return max(2, ELEMENTS // block_d)


def _tiles_each(rows: int, block_d: int) -> int:
    return cdiv(cdiv(rows, _classes_at_once(block_d)), PARTS.value)


def finalise(sums: Tensor, counts: Tensor, dtype: torch.dtype) -> Centroids:
    """Args:
    sums: [P, C, D] float32, added up over P in order.
    counts: [P, C] integers or floats, likewise; a class is present where the total is positive.
    dtype: compute dtype.
    """
    splits, classes, dim = sums.shape
    table = empty_centroids(classes, dim, dtype, sums.device)
    rows, block_d = table.w.shape
    with torch.cuda.device_of(sums):
        _finalise[(table.parts.shape[1],)](
            sums, counts, *table, classes, dim, rows, _tiles_each(rows, block_d),
            *sums.stride()[:2], counts.stride(0),
            P=splits, BLOCK_C=_classes_at_once(block_d), BLOCK_D=block_d, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
    return table


@triton.jit(do_not_specialize=["C", "R", "tiles_each"])
def _finalise(
    sums, counts, w, bias, inverse_norm, wsum, parts, C, D, R, tiles_each, split_stride, class_stride, count_stride,
    P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    d = tl.arange(0, BLOCK_D)
    wsum_D = tl.zeros([BLOCK_D], tl.float32)
    present, rows, limit = 0, 0, 0
    for tile in range(program * tiles_each, program * tiles_each + tiles_each):
        k = tile * BLOCK_C + tl.arange(0, BLOCK_C)
        s_CD = tl.zeros([BLOCK_C, BLOCK_D], tl.float32)
        count = tl.zeros([BLOCK_C], tl.int32)
        for split in tl.static_range(P):
            at = split * split_stride + k.to(tl.int64) * class_stride
            s_CD += tl.load(sums + at[:, None] + d[None, :], (k < C)[:, None] & (d < D)[None, :], 0.0)
            count += tl.load(counts + split * count_stride + k, k < C, 0).to(tl.int32)
        inverse = 1.0 / tl.maximum(tl.sqrt(tl.sum(s_CD * s_CD, 1)), 1e-12)
        here = count > 0
        w_CD = tl.where(here[:, None], s_CD * inverse[:, None], 0.0).to(w.dtype.element_ty)
        tl.store(w + k.to(tl.int64)[:, None] * BLOCK_D + d[None, :], w_CD, (k < R)[:, None])
        tl.store(bias + k, tl.where(here, 0.0, float("-inf")), k < R)
        tl.store(inverse_norm + k, inverse, k < R)
        wsum_D += tl.sum(w_CD.to(tl.float32), 0)
        present += tl.sum(here.to(tl.int32))
        rows += tl.sum(count)
        limit = tl.maximum(limit, tl.max(tl.where(here, k + 1, 0)))
    tl.store(wsum + program * BLOCK_D + d, wsum_D)
    programs = tl.num_programs(0)
    tl.store(parts + program, present)
    tl.store(parts + programs + program, rows)
    tl.store(parts + 2 * programs + program, limit)


@triton.jit
def total_of(parts, number, programs):
    """Sum of partial results `number` (0: classes present, 1: rows)."""
    t = tl.arange(0, PARTS)
    return tl.sum(tl.load(parts + number * programs + t, t < programs, 0))


@triton.jit
def limit_of(parts, programs):
    t = tl.arange(0, PARTS)
    return tl.max(tl.load(parts + 2 * programs + t, t < programs, 0))
