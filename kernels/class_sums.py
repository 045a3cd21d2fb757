"""Sums and counts of the rows of each class, on a GPU.

    s_k = sum of z_i over the rows with y_i = k,  n_k = their number;  a negative label belongs to no class

Three ways, the first two repeatable to the bit because every addition has its place:

    onehot   s = onehot(y)^T z, the one-hot made in registers and multiplied on tensor cores, in P splits of the rows
             that the caller adds up in order. One launch, 2NCD flops: the fastest while there is little to do.
    sorted   a stable sort of the labels, then pieces of 64 rows in that order: a piece holds runs of equal labels, and
             the one-hot of the runs times the rows gives their sums. A class inside one piece is then done; the pieces
             of a longer one lie in two buffers and a second launch adds them in order. 3 N D bytes of traffic.
    atomic   float32 atomics: one launch, sums in the order of arrival. Two runs differ in the last bits.

Tensor cores multiply a one-hot exactly and add in float32. float32 rows are cut into two float16 parts of 11 bits each
(z = high + low / 2048, |z| <= 1), so nothing is lost there either.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .varcon_tiles import cdiv, padded

METHODS = ("auto", "onehot", "sorted", "atomic")
FEW = 2**31  # N x C x D up to which the one-hot dot is quicker than the six launches of a sort
PROGRAMS = 128  # about one for each multiprocessor
PIECE = tl.constexpr(64)
LOW = tl.constexpr(2048.0)


def class_sums(z: Tensor, labels: Tensor, num_classes: int, method: str = "auto") -> tuple[Tensor, Tensor]:
    """Sums [P, C, D] float32 and counts [P, C] int32; added up over the first axis they are the sums and counts.

    Args:
        z: [N, D] rows with |z| <= 1, float32, float16 or bfloat16.
        labels: [N] integers below `num_classes`; negative = in no class.
        method: "onehot", "sorted", "atomic" or "auto" (one of the first two, by size).
    """
    rows, dim = z.shape
    method = _choose(rows, dim, num_classes, method)
    z = z if z.stride(1) == 1 else z.contiguous()
    return {"onehot": _onehot, "sorted": _sorted, "atomic": _atomic}[method](z, labels.contiguous(), num_classes)


def _choose(rows: int, dim: int, num_classes: int, method: str) -> str:
    if method != "auto":
        return method
    return "onehot" if num_classes <= 128 or rows * num_classes * dim <= FEW else "sorted"


def splits_of(rows: int, dim: int, num_classes: int, method: str = "auto") -> int:
    """P of `class_sums`."""
    if _choose(rows, dim, num_classes, method) != "onehot":
        return 1
    block_c, block_d = _onehot_blocks(dim, num_classes)
    programs = cdiv(num_classes, block_c) * cdiv(dim, block_d)
    if programs <= 4:  # a handful of classes: their sums are small enough for many splits
        return max(1, min(32, cdiv(rows, 256)))
    return max(1, min(8, PROGRAMS // programs, cdiv(rows, 512)))


def _onehot_blocks(dim: int, num_classes: int) -> tuple[int, int]:
    return 16 if num_classes <= 16 else 64, min(128, padded(dim))


# ---- one-hot dot ---------------------------------------------------------------------------------------------------


def _onehot(z: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    rows, dim = z.shape
    block_c, block_d = _onehot_blocks(dim, num_classes)
    splits = splits_of(rows, dim, num_classes, "onehot")
    grid = cdiv(num_classes, block_c), cdiv(dim, block_d), splits
    sums = torch.empty((splits, num_classes, dim), dtype=torch.float32, device=z.device)
    counts = torch.empty((splits, num_classes), dtype=torch.int32, device=z.device)
    step = cdiv(cdiv(rows, splits), PIECE.value) * PIECE.value
    with torch.cuda.device_of(z):
        _onehot_sums[grid](
            z, labels, sums, counts, rows, dim, num_classes, z.stride(0), step,
            BLOCK_C=block_c, BLOCK_D=block_d, num_warps=8 if z.itemsize == 4 and block_c == 64 else 4, num_stages=3,
            enable_fp_fusion=True,
        )  # fmt: skip
    return sums, counts


@triton.jit(do_not_specialize=["N", "C", "step"])
def _onehot_sums(
    z, labels, sums, counts, N, D, C, stride, step, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """Rows [split * step, (split + 1) * step), a tile of classes, a slice of D."""
    split = tl.program_id(2)
    k = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    high = tl.zeros([BLOCK_C, BLOCK_D], tl.float32)
    low = tl.zeros([BLOCK_C, BLOCK_D], tl.float32)
    count = tl.zeros([BLOCK_C], tl.int32)
    end = tl.minimum(split * step + step, N)
    for start in range(split * step, end, PIECE):
        i = start + tl.arange(0, PIECE)
        y = tl.load(labels + i, i < end, -1).to(tl.int32)
        z_ND = tl.load(z + i.to(tl.int64)[:, None] * stride + d[None, :], (i < end)[:, None] & (d < D)[None, :], 0.0)
        z_ND = tl.where((y >= 0)[:, None], z_ND, 0.0)
        hit = k[:, None] == y[None, :]
        count += tl.sum(hit.to(tl.int32), 1)
        high, low = _add_exactly(hit, z_ND, high, low)
    at = split * C + k
    tl.store(sums + at.to(tl.int64)[:, None] * D + d[None, :], high + low / LOW, (k < C)[:, None] & (d < D)[None, :])
    if tl.program_id(1) == 0:
        tl.store(counts + at, count, k < C)


@triton.jit
def _add_exactly(hit, z_ND, high, low):
    """high + low / LOW grows by hit @ z, without rounding z."""
    onehot = hit.to(tl.float16)
    part = z_ND.to(tl.float16)
    high = tl.dot(onehot, part, high)
    if z_ND.dtype == tl.float32:
        low = tl.dot(onehot, ((z_ND - part.to(tl.float32)) * LOW).to(tl.float16), low)
    return high, low


# ---- sorted --------------------------------------------------------------------------------------------------------


def _sorted(z: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    rows, dim = z.shape
    narrow = torch.int16 if num_classes < 2**15 else torch.int32  # a radix sort takes one pass for each byte
    keys, order = labels.where(labels < num_classes, -1).to(narrow).sort(stable=True)  # nobody looks at labels on a GPU
    pieces = cdiv(rows, PIECE.value)
    block_d = min(128, padded(dim))
    slices = cdiv(dim, block_d)
    sums = torch.empty((1, num_classes, dim), dtype=torch.float32, device=z.device)
    counts = torch.empty((1, num_classes), dtype=torch.int32, device=z.device)
    ends = torch.empty((2, pieces, dim), dtype=torch.float32, device=z.device)
    with torch.cuda.device_of(z):
        if rows:
            _sum_runs[(pieces, slices)](
                z,
                keys,
                order,
                sums,
                ends,
                rows,
                dim,
                pieces,
                z.stride(0),
                BLOCK_D=block_d,
                num_warps=4,
                enable_fp_fusion=True,
            )
        _join_runs[(cdiv(num_classes, 16), slices)](
            keys,
            sums,
            ends,
            counts,
            rows,
            dim,
            num_classes,
            pieces,
            BLOCK_C=16,
            BLOCK_D=block_d,
            num_warps=4,
            enable_fp_fusion=True,
        )
    return sums, counts


@triton.jit(do_not_specialize=["N", "pieces"])
def _sum_runs(z, keys, order, sums, ends, N, D, pieces, stride, BLOCK_D: tl.constexpr):
    """The runs of equal labels in one piece: whole classes go to `sums`, cut ones to `ends` ([0] where the run began
    in an earlier piece, [1] where it only goes on in a later one)."""
    piece = tl.program_id(0)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    i = piece * PIECE + tl.arange(0, PIECE)
    y = tl.load(keys + i, i < N, -1).to(tl.int32)
    before = tl.load(keys + i - 1, (i > 0) & (i < N), -1).to(tl.int32)
    run = tl.cumsum(((y != before) & (tl.arange(0, PIECE) > 0)).to(tl.int32), 0)
    row = tl.load(order + i, i < N, 0)
    z_ND = tl.load(z + row[:, None] * stride + d[None, :], (y >= 0)[:, None] & (d < D)[None, :], 0.0)
    hit = (tl.arange(0, PIECE)[:, None] == run[None, :]) & (y >= 0)[None, :]
    high = tl.zeros([PIECE, BLOCK_D], tl.float32)
    high, low = _add_exactly(hit, z_ND, high, tl.zeros([PIECE, BLOCK_D], tl.float32))

    k = tl.max(tl.where(hit, y[None, :], -1), 1)  # label of each run, -1 for numbers that no run has
    first, last = piece * PIECE, tl.minimum(piece * PIECE + PIECE, N)
    begun = (first > 0) & (k == tl.load(keys + first - 1, first > 0, -1).to(tl.int32))
    goes_on = (last < N) & (k == tl.load(keys + last, last < N, -1).to(tl.int32))
    to = sums + k.to(tl.int64) * D
    to = tl.where(goes_on, ends + (pieces + piece).to(tl.int64) * D, to)
    to = tl.where(begun, ends + piece.to(tl.int64) * D, to)
    tl.store(to[:, None] + d[None, :], high + low / LOW, (k >= 0)[:, None] & (d < D)[None, :])


@triton.jit(do_not_specialize=["N", "C", "pieces"])
def _join_runs(keys, sums, ends, counts, N, D, C, pieces, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr):
    """Counts, sums of the classes that span pieces, zeros for those that are absent."""
    k = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    begin, end = _lower_bound(keys, N, k), _lower_bound(keys, N, k + 1)
    if tl.program_id(1) == 0:
        tl.store(counts + k, end - begin, k < C)
    first, last = begin // PIECE, (end - 1) // PIECE
    inside = (k < C)[:, None] & (d < D)[None, :]
    absent = begin == end
    total = tl.load(
        ends + (pieces + first).to(tl.int64)[:, None] * D + d[None, :], (last > first)[:, None] & inside, 0.0
    )
    for step in range(1, tl.max(tl.where(absent, 0, last - first)) + 1):
        at = first + step
        total += tl.load(ends + at.to(tl.int64)[:, None] * D + d[None, :], (at <= last)[:, None] & inside, 0.0)
    tl.store(sums + k.to(tl.int64)[:, None] * D + d[None, :], total, ((last > first) | absent)[:, None] & inside)


@triton.jit
def _lower_bound(keys, N, k):
    """Number of sorted keys below k."""
    low = tl.zeros_like(k)
    high = low + N
    while tl.max(high - low) > 0:
        middle = (low + high) // 2
        below = (low < high) & (tl.load(keys + middle, low < high, 0).to(tl.int32) < k)
        high = tl.where(below | (low >= high), high, middle)
        low = tl.where(below, middle + 1, low)
    return low


# ---- atomics -------------------------------------------------------------------------------------------------------


def _atomic(z: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    rows, dim = z.shape
    sums = torch.zeros((1, num_classes, dim), dtype=torch.float32, device=z.device)
    counts = torch.zeros((1, num_classes), dtype=torch.int32, device=z.device)
    if rows:
        with torch.cuda.device_of(z):
            _atomic_sums[(cdiv(rows, 16),)](
                z, labels, sums, counts, rows, dim, num_classes, z.stride(0),
                BLOCK_D=padded(dim), num_warps=4, enable_fp_fusion=True,
            )  # fmt: skip
    return sums, counts


@triton.jit(do_not_specialize=["N", "C"])
def _atomic_sums(z, labels, sums, counts, N, D, C, stride, BLOCK_D: tl.constexpr):
    i = tl.program_id(0) * 16 + tl.arange(0, 16)
    d = tl.arange(0, BLOCK_D)
    y = tl.load(labels + i, i < N, -1).to(tl.int64)
    counted = (y >= 0) & (y < C)
    mask = counted[:, None] & (d < D)[None, :]
    z_ND = tl.load(z + i.to(tl.int64)[:, None] * stride + d[None, :], mask, 0.0)
    tl.atomic_add(sums + y[:, None] * D + d[None, :], z_ND.to(tl.float32), mask, sem="relaxed")
    tl.atomic_add(counts + y, 1, counted, sem="relaxed")
