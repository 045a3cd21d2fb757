"""Rows against all rows of the global batch: the family of kernels/contrastive_form.py, on one process or several.

Rows are view-major: row v * B + b is view v of image b of this process. Every process has as many.

Collectives (with a group): forward one all-gather of z, and one of the labels where they matter; backward one of four
numbers a row. Gradients need no reduction: the numbers of all rows tell each process what its rows do to the others'
losses. (`reference` reduces the gradient of all rows.)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from fastvarcon.errors import UserError
from fastvarcon.kernels import contrastive_torch
from fastvarcon.kernels.contrastive_form import Form, RowTable, row_scalars
from fastvarcon.losses.backends import resolve_backend
from fastvarcon.losses.base import class_numbers

TRITON_MAX_DIM = 512


class Batch(NamedTuple):
    """Who is who among this process's rows and all keys."""

    row: Tensor
    """[M] int32 number of each row in the global batch."""
    image: Tensor
    """[M] int32 number of its image."""
    label: Tensor | None
    """[M] int32 number of its class among those of the batch, -1 = unknown; None if nobody asked."""
    mine: slice
    """This process's rows among them."""

    @property
    def classes(self) -> Tensor:
        """`label` of a batch that was described with labels."""
        assert self.label is not None
        return self.label


class PairRows(NamedTuple):
    """Per row of this process, [n] each; see RowTable."""

    loss: Tensor
    den: Tensor
    positives: Tensor

    @property
    def valid(self) -> Tensor:
        """[n] bool: the row has a positive and someone in its denominator."""
        return (self.positives > 0) & (self.den > -torch.inf)


def describe_batch(z: Tensor, labels: Tensor | None, num_views: int, group) -> Batch:
    """Numbers of all rows of the global batch. Raises ValueError for shapes that cannot be."""
    check_rows(z, labels, num_views)
    rank, world = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))
    n = len(z)
    index = torch.arange(world * n, dtype=torch.int32, device=z.device)
    images = n // num_views
    image = index // n * images + index % n % images if n else index
    label = None if labels is None else number_classes(gather(class_numbers(labels, n), group))
    return Batch(index, image, label, slice(rank * n, (rank + 1) * n))


def check_rows(z: Tensor, labels: Tensor | None, num_views: int) -> None:
    """Raise ValueError unless z is [n, D] floating point with n a multiple of the views, and labels [n] integers."""
    if z.ndim != 2 or not z.is_floating_point():
        raise ValueError(f"z must be [rows, dim] and floating point, got {tuple(z.shape)} {z.dtype}")
    if num_views < 1 or len(z) % num_views:
        raise ValueError(f"{len(z)} rows are not {num_views} views of each image")
    if labels is not None:
        class_numbers(labels, len(z))


def number_classes(labels: Tensor) -> Tensor:
    """[M] int64 -> [M] int32: 0, 1, ... for the classes in the order of their labels, -1 for negative labels.

    As `unique(return_inverse=True)`, which would wait for the GPU to learn how many classes there are.
    """
    ordered, place = labels.sort()
    number = torch.zeros_like(labels)
    number[1:] = (ordered[1:] != ordered[:-1]).cumsum(0)
    return torch.where(labels < 0, -1, torch.empty_like(number).scatter_(0, place, number)).to(torch.int32)


def pair_rows(z: Tensor, ids: Tensor, mine: slice, form: Form, group=None, backend: str = "auto") -> PairRows:
    """Loss, log-denominator and number of positives of each row of this process.

    Args:
        z: [n, D] rows; float64 stays, everything else is computed in float32. On a GPU the Triton kernel rounds the
            operands of its products to float16 (unit rows: 3e-4 of the gradient) and adds up in float32.
        ids: [3, M] int32: pos, apart and den of all rows of the global batch, as in contrastive_form.py.
        mine: this process's rows among them.
        backend: "reference" (N x N), "closed" (chunks), "triton", or "auto": triton on CUDA for up to TRITON_MAX_DIM
            columns that are not float64, else closed.

    Raises:
        ValueError: unknown backend, or one that cannot take these rows.
    """
    backend = resolve_backend(backend, z, TRITON_MAX_DIM)
    with torch.autocast(z.device.type, enabled=False):
        z = z if z.dtype == torch.float64 else z.float()
        z = torch.where((ids[2, mine] >= 0)[:, None], z, 0)  # rows that take no part may hold anything
        if backend == "reference":
            keys = z if group is None else _Gather.apply(z, mine, group)
            table = contrastive_torch.reference(z, keys, ids[:, mine], ids, form)
            return PairRows(table.loss, table.den, table.positives)
        return PairRows(*_Rows.apply(z, ids, mine, form, group, backend))


class _Rows(torch.autograd.Function):
    """The closed form, chunked or in Triton."""

    @staticmethod
    def forward(ctx, z_nD, ids_3M, mine, form: Form, group, backend: str):
        implementation, operand = _implementation(backend)
        rows_nD = z_nD.to(operand or z_nD.dtype)
        keys_MD = gather(rows_nD, group)
        table = implementation.row_table(rows_nD, keys_MD, ids_3M[:, mine], ids_3M, form)
        ctx.save_for_backward(rows_nD, keys_MD, ids_3M, *table)
        ctx.settings = mine, form, group, implementation
        ctx.mark_non_differentiable(table.positives)
        return table.loss, table.den, table.positives

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g_n, h_n, _):
        rows_nD, keys_MD, ids_3M, *columns = ctx.saved_tensors
        mine, form, group, implementation = ctx.settings
        scalars_n4 = row_scalars(RowTable(*columns), g_n, h_n, form).T.contiguous()
        keys_M4 = gather(scalars_n4, group)
        dz = implementation.gradient(rows_nD, keys_MD, ids_3M[:, mine], ids_3M, scalars_n4.T, keys_M4.T, form)
        return dz, None, None, None, None, None


class _Gather(torch.autograd.Function):
    """`gather` with a gradient: that of all processes' losses."""

    @staticmethod
    def forward(ctx, rows, mine, group):
        ctx.settings = mine, group
        return gather(rows, group)

    @staticmethod
    def backward(ctx, grad):
        mine, group = ctx.settings
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total[mine], None, None


def _implementation(backend: str):
    """(module, dtype of the operands or None for that of z)"""
    if backend == "closed":
        return contrastive_torch, None
    from fastvarcon.kernels import contrastive  # triton is not on every system, and only this needs it

    return contrastive, torch.float16


def gather(rows: Tensor, group) -> Tensor:
    """The rows of all processes, one behind the other; without a gradient."""
    if group is None:
        return rows
    out = rows.new_empty((dist.get_world_size(group) * len(rows), *rows.shape[1:]))
    dist.all_gather_into_tensor(out, rows.contiguous(), group=group)
    return out


def global_mean(rows: Tensor, weights: Tensor, group, complaint: str) -> Tensor:
    """Mean of `rows` [n] with `weights` [n] over the global batch; its gradient is that of this process's rows.

    0, with a zero gradient, where all weights are 0 on a GPU: to look at them there would stall the stream.

    Raises:
        UserError: `complaint`, where all weights are 0 on a CPU.
    """
    weights = weights.to(rows.dtype)
    total = torch.where(weights > 0, rows, 0).mul(weights).sum()
    sums = torch.stack([total.detach(), weights.sum()])
    if group is not None:
        dist.all_reduce(sums, group=group)
    if sums.device.type == "cpu" and sums[1] == 0:
        raise UserError(complaint)
    weight = torch.where(sums[1] > 0, sums[1], 1)
    return total / weight + (sums[0] - total.detach()) / weight
