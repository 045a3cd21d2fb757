"""VarCon: variational supervised contrastive loss (Wang et al., NeurIPS 2025, arXiv 2506.07413).

Rows z_i are unit vectors with class y_i. K classes are present in the global batch; w_k is the normalised sum of the
rows of class k, l_k = z.w_k / tau1 a logit, p = softmax(l) over the classes present. Equations as in the paper:

    loss_i = KL(q || p) - log p_y                                                       (7)
    q      = softmax(onehot(y) / tau2)                                                  (10)-(12)
    tau2   = (tau1 - eps) + 2 eps p_y                                                   (13)

Closed form. With a = 1/tau2, L = logsumexp(l), s = l_y, S = sum_k l_k, lbar = (S - s)/(K - 1), u = log(K - 1) - a:

    log q_t = -softplus(u)      target of the true class; never forms e^a, so no overflow for any tau2
    r       = sigmoid(u)        mass of the K - 1 others together, q_o = r/(K - 1) each, log q_o = log q_t - a
    KL      = q_t (log q_t - log p_y) + r (log q_o - lbar + L)
    dloss/dl_k = (2 - c) p_k - q_o                          k != y
    dloss/dl_y = (2 - c) p_y - q_o - (1 - c + q_t - q_o)
    c          = 2 eps a^2 p_y q_t r (s - lbar - a)         the path through tau2; 0 if the target is detached

so one N x K tensor is kept for the backward pass. K = 1: loss and gradient are 0.

Distributed (`group`): every rank evaluates its own rows against the class sums of the global batch. Value and
gradient are those of one process that holds all rows: rank r's z.grad is its slice of the gradient of the global
mean. (Under DDP, which averages gradients over ranks, multiply the loss by the world size before `backward`; the
trainer does.)
Collectives: forward one all-reduce of num_classes x (D + 1) numbers and one of a scalar; backward none with detached
centroids, else one of num_classes x (D + 1). Rows are never gathered.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.nn.functional import all_reduce as differentiable_all_reduce

BACKENDS = ("auto", "closed", "reference")
REDUCTIONS = ("mean", "sum", "none")


@dataclass(frozen=True)
class VarConStats:
    """Per-row numbers of this rank, [n] each, without gradient; 0 in ignored rows."""

    tau2: Tensor
    """Adaptive temperature, in [tau1 - eps, tau1 + eps]."""
    confidence: Tensor
    """p_y. Rows are part of their own centroid, so this is high even for random features: no measure of learning."""
    kl: Tensor
    nll: Tensor
    hit: Tensor
    """1 where the nearest centroid is that of the row's class. Biased like `confidence`."""


def varcon_loss(
    z: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    tau1: float = 0.1,
    eps: float = 0.02,
    group=None,
    reduction: str = "mean",
    detach_centroids: bool = True,
    detach_target: bool = False,
    backend: str = "auto",
) -> Tensor:
    """VarCon loss (7) of the global batch.

    Args:
        z: [n, D] unit rows of this rank, float64/32/16 or bfloat16; half precision is computed in float32.
        labels: [n] integer class of each row in [0, num_classes); negative = ignored row (no loss, no gradient, in no
            centroid, not counted).
        num_classes: classes of the dataset; those absent from the batch play no part.
        tau1: temperature (8), > eps.
        eps: half-width of the adaptive temperature (13), >= 0.
        group: process group that shares the batch; None = this process alone.
        reduction: "mean" over the rows of the global batch, "sum" over them, or "none": [n], this rank's rows.
        detach_centroids: no gradient through the centroids (as the reference code).
        detach_target: no gradient through tau2 (the reference code lets it flow).
        backend: "reference" (the equations), "closed" (above), or "auto" (closed).

    Returns:
        scalar, or [n] for "none"; float32, or float64 for float64 rows.

    Raises:
        ValueError: shapes, labels, temperatures or names that cannot be.
    """
    _check_settings(num_classes, tau1, eps, reduction, backend)
    rows, _, counts = _evaluate(z, labels, num_classes, tau1, eps, group, detach_centroids, detach_target, backend)
    return _reduce(rows, counts, reduction, group)


def varcon_stats(
    z: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    tau1: float = 0.1,
    eps: float = 0.02,
    group=None,
    backend: str = "auto",
) -> VarConStats:
    """Per-row tau2, confidence, KL, NLL and nearest-centroid hit of this rank. Arguments as `varcon_loss`."""
    _check_settings(num_classes, tau1, eps, "none", backend)
    with torch.no_grad():
        return _evaluate(z, labels, num_classes, tau1, eps, group, True, True, backend)[1]


