"""VarCon in Triton: the rows of one process against the class sums of the global batch, forward and backward.

Rows z_i are unit vectors of class y_i; w_k is the normalised sum of class k, K classes are present, x_k = z.w_k / tau1,
p = softmax(x). With a = 1/tau2, u = log(K-1) - a, q = sigmoid(-u) the target of the true class and r = 1 - q that of
the others together, margin = x_y - mean of the other x, and weights kl, nll of the two terms (1 and 1 in the paper):

    tau2 = (tau1 - eps) + 2 eps p_y
    KL   = q (log q - log p_y) + r (log q - a + margin - log p_y)        loss = kl KL - nll log p_y
    t    = kl a^2 q r (margin - a)           dloss/deps = (2 p_y - 1) t, with the path through p_y in
    c    = 2 eps p_y t                       (0 if the target is detached)
    A    = (kl - c + nll)(1 - p_y)      B = kl r/(K-1)      G = kl (r - (1 - p_y)) + (c - nll)(1 - p_y)

    dloss/dx_k = A o_k - B  (k != y)         dloss/dx_y = G

where o = softmax over the other classes alone. 1 - p_y is the sum over the others divided by the whole, so nothing
cancels, and m = sum of o_k w_k is of order 1 for every row, so float16 can hold it:

    dz    = [A m - B (Wsum - w_y) + G w_y] / tau1
    dw_k  = sum over rows of (A o_k - B, or G for those of class k) z / tau1
    ds_k  = (dw_k - w_k (w_k.dw_k)) / |s_k|

A label outside [0, num_classes) ignores its row if negative and makes its loss NaN otherwise. With `own`, the true
cosine comes from outside (leave-one-out centroids): its gradient is G / tau1 and w_y plays no part but in sums.

Launches: finalise, rows, and one for dz: class_sums.py makes the sums (1 launch, or a sort and 2), varcon_finalise.py
the table of centroids, varcon_rows.py (D <= 256) or varcon_chunked.py (above, and for few rows against many classes)
the row scalars and m, varcon_backward.py dz, varcon_centroids.py ds. 4NCD flops for loss and dz, 4NCD more for ds. No
N x C tensor, nothing waits for the GPU, any call can be captured in a CUDA graph; equal inputs give equal bits.

16-bit rows are computed in float16, whose three more bits of mantissa are what a unit vector needs, and bfloat16's
range what it does not; float32 rows by three TF32 products (22 bits), or by one where the user has allowed TF32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import varcon_chunked, varcon_tiles
from .class_sums import METHODS as SUM_METHODS
from .class_sums import class_sums as _class_sums
from .class_sums import splits_of
from .varcon_backward import rows_backward as _rows_backward
from .varcon_centroids import sums_backward as _sums_backward
from .varcon_finalise import Centroids, empty_centroids, finalise
from .varcon_rows import COLUMNS, rows_forward

__all__ = ["COLUMNS", "MAX_DIM", "SUM_METHODS", "class_sums", "rows"]

MAX_DIM = 2048
STATS = COLUMNS.index("tau2")


def class_sums(z: Tensor, labels: Tensor, num_classes: int, method: str = "auto") -> tuple[Tensor, Tensor]:
    """`class_sums.class_sums`: sums [P, C, D] float32 and counts [P, C] int32, to be added up over P."""
    sums = _sums_op if torch.compiler.is_compiling() else _class_sums
    return sums(z, labels, num_classes, method)


def rows(
    z: Tensor, sums: Tensor, counts: Tensor, labels: Tensor, *, own: Tensor | None = None, eps: float | Tensor,
    tau1: float, kl: float = 1.0, nll: float = 1.0, detach_target: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The loss of each row, with gradients by z, sums, own and eps.

    Args:
        z: [N, D <= MAX_DIM] unit rows, float32, float16 or bfloat16, on a GPU (or the CPU in Triton's interpreter).
        sums: [P, C, D] float32 class sums of the global batch, added up over P. Their gradient is only made if asked.
        counts: [P, C] numbers of rows; a class is present where the total is positive.
        labels: [N] integers in [0, C), negative = ignored row.
        own: [N] float32 true cosines from outside, or None.
        eps: a number, or a float32 tensor of one element.
        tau1, kl, nll, detach_target: see above.

    Returns:
        (loss [N] float32, statistics [5, N] float32 without gradient (tau2, confidence, kl, nll, hit: 0 in ignored
        rows), 1 / rows counted [1] float32)
    """
    z = z if z.stride(1) == 1 else z.contiguous()
    with_gradient = torch.is_grad_enabled() and z.requires_grad
    eps_at = eps if torch.is_tensor(eps) else None
    eps = 0.0 if torch.is_tensor(eps) else eps
    settings = (eps, tau1, kl, nll, 0.0 if detach_target else 1.0, with_gradient)
    return _Rows.apply(z, sums, own, eps_at, counts, labels.contiguous(), *settings)


