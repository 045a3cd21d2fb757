"""Gradient by the rows from what the forward pass left, elementwise (notation of kernels/varcon.py).

    dz_i = g_i / tau1 [ A_i m_i - B_i (Wsum - w_y) + G_i w_y ]

Reads m and one centroid a row, writes dz: 6 N D bytes in 16 bit. The incoming gradient g is applied here: 1/(N tau1)
in a stored tensor would cost float16 an order of magnitude of precision.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .varcon_finalise import Centroids
from .varcon_tiles import cdiv


def rows_backward(
    grad: Tensor, labels: Tensor, columns: Tensor, m: Tensor, table: Centroids, tau1: float, own: bool,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """dz [N, D] in `dtype`. grad: [N] float32 of any stride; own: the true cosine came from outside (no G w_y)."""
    N, D = m.shape
    dz = torch.empty((N, D), dtype=dtype, device=m.device)
    if N:
        block_d = table.w.shape[1]
        block_m = max(1, 4096 // block_d)
        with torch.cuda.device_of(m):
            _dz[(cdiv(N, block_m),)](
                grad, labels, columns, m, table.w, table.wsum, dz,
                N, D, grad.stride(0), table.parts.shape[1], table.w.shape[0], 1 / tau1,
                OWN=own, BLOCK_M=block_m, BLOCK_D=block_d, num_warps=4, enable_fp_fusion=True,
            )  # fmt: skip
    return dz


@triton.jit(do_not_specialize=["N", "programs", "R"])
def _dz(
    grad, labels, columns, m, w, wsum, dz, N, D, grad_stride, programs, R, inverse_tau1,
    OWN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    y = tl.load(labels + i, i < N, -1).to(tl.int64)
    counted = (y >= 0) & (y < R)
    g = tl.load(grad + i.to(tl.int64) * grad_stride, counted, 0.0).to(tl.float32) * inverse_tau1
    row = columns + i
    A = tl.load(row + N, counted, 0.0) * g
    B = tl.load(row + 2 * N, counted, 0.0) * g
    own = B
    if not OWN:
        own += tl.load(row + 3 * N, counted, 0.0) * g
    inside = counted[:, None] & (d < D)[None, :]
    at = i.to(tl.int64)[:, None] * D + d[None, :]
    wy_MD = tl.load(w + y[:, None] * BLOCK_D + d[None, :], inside, 0.0).to(tl.float32)
    m_MD = tl.load(m + at, inside, 0.0).to(tl.float32)
    wsum_D = tl.load(wsum + programs * BLOCK_D + d)
    dz_MD = A[:, None] * m_MD - B[:, None] * wsum_D[None, :] + own[:, None] * wy_MD
    tl.store(dz + at, dz_MD.to(dz.dtype.element_ty), (i < N)[:, None] & (d < D)[None, :])
