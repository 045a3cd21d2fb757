"""What VarCon is measured against: the ways to compute it with what torch has, and the truth in float64.

All take unit rows z [N, D] and labels [N] in [0, num_classes) and give the loss of each row, [N] float32, with the
gradient that the reference has: through tau2, not through the centroids. Symbols are those of losses/varcon.py.

VarCon is attention with queries z and keys and values w: with m = softmax(l) w, less the part of the own class, and the
logsumexp L of the same pass, the closed form needs only numbers per row:

    dz = ((2 - c) m - q_o (sum_k w_k - w_y) + g_y w_y) / tau1,    g_y = (1 - c)(p_y - 1) + p_y - q_t
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Attend = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
"""(z [N, D], w [C, D], counts [C], tau1) -> (softmax(z w^T / tau1) w, its logsumexp [N]) over the classes present."""

TAU1, EPS = 0.1, 0.02
TRUTH_ELEMENTS = 1 << 25  # of a logits tensor in float64: 256 MB


def static_reference(z: Tensor, labels: Tensor, num_classes: int, tau1: float = TAU1, eps: float = EPS) -> Tensor:
    """The paper's equations with absent classes masked out: no shape depends on the labels, so nothing waits."""
    z = z.float() if z.dtype.itemsize < 4 else z
    w, counts = centroids(z.detach(), labels, num_classes)
    return _equations(z, labels, w, counts > 0, tau1, eps)


def truth(z: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """(mean loss, its gradient [N, D]) in float64, by the paper's equations and autograd, some rows at a time."""
    z = z.detach().double()
    w, counts = centroids(z, labels, num_classes)
    total, gradients = z.new_zeros(()), []
    for rows, own in zip(z.split(step := max(1, TRUTH_ELEMENTS // num_classes)), labels.split(step), strict=True):
        rows = rows.requires_grad_()
        loss = _equations(rows, own, w, counts > 0, TAU1, EPS).sum() / len(z)
        gradients.append(torch.autograd.grad(loss, rows)[0])
        total += loss.detach()
    return total, torch.cat(gradients)


def centroids(z: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Normalised class sums [C, D] and counts [C]."""
    sums = z.new_zeros(num_classes, z.shape[1]).index_add(0, labels, z)
    counts = z.new_zeros(num_classes).index_add(0, labels, z.new_ones(len(z)))
    return F.normalize(sums, dim=1), counts


def _equations(z: Tensor, labels: Tensor, w: Tensor, present: Tensor, tau1: float, eps: float) -> Tensor:
    true = labels[:, None]
    logp = torch.log_softmax((z @ w.T / tau1).masked_fill(~present, -torch.inf), dim=1)  # (8)
    logp_y = logp.gather(1, true)
    tau2 = (tau1 - eps) + 2 * eps * logp_y.exp()  # (13)
    onehot = torch.zeros_like(logp).scatter(1, true, 1.0)  # (10)
    logq = torch.log_softmax((onehot / tau2).masked_fill(~present, -torch.inf), dim=1)  # (11), (12)
    kl = (logq.exp() * torch.where(present, logq - logp, 0)).sum(1)
    return kl - logp_y.squeeze(1)  # (7)


# ---- VarCon as attention -------------------------------------------------------------------------------------------


def attention(z: Tensor, labels: Tensor, num_classes: int, attend: Attend) -> Tensor:
    """The closed form around an attention kernel. Half precision is multiplied in float16, as z and w are unit rows."""
    return _AttentionRows.apply(z, labels, num_classes, attend)


class _AttentionRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, labels, num_classes, attend):
        z, tau1, eps = z.detach(), TAU1, EPS
        w, counts = centroids(z.float() if z.dtype.itemsize < 4 else z, labels, num_classes)
        operand = torch.float16 if z.dtype.itemsize < 4 else z.dtype
        w = w.to(operand)
        out, L = attend(z.to(operand), w, counts, tau1)

        rows, own, sum_w = z.to(L), w[labels].to(L), w.sum(0, dtype=L.dtype)  # from the rounded w, as the logits are
        s, S = (rows * own).sum(1) / tau1, rows @ sum_w / tau1
        classes = (counts > 0).sum()
        others = (classes - 1).clamp(min=1).to(L)
        several = classes > 1
        logp = s - L
        p = logp.exp()
        a = 1 / ((tau1 - eps) + 2 * eps * p)
        u = others.log() - a
        logq_t = -F.softplus(u)
        q_t, r = logq_t.exp(), u.sigmoid()
        q_o, lbar = r / others, (S - s) / others
        kl = q_t * (logq_t - logp) + r * (logq_t - a - lbar + L)
        c = 2 * eps * a * a * p * q_t * r * (s - lbar - a)
        g_y = (1 - c) * (p - 1) + p - q_t

        m = out.to(L) - p[:, None] * own
        dz = ((2 - c)[:, None] * m - q_o[:, None] * (sum_w - own) + g_y[:, None] * own) / tau1
        ctx.save_for_backward(torch.where(several, dz, 0).to(z.dtype))
        return torch.where(several, kl - logp, 0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (dz,) = ctx.saved_tensors
        return (grad[:, None] * dz).to(dz), None, None, None


def flash(z: Tensor, w: Tensor, counts: Tensor, tau1: float) -> tuple[Tensor, Tensor]:
    """`scaled_dot_product_attention`, by the operators behind it that also give the logsumexp."""
    q, k = z[None, None], w[None, None]
    if z.device.type == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, k, 0.0, False, scale=1 / tau1)
    elif z.dtype == torch.float16 and z.shape[1] <= 256:
        out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(q, k, k, 0.0, False, False, scale=1 / tau1)
    else:
        options = (None, True, 0.0, False)  # bias, logsumexp, dropout, causal
        out, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, k, *options, scale=1 / tau1)
    return _without_absent(out[0, 0], lse.flatten()[: len(z)], counts)


def cudnn(z: Tensor, w: Tensor, counts: Tensor, tau1: float) -> tuple[Tensor, Tensor]:
    q, k = z[None, None], w[None, None]
    options = (None, True, 0.0, False, False)  # bias, logsumexp, dropout, causal, debug mask
    out, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, k, *options, scale=1 / tau1)
    return _without_absent(out[0, 0], lse.flatten()[: len(z)], counts)


def _without_absent(out: Tensor, lse: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """An absent class has w = 0: it adds e^0 to the sum of exponentials, and 0 to the weighted sum."""
    absent = (counts == 0).sum()
    L = lse + torch.log1p(-absent * (-lse).exp())
    return out.to(L) * (lse - L).exp()[:, None], L


def flex(z: Tensor, w: Tensor, counts: Tensor, tau1: float) -> tuple[Tensor, Tensor]:
    """`flex_attention`; without torch.compile it makes all logits."""
    from torch.nn.attention.flex_attention import AuxRequest, flex_attention

    present = counts > 0

    def score(logit, batch, head, row, column):
        return torch.where(present[column], logit, -torch.inf)

    q, k = z[None, None], w[None, None]
    out, aux = flex_attention(q, k, k, score_mod=score, scale=1 / tau1, return_aux=AuxRequest(lse=True))
    assert aux.lse is not None
    return out[0, 0], aux.lse[0, 0]
