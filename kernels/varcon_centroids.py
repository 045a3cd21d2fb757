"""Gradient by the class sums, for attached centroids (notation of kernels/varcon.py).

    dw_k = sum_i T_ik z_i / tau1,  T_ik = g_i (A_i o_ik - B_i), g_i G_i where k = y_i (0 there with `own`)
    ds_k = (dw_k - w_k (w_k . dw_k)) / |s_k|

A program holds a tile of classes and streams a split of the rows past it; o is made again from the stored lse, so T
never leaves the registers. Splits are added in order by the second launch, which also projects. 4NCD flops. In float16
T is taken relative to the largest |g| and times 8, where neither 1/K nor a large c leaves the range. Where D has no
tile, the coefficients of a chunk of rows are written out instead (varcon_chunked.py) and multiplied by cuBLAS.
"""

from __future__ import annotations

from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from .varcon_chunked import chunk_rows, multiply, shape, tile_of_cosines
from .varcon_finalise import Centroids
from .varcon_rows import LOG2E
from .varcon_tiles import Tile, cdiv, tile_for

SCALE = tl.constexpr(8.0)


def sums_backward(
    grad: Tensor, z: Tensor, labels: Tensor, columns: Tensor, table: Centroids, num_classes: int, *,
    tau1: float, own: bool, precision: str,
) -> Tensor:  # fmt: skip
    """ds [C, D] float32. grad: [N] float32 of any stride."""
    N, D = z.shape
    if N == 0:
        return torch.zeros((num_classes, D), dtype=torch.float32, device=z.device)
    R, block_d = table.w.shape
    largest = grad.abs().amax().clamp(min=torch.finfo(torch.float32).tiny)
    with torch.cuda.device_of(z):
        tile = tile_for("sums", D, table.w.dtype)
        make = _chunked if tile is None else partial(_streamed, tile)
        dw = make(grad, largest, z, labels, columns, table, tau1, own, precision)
        ds = torch.empty((num_classes, D), dtype=torch.float32, device=z.device)
        block_c = max(1, 2048 // block_d)
        _project[(cdiv(num_classes, block_c),)](
            dw, table.w, table.inverse_norm, largest, ds, len(dw), num_classes, R, D, 1 / tau1,
            BLOCK_C=block_c, BLOCK_D=block_d, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
    return ds


def _streamed(tile: Tile, grad, largest, z, labels, columns, table, tau1, own, precision) -> Tensor:
    N, D = z.shape
    R, block_d = table.w.shape
    tiles = R // tile.classes
    splits = max(1, min(16, 128 // tiles, cdiv(N, 512)))
    step = cdiv(cdiv(N, splits), tile.rows) * tile.rows
    dw = torch.empty((splits, R, block_d), dtype=torch.float32, device=z.device)
    _dw[(tiles, splits)](
        grad, largest, z, labels, columns, table.w, table.bias, dw, N, D, R, grad.stride(0), z.stride(0), step,
        LOG2E.value / tau1, OWN=own, PRECISION=precision, BLOCK_C=tile.classes, BLOCK_M=tile.rows, BLOCK_D=block_d,
        num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=True,
    )  # fmt: skip
    return dw


@triton.jit
def _coefficients(cos, bias, y, k, g, i, N, columns, scale, OWN: tl.constexpr):
    """T for rows `i` along axis 0 and classes `k` along axis 1, or the other way round: all arguments broadcast."""
    A, B = tl.load(columns + N + i, y >= 0, 0.0), tl.load(columns + 2 * N + i, y >= 0, 0.0)
    lse = tl.load(columns + 4 * N + i, y >= 0, 0.0)
    G = tl.zeros_like(A)
    if not OWN:
        G = tl.load(columns + 3 * N + i, y >= 0, 0.0)
    others = tl.where(bias == 0.0, A * tl.exp2(cos * scale + bias - lse) - B, 0.0)
    return tl.where(y == k, G, others) * g


@triton.jit(do_not_specialize=["N", "R", "step"])
def _dw(
    grad, largest, z, labels, columns, w, bias, dw, N, D, R, grad_stride, stride, step, scale,
    OWN: tl.constexpr, PRECISION: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    k = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    d = tl.arange(0, BLOCK_D)
    w_CD = tl.load(w + k.to(tl.int64)[:, None] * BLOCK_D + d[None, :])
    bias_C = tl.load(bias + k)
    unit = SCALE / tl.load(largest)
    dw_CD = tl.zeros([BLOCK_C, BLOCK_D], tl.float32)
    first = tl.program_id(1) * step
    end = tl.minimum(first + step, N)
    for start in range(first, end, BLOCK_M):
        i = start + tl.arange(0, BLOCK_M)
        y = tl.load(labels + i, i < end, -1).to(tl.int32)
        row = z + i.to(tl.int64)[:, None] * stride
        z_MD = tl.load(row + d[None, :], (i < end)[:, None] & (d < D)[None, :], 0.0).to(w.dtype.element_ty)
        z_MD = tl.where((y >= 0)[:, None], z_MD, 0.0)
        g = tl.load(grad + i.to(tl.int64) * grad_stride, y >= 0, 0.0) * unit
        cos = tl.dot(w_CD, z_MD.T, input_precision=PRECISION)
        t = _coefficients(cos, bias_C[:, None], y[None, :], k[:, None], g[None, :], i[None, :], N, columns, scale, OWN)
        dw_CD = tl.dot(t.to(w_CD.dtype), z_MD, dw_CD, input_precision=PRECISION)
    at = tl.program_id(1).to(tl.int64) * R + k
    tl.store(dw + at[:, None] * BLOCK_D + d[None, :], dw_CD)


@triton.jit(do_not_specialize=["splits", "C", "R"])
def _project(
    dw, w, inverse_norm, largest, ds, splits, C, R, D, inverse_tau1, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    k = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    d = tl.arange(0, BLOCK_D)
    at = k.to(tl.int64)[:, None] * BLOCK_D + d[None, :]
    dw_CD = tl.zeros([BLOCK_C, BLOCK_D], tl.float32)
    for split in range(splits):
        dw_CD += tl.load(dw + split * R * BLOCK_D + at, (k < C)[:, None], 0.0)
    w_CD = tl.load(w + at, (k < C)[:, None], 0.0).to(tl.float32)
    factor = tl.load(inverse_norm + k, k < C, 0.0) * inverse_tau1 * tl.load(largest) / SCALE
    ds_CD = (dw_CD - w_CD * tl.sum(w_CD * dw_CD, 1)[:, None]) * factor[:, None]
    tl.store(ds + k.to(tl.int64)[:, None] * D + d[None, :], ds_CD, (k < C)[:, None] & (d < D)[None, :])


def _chunked(grad, largest, z, labels, columns, table, tau1, own, precision) -> Tensor:
    N, D = z.shape
    R, block_d = table.w.shape
    dtype = table.w.dtype
    chunk = chunk_rows(N, R, dtype)
    t = torch.empty((chunk, R), dtype=dtype, device=z.device)
    dw = torch.zeros((1, R, block_d), dtype=torch.float32, device=z.device)
    for first in range(0, N, chunk):
        n = min(chunk, N - first)
        rows = slice(first, first + n)
        _t[(cdiv(n, 128), R // 128)](
            grad[rows], largest, z, labels, columns, table.w, table.bias, t, first, n, N, D, R, grad.stride(0),
            z.stride(0), LOG2E.value / tau1, OWN=own, **shape(block_d, precision),
        )  # fmt: skip
        z_nD = torch.where((labels[rows] >= 0)[:, None], z[rows], 0).to(dtype)
        dw[0, :, :D] += multiply(t[:n].T, z_nD)
    return dw


@triton.jit(do_not_specialize=["first", "n", "N", "R"])
def _t(
    grad, largest, z, labels, columns, w, bias, t, first, n, N, D, R, grad_stride, stride, scale,
    OWN: tl.constexpr, PRECISION: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * 128 + tl.arange(0, 128)
    y = tl.load(labels + first + row, row < n, -1).to(tl.int32)
    cos, row, k = tile_of_cosines(z, w, y, first, n, D, stride, PRECISION, BLOCK_D, BLOCK_K)
    g = tl.load(grad + row.to(tl.int64) * grad_stride, y >= 0, 0.0) * (SCALE / tl.load(largest))
    t_MC = _coefficients(
        cos, tl.load(bias + k)[None, :], y[:, None], k[None, :], g[:, None], (first + row)[:, None], N, columns,
        scale, OWN,
    )  # fmt: skip
    tl.store(t + row.to(tl.int64)[:, None] * R + k[None, :], t_MC.to(t.dtype.element_ty), (row < n)[:, None])
