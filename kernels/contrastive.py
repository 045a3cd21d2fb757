"""The contrastive family on a GPU: contrastive_form.py in two Triton kernels, with memory O(N D) and no N x N tensor.

    _forward    one program per BLOCK_M rows streams all keys past them: x = z_a z_b^T, running log-sum-exp of D, sums
                over P. `own` needs N_a first and looks at the tiles that hold a positive once more
    _gradient   the same stream, with x made again and G_ab + G_ba from the four numbers of either row: acc += G z_b

Launches: one each. Products: 2 N^2 D forward (own: up to 4), 4 N^2 D backward; exponentials: N^2 and 2 N^2 (beta: 2 N^2
and 2 N^2). Written: 6 and D numbers a row. Nothing is added up by atomics, so results repeat bit by bit.

Operands of the products have the dtype of z, sums are float32; float16 holds unit rows better than bfloat16 at the same
speed. G is scaled so that its largest coefficient is 2^10: a probability of 1e-6 is then no subnormal in float16.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import triton_cache  # noqa: F401 (acts when it is imported)
from .contrastive_form import Form, RowTable, log_weight

LOG2E, LN2 = tl.constexpr(1.4426950408889634), tl.constexpr(0.6931471805599453)
NOTHING = tl.constexpr(-1e30)  # below every similarity; finite, so that differences of two are no NaN
PEAK = 2.0**10
MAX_DIM = 512
TILES = {128: (128, 3), 256: (64, 3), 512: (32, 2)}
"""BLOCK_M and stages by columns: the most that need no stack on sm_80 and sm_90, and fit the 99 KiB of other cards."""
BLOCK_N, WARPS = 32, 8


def row_table(z_nD: Tensor, keys_MD: Tensor, ids_3n: Tensor, key_ids_3M: Tensor, form: Form) -> RowTable:
    """As `contrastive_torch.row_table`, in float32, for rows and keys in float16, bfloat16 or float32 of at most
    MAX_DIM columns. Raises ValueError for others.
    """
    n, _ = _check(z_nD, keys_MD)
    table = torch.empty((6, n), dtype=torch.float32, device=z_nD.device)
    weight = None if form.beta is None else log_weight(key_ids_3M, torch.float32)
    _launch(_forward, z_nD, keys_MD, ids_3n, key_ids_3M, (weight, table), form, form.beta or 0.0)
    return RowTable(*table)


def gradient(
    z_nD: Tensor,
    keys_MD: Tensor,
    ids_3n: Tensor,
    key_ids_3M: Tensor,
    scalars_4n: Tensor,
    key_scalars_4M: Tensor,
    form: Form,
) -> Tensor:
    """As `contrastive_torch.gradient`, in float32."""
    n, dim = _check(z_nD, keys_MD)
    peak = key_scalars_4M[1:3].abs().amax().clamp(min=1e-30)  # the same on all processes: keys are those of all
    factor = torch.stack([peak.new_ones(()), PEAK / peak, PEAK / peak, peak.new_ones(())])[:, None]
    dz = torch.empty((n, dim), dtype=torch.float32, device=z_nD.device)
    scalars = (scalars_4n * factor).contiguous(), (key_scalars_4M * factor).contiguous()
    _launch(_gradient, z_nD, keys_MD, ids_3n, key_ids_3M, (*scalars, dz), form, form.sharpness)
    return dz.mul_(peak / (PEAK * form.tau))


def _launch(
    kernel: triton.JITFunction,
    z_nD: Tensor,
    keys_MD: Tensor,
    ids_3n: Tensor,
    key_ids_3M: Tensor,
    own: tuple[Tensor | None, ...],
    form: Form,
    exponent: float,
) -> None:
    """A program for each BLOCK_M rows; `own` is what the kernel takes and gives beside rows, keys and their ids."""
    n, dim = z_nD.shape
    block_m, block_d, stages = _tile(dim)
    with torch.cuda.device_of(z_nD):
        kernel[(triton.cdiv(n, block_m),)](
            z_nD.contiguous(),
            keys_MD.contiguous(),
            ids_3n.contiguous(),
            key_ids_3M.contiguous(),
            *own,
            n,
            len(keys_MD),
            dim,
            1 / form.tau,
            exponent,
            OWN=form.own,
            INSIDE=form.inside,
            BLOCK_M=block_m,
            BLOCK_N=BLOCK_N,
            BLOCK_D=block_d,
            num_warps=WARPS,
            num_stages=stages,
            enable_fp_fusion=True,
        )


def _tile(dim: int) -> tuple[int, int, int]:
    """BLOCK_M, BLOCK_D, stages"""
    block_d = max(16, triton.next_power_of_2(dim))
    block_m, stages = TILES[max(128, block_d)]
    return block_m, block_d, stages


def _check(z_nD: Tensor, keys_MD: Tensor) -> tuple[int, int]:
    n, dim = z_nD.shape
    if z_nD.dtype != keys_MD.dtype or z_nD.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise ValueError(f"the Triton contrastive kernel takes float16, bfloat16 or float32 rows, got {z_nD.dtype}")
    if not 1 <= dim <= MAX_DIM:
        raise ValueError(
            f"the Triton contrastive kernel takes rows of at most {MAX_DIM} columns, got {dim}: use backend closed"
        )
    return n, dim


@triton.jit
def _forward(
    z,
    keys,
    ids,
    key_ids,
    weight,
    table,
    n,
    m,
    dim,
    inverse_tau,
    beta,
    OWN: tl.constexpr,
    INSIDE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    z_a = _rows(z, row, n, dim, BLOCK_D)
    id_a = _ids(ids, row, n)
    scale = inverse_tau * LOG2E  # x in bits, for exp2
    sharp = 1.0 + beta
    high = tl.full([BLOCK_M], NOTHING, tl.float32)  # running maximum of x over D
    total = tl.zeros([BLOCK_M], tl.float32)  # sum over D of exp2(sharp (x - high))
    soft = tl.zeros([BLOCK_M], tl.float32)  # sum over D of exp2(beta (x - high))
    near_high, near_sum, count = high, total, total
    for start in range(0, m, BLOCK_N):
        column = start + tl.arange(0, BLOCK_N)
        P, D = _relations(id_a, _ids(key_ids, column, m))
        x = _similarity(z_a, _rows(keys, column, m, dim, BLOCK_D)) * scale
        higher = tl.maximum(high, tl.max(tl.where(D, x, NOTHING), 1))
        total = total * tl.exp2(sharp * (high - higher))
        total += tl.sum(tl.where(D, tl.exp2(sharp * (x - higher[:, None])), 0.0), 1)
        if weight is not None:
            soft = soft * tl.exp2(beta * (high - higher))
            soft += tl.sum(tl.where(D, tl.exp2(beta * (x - higher[:, None])), 0.0), 1)
        high = higher
        count += tl.sum(tl.where(P, 1.0, 0.0), 1)
        if INSIDE:
            higher = tl.maximum(near_high, tl.max(tl.where(P, x, NOTHING), 1))
            near_sum = near_sum * tl.exp2(near_high - higher)
            near_sum += tl.sum(tl.where(P, tl.exp2(x - higher[:, None]), 0.0), 1)
            near_high = higher
        elif not OWN:
            near_sum += tl.sum(tl.where(P, x, 0.0), 1)

    lse = sharp * high + tl.log2(total)
    N = lse
    if weight is not None:
        N = lse - beta * high - tl.log2(soft) + tl.load(weight) * LOG2E
        N = tl.where(total > 0.0, N, float("-inf"))
    some = tl.maximum(count, 1.0)
    ratio = tl.full([BLOCK_M], 1.0, tl.float32)
    offset = N
    if OWN:
        near_sum, ratio = _own(z_a, id_a, N, keys, key_ids, m, dim, scale, BLOCK_M, BLOCK_N, BLOCK_D)
        loss, ratio = near_sum / some, ratio / some
    elif INSIDE:
        offset = near_high + tl.log2(near_sum)
        loss = N - offset + tl.log2(some)
    else:
        loss = N - near_sum / some
    loss = tl.where(count > 0.0, loss, N)
    inside = row < n
    tl.store(table + row, loss * LN2, inside)
    tl.store(table + n + row, N * LN2, inside)
    tl.store(table + 2 * n + row, lse * LN2, inside)
    tl.store(table + 3 * n + row, offset * LN2, inside)
    tl.store(table + 4 * n + row, ratio, inside)
    tl.store(table + 5 * n + row, count, inside)


@triton.jit
def _own(
    z_a,
    id_a,
    N,
    keys,
    key_ids,
    m,
    dim,
    scale,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Sums over P of log2(1 + exp2(N - x)) and of its slope, sigmoid(N - x)."""
    losses = tl.zeros([BLOCK_M], tl.float32)
    slopes = losses
    N = tl.maximum(N, NOTHING)
    for start in range(0, m, BLOCK_N):
        column = start + tl.arange(0, BLOCK_N)
        P, _ = _relations(id_a, _ids(key_ids, column, m))
        if tl.max(tl.max(P.to(tl.int32), 1), 0) > 0:
            u = N[:, None] - _similarity(z_a, _rows(keys, column, m, dim, BLOCK_D)) * scale
            losses += tl.sum(tl.where(P, tl.maximum(u, 0.0) + tl.log2(1.0 + tl.exp2(-tl.abs(u))), 0.0), 1)
            slopes += tl.sum(tl.where(P, 1.0 / (1.0 + tl.exp2(-u)), 0.0), 1)
    return losses, slopes


