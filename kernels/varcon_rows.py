"""One-pass row kernel of the VarCon loss: flash attention with Q = z, K = V = w (notation of kernels/varcon.py).

A program holds BLOCK_M rows and streams the centroids past them once, 4NCD flops:

    x    = z w^T log2(e) / tau1, -inf for absent classes and for the row's own: that one enters in float32 afterwards
    sums = sum of exp2(x - ref), sum of z w^T, max of x
    m   += exp2(x - ref) @ w                                                         only where a gradient is wanted

`ref` is a constant while exp2 stays in the range of the compute dtype for every cosine (BOUNDED: tau1 >= 0.1 in
float16, 0.03 in float32), else the running maximum. The probabilities are rounded for the product, not for the loss.
Absent classes behind the highest one present cost nothing: the loop ends there.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .varcon_finalise import Centroids, limit_of, total_of
from .varcon_tiles import Tile, cdiv

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)

COLUMNS = ("loss", "A", "B", "G", "lse", "slope", "tau2", "confidence", "kl", "nll", "hit")
"""Rows of the [11, N] table of row scalars: see kernels/varcon.py. `lse` is that of the others, in units of log 2."""


def bounded(tau1: float, dtype: torch.dtype) -> bool:
    """exp2 against a constant loses nothing for any cosine."""
    return tau1 >= (0.1 if dtype == torch.float16 else 0.03)


def reference_level(tau1: float, dtype: torch.dtype) -> float:
    """The constant: float16 begins at 2^15 for cosine 1, so that cosine -1 is not subnormal."""
    return LOG2E.value / tau1 - (15.0 if dtype == torch.float16 else 0.0)


def rows_forward(
    z: Tensor, labels: Tensor, own: Tensor | None, eps: float, eps_at: Tensor | None, table: Centroids,
    num_classes: int, *, tau1: float, kl: float, nll: float, adapt: float, with_gradient: bool, precision: str,
    tile: Tile,
) -> tuple[Tensor, Tensor | None, Tensor]:  # fmt: skip
    """(row scalars [11, N] float32, m [N, D] in the compute dtype, 1 / rows counted [1]).

    Args: as `varcon.rows`; tile: see varcon_tiles.
    """
    N, D = z.shape
    dtype = table.w.dtype
    columns = torch.empty((len(COLUMNS), N), dtype=torch.float32, device=z.device)
    m = torch.empty((N, D), dtype=dtype, device=z.device) if with_gradient else None
    inverse_rows = torch.empty(1, dtype=torch.float32, device=z.device)
    with torch.cuda.device_of(z):
        _rows[(max(1, cdiv(N, tile.rows)),)](
            z, labels, own, eps, eps_at, table.w, table.bias, table.wsum, table.parts, columns, m, inverse_rows,
            N, D, num_classes, z.stride(0), table.parts.shape[1],
            LOG2E.value / tau1, reference_level(tau1, dtype), tau1, kl, nll, adapt,
            BOUNDED=bounded(tau1, dtype), PRECISION=precision,
            BLOCK_M=tile.rows, BLOCK_C=tile.classes, BLOCK_D=table.w.shape[1],
            num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=True,
        )  # fmt: skip
    return columns, m, inverse_rows


@triton.jit(do_not_specialize=["N", "C", "programs"])
def _rows(
    z, labels, own, eps, eps_at, w, bias, wsum, parts, columns, m, inverse_rows,
    N, D, C, stride, programs, scale, level, tau1, kl, nll, adapt,
    BOUNDED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * BLOCK_M
    row = tl.arange(0, BLOCK_M)
    i, d = first + row, tl.arange(0, BLOCK_D)
    y = tl.load(labels + i, i < N, -1).to(tl.int32)
    counted = (y >= 0) & (y < C)
    z += first.to(tl.int64) * stride
    z_MD = tl.load(z + (row[:, None] * stride + d[None, :]), counted[:, None] & (d < D)[None, :], 0.0)
    z_MD = z_MD.to(w.dtype.element_ty)
    wy_MD = tl.load(w + y.to(tl.int64)[:, None] * BLOCK_D + d[None, :], counted[:, None], 0.0)
    true = tl.sum(z_MD.to(tl.float32) * wy_MD.to(tl.float32), 1)

    best = tl.full([BLOCK_M], float("-inf"), tl.float32)
    exps = tl.zeros([BLOCK_M], tl.float32)
    cosines = tl.zeros([BLOCK_M], tl.float32)
    if m is not None:
        m_MD = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    c = tl.arange(0, BLOCK_C)
    tiles = w + c[:, None] * BLOCK_D + d[None, :]
    for start in range(0, limit_of(parts, programs), BLOCK_C):
        w_CD = tl.load(tiles)
        cos = tl.dot(z_MD, w_CD.T, input_precision=PRECISION)
        cosines += tl.sum(cos, 1)
        shift = tl.load(bias + start + c)
        if BOUNDED:
            shift -= level
        x = cos * scale + shift[None, :]
        x = tl.where(y[:, None] == (start + c)[None, :], float("-inf"), x)
        higher = tl.maximum(best, tl.max(x, 1))
        if BOUNDED:
            e = tl.exp2(x)
        else:
            ref = tl.where(higher == float("-inf"), 0.0, higher)
            e = tl.exp2(x - ref[:, None])
            fade = tl.exp2(best - ref)
            exps *= fade
            if m is not None:
                m_MD *= fade[:, None]
        best = higher
        exps += tl.sum(e, 1)
        if m is not None:
            m_MD = tl.dot(e.to(w_CD.dtype), w_CD, m_MD, input_precision=PRECISION)
        tiles += BLOCK_C * BLOCK_D

    ref = level
    if BOUNDED:
        best += level
    else:
        ref = tl.where(best == float("-inf"), 0.0, best)
    classes = total_of(parts, 0, programs)
    target = true
    if own is not None:
        target = tl.load(own + i, i < N, 0.0)
    target = tl.where((y >= C) & (i < N), float("nan"), target)  # a label that cannot be
    weight = finish_rows(
        i, y, target, cosines - true, exps, best, ref, classes, eps, eps_at, columns, N, scale, tau1, kl, nll, adapt
    )
    if m is not None:
        m += first.to(tl.int64) * D
        m_MD = (m_MD * weight[:, None]).to(m.dtype.element_ty)
        tl.store(m + (row[:, None] * D + d[None, :]), m_MD, (i < N)[:, None] & (d < D)[None, :])
    if tl.program_id(0) == 0:
        finish_classes(parts, wsum, inverse_rows, programs, BLOCK_D)


@triton.jit
def finish_classes(parts, wsum, inverse_rows, programs, BLOCK_D: tl.constexpr):
    """Wsum and 1 / rows from their partial results, for the backward pass and for the mean."""
    d = tl.arange(0, BLOCK_D)
    AT_ONCE: tl.constexpr = 8192 // BLOCK_D if BLOCK_D > 256 else 32
    wsum_D = tl.zeros([BLOCK_D], tl.float32)
    for start in range(0, programs, AT_ONCE):
        t = start + tl.arange(0, AT_ONCE)
        wsum_D += tl.sum(tl.load(wsum + t[:, None] * BLOCK_D + d[None, :], (t < programs)[:, None], 0.0), 0)
    tl.store(wsum + programs * BLOCK_D + d, wsum_D)
    tl.store(inverse_rows, 1.0 / tl.maximum(total_of(parts, 1, programs), 1).to(tl.float32))


@triton.jit
def finish_rows(i, y, true, cosines, exps, best, ref, classes, eps, eps_at, columns, N, scale, tau1, kl, nll, adapt):
    """Write the scalars of rows `i`; returns the factor that turns sum of exp2(x - ref) w into m.

    Args:
        true: cosine to the row's own centroid; cosines: sum of those to the others.
        exps: sum of exp2(x - ref) over the others; best: their largest x (-inf if there are none).
    """
    if eps_at is not None:
        eps = tl.load(eps_at)
    several = (classes > 1) & (y >= 0)
    others = tl.maximum(classes - 1, 1).to(tl.float32)
    x_true = true * scale
    top = tl.maximum(x_true, tl.where(exps > 0, ref, x_true))
    e_true, e_others = tl.exp2(x_true - top), exps * tl.exp2(ref - top)
    whole = e_true + e_others
    p, rest = e_true / whole, e_others / whole  # rest = 1 - p without cancellation
    logp = (x_true - top - tl.log2(whole)) * LN2
    margin = (true - cosines / others) / tau1
    tau2 = (tau1 - eps) + 2.0 * eps * p
    a = 1.0 / tau2
    u = tl.log(others) - a
    logq = -(tl.maximum(u, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(u))))
    q = tl.exp(logq)
    r = 1.0 / (1.0 + tl.exp(-u))
    divergence = q * (logq - logp) + r * (logq - a + margin - logp)
    divergence = tl.where(several, divergence, 0.0)
    t = a * a * q * r * (margin - a) * kl * adapt
    c = 2.0 * eps * p * t
    row = columns + i
    _put(row, 0, N, i, several, kl * divergence - nll * logp)
    _put(row, 1, N, i, several, (kl - c + nll) * rest)
    _put(row, 2, N, i, several, kl * r / others)
    _put(row, 3, N, i, several, kl * (r - rest) + (c - nll) * rest)
    _put(row, 4, N, i, several, tl.log2(exps) + ref)
    _put(row, 5, N, i, several, (2.0 * p - 1.0) * t)
    _put(row, 6, N, i, y >= 0, tau2)
    _put(row, 7, N, i, y >= 0, p)
    _put(row, 8, N, i, y >= 0, divergence)
    _put(row, 9, N, i, several, -logp)
    _put(row, 10, N, i, y >= 0, (x_true >= best).to(tl.float32))
    return tl.where(several, 1.0 / exps, 0.0)


@triton.jit
def _put(row, column, N, i, mask, value):
    """NaN passes where the mask holds; elsewhere 0."""
    tl.store(row + column * N, tl.where(mask, value, 0.0), i < N)
