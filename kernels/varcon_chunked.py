"""Rows by two matrix products, for D > 256 and for few rows against many classes (notation of kernels/varcon.py).

The accumulator of the one-pass kernel is BLOCK_M x D: beyond D = 256 it leaves no room for tiles that keep the tensor
cores busy. Here a chunk of rows meets all classes at once,

    E = exp2(x - ref) in the compute dtype, 0 for the row's own class, and its row sums for each tile of classes
    m = (E @ w) / its sum         by cuBLAS

and a chunk is bounded (CHUNK_BYTES), so that E stays in the L2 cache: still 4NCD flops and no N x C tensor. `ref` is a
constant as in varcon_rows.py; below its bound a first pass over the chunk finds the maxima (6NCD).

The gradient by the class sums goes the same way: coefficients of a chunk, then their transpose times its rows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .varcon_finalise import Centroids, limit_of, total_of
from .varcon_rows import COLUMNS, LOG2E, bounded, finish_classes, finish_rows, reference_level
from .varcon_tiles import cdiv

CHUNK_BYTES = 48 * 2**20  # an H200's L2 cache
BLOCK = tl.constexpr(128)  # rows and classes of a tile of E


def rows_chunked(
    z: Tensor, labels: Tensor, own: Tensor | None, eps: float, eps_at: Tensor | None, table: Centroids,
    num_classes: int, *, tau1: float, kl: float, nll: float, adapt: float, with_gradient: bool, precision: str,
) -> tuple[Tensor, Tensor | None, Tensor]:  # fmt: skip
    """As `varcon_rows.rows_forward`."""
    N, D = z.shape
    R, block_d = table.w.shape
    dtype, device = table.w.dtype, z.device
    programs, level = table.parts.shape[1], reference_level(tau1, dtype)
    columns = torch.empty((len(COLUMNS), N), dtype=torch.float32, device=device)
    m = torch.empty((N, D), dtype=dtype, device=device) if with_gradient else None
    inverse_rows = torch.empty(1, dtype=torch.float32, device=device)
    chunk, block_m = chunk_rows(N, R, dtype), max(1, 4096 // block_d)
    e = torch.empty((chunk, R), dtype=dtype, device=device) if with_gradient else None
    sums = torch.empty((3, R // BLOCK.value, chunk), dtype=torch.float32, device=device)
    with torch.cuda.device_of(z):
        for first in range(0, max(N, 1), chunk):
            n = min(chunk, N - first)
            grid = (max(1, cdiv(n, BLOCK.value)), R // BLOCK.value)
            shared = (z, labels, table.w, table.bias, table.parts, sums, first, n, chunk, D, num_classes, z.stride(0))
            scales = (programs, LOG2E.value / tau1, level)
            ref = None
            if not bounded(tau1, dtype):
                _scores[grid](*shared, None, None, *scales, **shape(block_d, precision))
                best = sums[2].amax(0)
                ref = torch.where(best.isneginf(), 0, best)
            _scores[grid](*shared, e, ref, *scales, **shape(block_d, precision))
            product = None if e is None else multiply(e[:n], table.w)
            _finish[(max(1, cdiv(n, block_m)),)](
                z, labels, own, eps, eps_at, table.w, table.wsum, table.parts, sums, ref, product, columns, m,
                inverse_rows, first, n, chunk, N, D, num_classes, z.stride(0), R // BLOCK.value, *scales,
                tau1, kl, nll, adapt, BLOCK_M=block_m, BLOCK_D=block_d, num_warps=4, enable_fp_fusion=True,
            )  # fmt: skip
    return columns, m, inverse_rows


def chunk_rows(rows: int, classes: int, dtype: torch.dtype) -> int:
    """Rows of a chunk: whole tiles, as many as CHUNK_BYTES hold and as there are."""
    fitting = CHUNK_BYTES // (classes * dtype.itemsize) // BLOCK.value
    return max(1, min(fitting, cdiv(rows, BLOCK.value))) * BLOCK.value


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in float32, whatever their dtype."""
    if a.dtype == torch.float32 or a.device.type == "cpu":  # the CPU has no product of 16 bit that gives 32
        return a.float() @ b.float()
    return torch.mm(a, b, out_dtype=torch.float32)


def shape(block_d: int, precision: str) -> dict:
    """Compile-time arguments of a tile of scores. 128 registers let two programs share a multiprocessor, so that one
    multiplies while the other takes exponentials; three TF32 products need more."""
    if precision == "ieee":
        options = {"BLOCK_K": min(block_d, 64), "num_stages": 3, "maxnreg": 128}
    else:
        options = {"BLOCK_K": 16, "num_stages": 2}
    return {"PRECISION": precision, "BLOCK_D": block_d, "num_warps": 8, "enable_fp_fusion": True, **options}