def dot_precision(dtype: torch.dtype) -> str:
    """Of the products: exact for 16 bit; for float32 TF32 where torch uses it, else three of them."""
    if dtype != torch.float32:
        return "ieee"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3"


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, sums, own, eps_at, counts, labels, eps, tau1, kl, nll, adapt, with_gradient):
        forward = _forward_op if torch.compiler.is_compiling() else _forward
        columns, m, inverse_rows, *table = forward(
            z, sums, own, eps_at, counts, labels, eps, tau1, kl, nll, adapt, with_gradient
        )
        ctx.save_for_backward(z if ctx.needs_input_grad[1] else None, labels, columns, m, *table)
        ctx.tau1, ctx.own, ctx.shapes = tau1, own is not None, (sums.shape, z.dtype)
        stats = columns[STATS:]
        ctx.mark_non_differentiable(stats, inverse_rows)
        return columns[0], stats, inverse_rows

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, *_):
        z, labels, columns, m, *table = ctx.saved_tensors
        (splits, classes, dim), dtype = ctx.shapes
        dz = dsums = down = deps = None
        if ctx.needs_input_grad[0]:
            backward = _backward_op if torch.compiler.is_compiling() else _backward
            dz = backward(grad, labels, columns, m, table, ctx.tau1, ctx.own, dtype)
        if ctx.needs_input_grad[1]:
            by_sums = _by_sums_op if torch.compiler.is_compiling() else _by_sums
            dsums = by_sums(grad, z, labels, columns, table, classes, ctx.tau1, ctx.own)
            dsums = dsums.expand(splits, classes, dim)
        if ctx.needs_input_grad[2]:
            down = grad * columns[COLUMNS.index("G")] / ctx.tau1
        if ctx.needs_input_grad[3]:
            deps = (grad * columns[COLUMNS.index("slope")]).sum()
        return dz, dsums, down, deps, *(None,) * 8


# ---- the launches, and their names for torch.compile ---------------------------------------------------------------


def _forward(
    z: Tensor,
    sums: Tensor,
    own: Tensor | None,
    eps_at: Tensor | None,
    counts: Tensor,
    labels: Tensor,
    eps: float,
    tau1: float,
    kl: float,
    nll: float,
    adapt: float,
    with_gradient: bool,
) -> list[Tensor]:
    """[row scalars, m (empty without gradient), 1 / rows, *Centroids]"""
    dtype = torch.float32 if z.dtype == torch.float32 else torch.float16
    table = finalise(sums, counts, dtype)
    num_classes, (N, D) = sums.shape[1], z.shape
    arguments = (z, labels, own, eps, eps_at, table, num_classes)
    options: dict[str, Any] = {
        "tau1": tau1, "kl": kl, "nll": nll, "adapt": adapt, "with_gradient": with_gradient,
        "precision": dot_precision(z.dtype),
    }  # fmt: skip
    tile = varcon_tiles.row_tile(N, num_classes, D, dtype)
    if tile is None:
        columns, m, inverse_rows = varcon_chunked.rows_chunked(*arguments, **options)
    else:
        key = (z.dtype, D, N, num_classes, with_gradient)
        tile = varcon_tiles.tuned(key, tile, lambda one: rows_forward(*arguments, **options, tile=one))
        columns, m, inverse_rows = rows_forward(*arguments, **options, tile=tile)
    return [columns, z.new_empty(0) if m is None else m, inverse_rows, *table]


def _backward(
    grad: Tensor, labels: Tensor, columns: Tensor, m: Tensor, table: list[Tensor], tau1: float, own: bool,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    return _rows_backward(grad, labels, columns, m, Centroids(*table), tau1, own, dtype)


def _by_sums(
    grad: Tensor, z: Tensor, labels: Tensor, columns: Tensor, table: list[Tensor], num_classes: int, tau1: float,
    own: bool,
) -> Tensor:  # fmt: skip
    return _sums_backward(
        grad, z, labels, columns, Centroids(*table), num_classes, tau1=tau1, own=own, precision=dot_precision(z.dtype)
    )


def _sums(z: Tensor, labels: Tensor, num_classes: int, method: str) -> tuple[Tensor, Tensor]:
    return _class_sums(z, labels, num_classes, method)


def _name(name: str, function, fake):
    op = torch.library.custom_op(f"fastvarcon::{name}", function, mutates_args=())
    op.register_fake(fake)
    return op


def _fake_forward(z, sums, own, eps_at, counts, labels, eps, tau1, kl, nll, adapt, with_gradient):
    N, D = z.shape
    dtype = torch.float32 if z.dtype == torch.float32 else torch.float16
    columns = z.new_empty((len(COLUMNS), N), dtype=torch.float32)
    m = z.new_empty((N, D), dtype=dtype) if with_gradient else z.new_empty(0)
    table = empty_centroids(sums.shape[1], D, dtype, z.device)
    return [columns, m, z.new_empty(1, dtype=torch.float32), *table]


def _fake_backward(grad, labels, columns, m, table, tau1, own, dtype):
    return torch.empty_like(m, dtype=dtype)


def _fake_by_sums(grad, z, labels, columns, table, num_classes, tau1, own):
    return z.new_empty((num_classes, z.shape[1]), dtype=torch.float32)


def _fake_sums(z, labels, num_classes, method):
    rows, dim = z.shape
    splits = splits_of(rows, dim, num_classes, method)
    sums = z.new_empty((splits, num_classes, dim), dtype=torch.float32)
    return sums, z.new_empty((splits, num_classes), dtype=torch.int32)


_forward_op = _name("varcon_rows", _forward, _fake_forward)
_backward_op = _name("varcon_rows_backward", _backward, _fake_backward)
_by_sums_op = _name("varcon_sums_backward", _by_sums, _fake_by_sums)
_sums_op = _name("varcon_class_sums", _sums, _fake_sums)