class VarConLoss(torch.nn.Module):
    """`varcon_loss` with its settings."""

    def __init__(
        self,
        num_classes: int,
        tau1: float = 0.1,
        eps: float = 0.02,
        *,
        group=None,
        reduction: str = "mean",
        detach_centroids: bool = True,
        detach_target: bool = False,
        backend: str = "auto",
    ):
        super().__init__()
        _check_settings(num_classes, tau1, eps, reduction, backend)
        self.num_classes, self.tau1, self.eps, self.group, self.reduction = num_classes, tau1, eps, group, reduction
        self.detach_centroids, self.detach_target, self.backend = detach_centroids, detach_target, backend

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return self.with_stats(z, labels)[0]

    def with_stats(self, z: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and, from the same pass, the per-row statistics by name."""
        rows, stats, counts = _evaluate(
            z,
            labels,
            self.num_classes,
            self.tau1,
            self.eps,
            self.group,
            self.detach_centroids,
            self.detach_target,
            self.backend,
        )
        return _reduce(rows, counts, self.reduction, self.group), dict(vars(stats))

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, tau1={self.tau1}, eps={self.eps}, backend={self.backend!r}"


# ---- the global batch ----------------------------------------------------------------------------------------------


def _evaluate(z, labels, num_classes, tau1, eps, group, detach_centroids, detach_target, backend):
    """(loss [n], VarConStats, counts [C] of the global batch)"""
    _check_rows(z, labels, num_classes)
    with torch.autocast(z.device.type, enabled=False):
        valid_N = labels >= 0
        z_ND = torch.where(valid_N[:, None], z if z.dtype == torch.float64 else z.float(), 0)
        label_N = labels.clamp(min=0).long()
        sums_CD, counts_C = _class_sums(
            z_ND.detach() if detach_centroids else z_ND, label_N, valid_N, num_classes, group
        )
        w_CD = F.normalize(sums_CD, dim=1)
        rows = _rows_reference if backend == "reference" else _rows_closed
        loss_N, *stats = rows(z_ND, w_CD, label_N, valid_N, counts_C > 0, tau1, eps, detach_target)
    return loss_N, VarConStats(*(s.detach() for s in stats)), counts_C


def _class_sums(z_ND: Tensor, label_N: Tensor, valid_N: Tensor, num_classes: int, group) -> tuple[Tensor, Tensor]:
    """Sums [C, D] and counts [C] of the rows of each class in the global batch, in one all-reduce."""
    rows = torch.cat([z_ND, valid_N[:, None].to(z_ND)], dim=1)  # ignored rows are zeros by now
    sums = rows.new_zeros(num_classes, rows.shape[1]).index_add(0, label_N, rows)
    if group is not None:
        sums = differentiable_all_reduce(sums, group=group)
    return sums[:, :-1], sums[:, -1].detach()


def _reduce(rows: Tensor, counts_C: Tensor, reduction: str, group) -> Tensor:
    if reduction == "none":
        return rows
    total = rows.sum()
    if reduction == "mean":
        total = total / counts_C.sum().clamp(min=1)
    if group is None:
        return total
    value = total.detach().clone()
    dist.all_reduce(value, group=group)
    return total + (value - total.detach())  # the global value, with the gradient of this rank's rows


# ---- one row against the centroids ---------------------------------------------------------------------------------


def _rows_reference(z_ND, w_CD, label_N, valid_N, present_C, tau1, eps, detach_target):
    """Equations (7)-(13) line by line, over the classes present; gradients by autograd."""
    if not present_C.any():
        return tuple(0 * z_ND.sum(1) for _ in range(6))
    w_KD = w_CD[present_C]
    true_N1 = (present_C.long().cumsum(0) - 1).clamp(min=0)[label_N][:, None]
    logits_NK = z_ND @ w_KD.T / tau1
    logp_NK = torch.log_softmax(logits_NK, dim=1)  # (8)
    logp_N = logp_NK.gather(1, true_N1).squeeze(1)
    tau2_N = (tau1 - eps) + 2 * eps * logp_N.exp()  # (13)
    if detach_target:
        tau2_N = tau2_N.detach()
    onehot_NK = torch.zeros_like(logits_NK).scatter(1, true_N1, 1.0)  # (10)
    logq_NK = torch.log_softmax(onehot_NK / tau2_N[:, None], dim=1)  # (11), (12)
    kl_N = (logq_NK.exp() * (logq_NK - logp_NK)).sum(1)
    hit_N = (logits_NK.gather(1, true_N1) >= logits_NK).all(1)
    rows = (kl_N - logp_N, tau2_N, logp_N.exp(), kl_N, -logp_N, hit_N.to(kl_N.dtype))  # (7)
    return tuple(torch.where(valid_N, row, torch.zeros_like(row)) for row in rows)


def _rows_closed(z_ND, w_CD, label_N, valid_N, present_C, tau1, eps, detach_target):
    return _ClosedRows.apply(z_ND, w_CD, label_N, valid_N, present_C, tau1, eps, detach_target)


class _ClosedRows(torch.autograd.Function):
    """The closed form of the module's docstring, with its own backward pass."""

    @staticmethod
    def forward(ctx, z_ND, w_CD, label_N, valid_N, present_C, tau1, eps, detach_target):
        logits_NC = z_ND @ w_CD.T / tau1
        S = logits_NC.sum(1)  # centroids of absent classes are 0, and so are their logits
        logits_NC.masked_fill_(~present_C, -torch.inf)
        L = logits_NC.logsumexp(1)
        s = logits_NC.gather(1, label_N[:, None]).squeeze(1)
        several = present_C.sum() > 1
        others = (present_C.sum() - 1).clamp(min=1).to(z_ND.dtype)

        logp = s - L
        p = logp.exp()
        tau2 = (tau1 - eps) + 2 * eps * p
        a = 1 / tau2
        u = others.log() - a
        logq_t = -F.softplus(u)
        q_t, r = logq_t.exp(), u.sigmoid()
        lbar = (S - s) / others
        kl = q_t * (logq_t - logp) + r * (logq_t - a - lbar + L)
        kl = torch.where(several, kl, torch.zeros_like(kl))
        hit = (s >= logits_NC.amax(1)).to(p.dtype) if len(w_CD) else torch.zeros_like(p)

        c = torch.zeros_like(p) if detach_target else 2 * eps * a * a * p * q_t * r * (s - lbar - a)
        counted = valid_N & several
        ctx.save_for_backward(z_ND, w_CD, label_N, logits_NC, L, c, q_t, r / others, counted)
        ctx.tau1 = tau1
        rows = (kl - logp, tau2, p, kl, -logp, hit)
        rows = tuple(torch.where(valid_N, row, torch.zeros_like(row)) for row in rows)
        ctx.mark_non_differentiable(*rows[1:])
        return rows

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_N, *_):
        z_ND, w_CD, label_N, logits_NC, L, c, q_t, q_o, counted = ctx.saved_tensors
        true_N1 = label_N[:, None]
        g_NC = (logits_NC - L[:, None]).exp_().mul_((2 - c)[:, None])
        g_NC -= torch.where(logits_NC.isneginf(), 0, q_o[:, None])
        g_NC.scatter_add_(1, true_N1, -(1 - c + q_t - q_o)[:, None])
        g_NC = torch.where(counted[:, None], g_NC * (grad_N / ctx.tau1)[:, None], 0)
        dz = g_NC @ w_CD if ctx.needs_input_grad[0] else None
        dw = g_NC.T @ z_ND if ctx.needs_input_grad[1] else None
        return dz, dw, None, None, None, None, None, None


# ---- boundary ------------------------------------------------------------------------------------------------------


def _check_settings(num_classes: int, tau1: float, eps: float, reduction: str, backend: str) -> None:
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    if not 0 <= eps < tau1:
        raise ValueError(
            f"tau1 ({tau1}) must be larger than eps ({eps}), and eps at least 0: tau2 would not be positive"
        )
    if reduction not in REDUCTIONS:
        raise ValueError(f"unknown reduction {reduction!r}: choose from {', '.join(REDUCTIONS)}")
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}: choose from {', '.join(BACKENDS)}")


def _check_rows(z: Tensor, labels: Tensor, num_classes: int) -> None:
    if z.ndim != 2 or not z.is_floating_point():
        raise ValueError(f"z must be [rows, dim] and floating point, got {tuple(z.shape)} {z.dtype}")
    if labels.shape != z.shape[:1] or labels.is_floating_point():
        raise ValueError(f"labels must be [{len(z)}] integers, got {tuple(labels.shape)} {labels.dtype}")
    if labels.device.type == "cpu" and len(labels) and int(labels.max()) >= num_classes:
        # on a GPU this look would stall the stream; there the loader has checked the labels of the whole dataset
        raise ValueError(f"label {int(labels.max())} is outside the {num_classes} classes")