@triton.jit
def tile_of_cosines(
    z, w, y, first, n, D, stride, PRECISION: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr
):
    """z @ w^T of the tile that this program holds: rows of axis 0 with y >= 0, classes of axis 1."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    k = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    d = tl.arange(0, BLOCK_K)
    z += first.to(tl.int64) * stride
    z_at = row.to(tl.int64)[:, None] * stride + d[None, :]
    w_at = k.to(tl.int64)[:, None] * BLOCK_D + d[None, :]
    cos = tl.zeros([BLOCK, BLOCK], tl.float32)
    for start in range(0, D, BLOCK_K):
        z_MD = tl.load(z + z_at + start, (y >= 0)[:, None] & (start + d < D)[None, :], 0.0).to(w.dtype.element_ty)
        cos = tl.dot(z_MD, tl.load(w + w_at + start).T, cos, input_precision=PRECISION)
    return cos, row, k


@triton.jit(do_not_specialize=["first", "n", "chunk", "C", "programs"])
def _scores(
    z, labels, w, bias, parts, sums, first, n, chunk, D, C, stride, e, ref, programs, scale, level,
    PRECISION: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A tile of E and its row sums: [0] of exp2, [1] of cosines, [2] the largest x. Sums alone where `e` is None."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y = tl.load(labels + first + row, row < n, -1).to(tl.int32)
    R = tl.num_programs(1) * BLOCK
    at = tl.program_id(1) * chunk + row
    if tl.program_id(1) * BLOCK < limit_of(parts, programs):
        cos, row, k = tile_of_cosines(z, w, y, first, n, D, stride, PRECISION, BLOCK_D, BLOCK_K)
        cosines = tl.sum(cos, 1)  # now, so that x can take the registers of cos
        x = cos * scale + tl.load(bias + k)[None, :]
        x = tl.where(y[:, None] == k[None, :], float("-inf"), x)
        best = tl.max(x, 1)
        level_M = tl.zeros([BLOCK], tl.float32) + level
        if ref is not None:
            level_M = tl.load(ref + row, row < n, 0.0)
        e_MC = tl.exp2(x - level_M[:, None])
        exps = tl.sum(e_MC, 1)
    else:
        k = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        e_MC = tl.zeros([BLOCK, BLOCK], tl.float32)
        exps, cosines = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
        best = tl.full([BLOCK], float("-inf"), tl.float32)
    tiles = tl.num_programs(1)
    tl.store(sums + at, exps, row < chunk)
    tl.store(sums + tiles * chunk + at, cosines, row < chunk)
    tl.store(sums + 2 * tiles * chunk + at, best, row < chunk)
    if e is not None:
        tl.store(e + row.to(tl.int64)[:, None] * R + k[None, :], e_MC.to(e.dtype.element_ty), (row < n)[:, None])


@triton.jit(do_not_specialize=["first", "n", "chunk", "N", "C", "tiles", "programs"])
def _finish(
    z, labels, own, eps, eps_at, w, wsum, parts, sums, ref, product, columns, m, inverse_rows,
    first, n, chunk, N, D, C, stride, tiles, programs, scale, level, tau1, kl, nll, adapt,
    BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    i = first + row
    inside = row < n
    y = tl.load(labels + i, inside, -1).to(tl.int32)
    counted = (y >= 0) & (y < C)
    z_MD = tl.load(z + i.to(tl.int64)[:, None] * stride + d[None, :], counted[:, None] & (d < D)[None, :], 0.0)
    wy_MD = tl.load(w + y.to(tl.int64)[:, None] * BLOCK_D + d[None, :], counted[:, None], 0.0)
    true = tl.sum(z_MD.to(w.dtype.element_ty).to(tl.float32) * wy_MD.to(tl.float32), 1)
    exps = tl.zeros([BLOCK_M], tl.float32)
    cosines = tl.zeros([BLOCK_M], tl.float32)
    best = tl.full([BLOCK_M], float("-inf"), tl.float32)
    for start in range(0, tiles, 64):
        tile = start + tl.arange(0, 64)
        at = sums + tile[:, None] * chunk + row[None, :]
        there = (tile < tiles)[:, None] & inside[None, :]
        exps += tl.sum(tl.load(at, there, 0.0), 0)
        cosines += tl.sum(tl.load(at + tiles * chunk, there, 0.0), 0)
        best = tl.maximum(best, tl.max(tl.load(at + 2 * tiles * chunk, there, float("-inf")), 0))
    level_M = tl.zeros([BLOCK_M], tl.float32) + level
    if ref is not None:
        level_M = tl.load(ref + row, inside, 0.0)
    target = true
    if own is not None:
        target = tl.load(own + i, inside, 0.0)
    target = tl.where((y >= C) & inside, float("nan"), target)
    classes = total_of(parts, 0, programs)
    i = tl.where(inside, i, N)
    weight = finish_rows(
        i, y, target, cosines - true, exps, best, level_M, classes, eps, eps_at, columns, N, scale, tau1, kl, nll, adapt
    )
    if m is not None:
        p_MD = tl.load(product + row.to(tl.int64)[:, None] * BLOCK_D + d[None, :], inside[:, None], 0.0)
        out = m + i.to(tl.int64)[:, None] * D + d[None, :]
        tl.store(out, (p_MD * weight[:, None]).to(m.dtype.element_ty), inside[:, None] & (d < D)[None, :])
    if tl.program_id(0) == 0:
        finish_classes(parts, wsum, inverse_rows, programs, BLOCK_D)