@triton.jit
def _gradient(
    z,
    keys,
    ids,
    key_ids,
    scalars,
    key_scalars,
    dz,
    n,
    m,
    dim,
    inverse_tau,
    sharp,
    OWN: tl.constexpr,
    INSIDE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    z_a = _rows(z, row, n, dim, BLOCK_D)
    id_a = _ids(ids, row, n)
    lse_a, A_a, B_a, C_a = _scalars(scalars, row, n)
    scale = inverse_tau * LOG2E
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start in range(0, m, BLOCK_N):
        column = start + tl.arange(0, BLOCK_N)
        P, D = _relations(id_a, _ids(key_ids, column, m))
        z_b = _rows(keys, column, m, dim, BLOCK_D)
        lse_b, A_b, B_b, C_b = _scalars(key_scalars, column, m)
        x = _similarity(z_a, z_b) * scale
        Q = A_a[:, None] * tl.exp2(sharp * x - lse_a[:, None]) + A_b[None, :] * tl.exp2(sharp * x - lse_b[None, :])
        if OWN:
            f = B_a[:, None] / (1.0 + tl.exp2(x - C_a[:, None])) + B_b[None, :] / (1.0 + tl.exp2(x - C_b[None, :]))
        elif INSIDE:
            f = B_a[:, None] * tl.exp2(x - C_a[:, None]) + B_b[None, :] * tl.exp2(x - C_b[None, :])
        else:
            f = B_a[:, None] + B_b[None, :]
        G = tl.where(D, Q, 0.0) - tl.where(P, f, 0.0)
        acc = tl.dot(G.to(z_b.dtype), z_b, acc, input_precision="ieee")
    d = tl.arange(0, BLOCK_D)[None, :]
    inside = (row[:, None] < n) & (d < dim)
    tl.store(dz + row[:, None].to(tl.int64) * dim + d, acc, inside)


@triton.jit
def _rows(z, row, n, dim, BLOCK_D: tl.constexpr):
    """[rows, BLOCK_D], zeros behind the last row and column."""
    d = tl.arange(0, BLOCK_D)[None, :]
    return tl.load(z + row[:, None].to(tl.int64) * dim + d, (row[:, None] < n) & (d < dim), other=0.0)


@triton.jit
def _ids(ids, row, n):
    """pos, apart, den of each row; den of a row that is not there is -1."""
    inside = row < n
    pos = tl.load(ids + row, inside, other=-1)
    apart = tl.load(ids + n + row, inside, other=-1)
    return pos, apart, tl.load(ids + 2 * n + row, inside, other=-1)


@triton.jit
def _scalars(scalars, row, n):
    """lse and C in bits, A and B."""
    inside = row < n
    lse = tl.load(scalars + row, inside, other=0.0) * LOG2E
    A = tl.load(scalars + n + row, inside, other=0.0)
    B = tl.load(scalars + 2 * n + row, inside, other=0.0)
    return lse, A, B, tl.load(scalars + 3 * n + row, inside, other=0.0) * LOG2E


@triton.jit
def _relations(a, b):
    """P and D of a tile."""
    both = (a[2][:, None] >= 0) & (b[2][None, :] >= 0)
    P = (a[0][:, None] == b[0][None, :]) & (a[1][:, None] != b[1][None, :]) & both
    return P, (a[2][:, None] != b[2][None, :]) & both


@triton.jit
def _similarity(z_a, z_b):
    return tl.dot(z_a, tl.trans(z_b), input_precision="ieee")
