"""Class sums of the global batch: what the ranks share, and nothing else.

    s_k = sum of the rows of class k on all ranks, n_k their number

Collectives of a step with a group, W ranks, C classes, D columns:

    forward     one all-reduce of 4 C (D + 1) bytes: sums and counts in one message (8 bytes a number in float64)
    backward    none with detached centroids, else one of 4 C D bytes: the gradient by the sums
    compacted   where C is more than `max_rows`, the most rows that a global batch has: an all-reduce of C bytes tells
                which classes are present, needs the labels alone and goes first; the others then carry max_rows
                instead of C classes, whatever C is: docs/maths/kernels.md#exchange-between-processes

Rows are never gathered. Every rank must give the same `max_rows`; how many rows each has is its own affair.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def compact(labels: Tensor, num_classes: int, bound: int, group) -> tuple[Tensor, int]:
    """(labels numbered among the classes present in their order, a bound of that number). Nothing waits for a GPU.

    labels: int64 in [-1, num_classes], the last of which is no class. At most `bound` classes may be present in the
    global batch; a label beyond gets a number that is none of a class.
    """
    present = torch.zeros(num_classes + 1, dtype=torch.uint8, device=labels.device)
    present.scatter_(0, torch.where(labels < 0, num_classes, labels).long(), 1)
    present = present[:num_classes]
    work = dist.all_reduce(present, dist.ReduceOp.MAX, group=group, async_op=True) if group is not None else None
    slot, classes = labels.clamp(0, num_classes - 1), min(num_classes, bound)
    if work is not None:
        work.wait()
    number = (present.cumsum(0, dtype=torch.int64) - 1)[slot]
    return torch.where(labels < 0, -1, torch.where(labels < num_classes, number, classes)), classes


def class_sums(z: Tensor, labels: Tensor, num_classes: int, group, triton_method: str | None) -> tuple[Tensor, Tensor]:
    """Sums [P, C, D] and counts [P, C], to be added up over P; differentiable (then P = 1).

    Args:
        triton_method: how the Triton kernel makes them, or None for plain torch.
    """
    if group is None and not (torch.is_grad_enabled() and z.requires_grad):
        return _local_sums(z, labels, num_classes, triton_method)
    sums, counts = _GlobalSums.apply(z, labels, num_classes, group, triton_method)
    return sums[None], counts[None]


def _local_sums(z, labels, num_classes, triton_method) -> tuple[Tensor, Tensor]:
    if triton_method is not None:
        from fastvarcon.kernels import varcon

        return varcon.class_sums(z, labels, num_classes, triton_method)
    valid, slot = labels >= 0, labels.clamp(min=0).long()
    sums = z.new_zeros(num_classes, z.shape[1]).index_add_(0, slot, torch.where(valid[:, None], z, 0))
    return sums[None], z.new_zeros(num_classes).index_add_(0, slot, valid.to(z))[None]


class _GlobalSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, labels, num_classes, group, triton_method):
        sums, counts = _local_sums(z, labels, num_classes, triton_method)
        sums, counts = _sum_over_parts(sums), _sum_over_parts(counts)
        if group is not None:
            message = torch.cat([sums.flatten(), counts.to(sums)])
            dist.all_reduce(message, group=group)
            sums, counts = message[: sums.numel()].view_as(sums), message[sums.numel() :]
        ctx.save_for_backward(labels)
        ctx.group, ctx.dtype = group, z.dtype
        ctx.mark_non_differentiable(counts)
        return sums, counts

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dsums, _):
        [labels] = ctx.saved_tensors
        if ctx.group is not None:
            dsums = dsums.clone(memory_format=torch.contiguous_format)
            dist.all_reduce(dsums, group=ctx.group)
        dz = torch.where((labels >= 0)[:, None], dsums[labels.clamp(min=0)], 0)
        return dz.to(ctx.dtype), None, None, None, None


def _sum_over_parts(parts: Tensor) -> Tensor:
    return parts[0] if len(parts) == 1 else parts.sum(0, dtype=parts.dtype)


def own_cosines(z: Tensor, labels: Tensor, sums: Tensor, counts: Tensor, detach_centroids: bool) -> Tensor:
    """Cosine [N] of each row to the centroid of its class without itself: 0 for the only row of a class.

    sums: [P, C, D] and counts: [P, C] of the global batch; the result has the dtype of the sums.
    """
    valid, slot = labels >= 0, labels.clamp(min=0).long()
    z = torch.where(valid[:, None], z, 0).to(sums.dtype)
    row, total = (z.detach(), sums.detach()) if detach_centroids else (z, sums)
    alone = _sum_over_parts(counts)[slot] == 1  # rounding would leave a direction
    others = torch.where(alone[:, None], 0, _sum_over_parts(total)[slot] - row)
    return (z * F.normalize(others, dim=1)).sum(1)


class AverageGradient(torch.autograd.Function):
    """The value as it is; its gradient is averaged over the ranks, as DDP does with those of the network."""

    @staticmethod
    def forward(ctx, value, group):
        ctx.group = group
        return value.clone()

    @staticmethod
    def backward(ctx, grad):
        if ctx.group is not None:
            grad = grad / dist.get_world_size(ctx.group)
            dist.all_reduce(grad, group=ctx.group)
        return grad, None
