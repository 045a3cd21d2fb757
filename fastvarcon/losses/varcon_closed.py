"""The VarCon rows in closed form, in torch: any float dtype, any device, and no N x C tensor.

Notation and derivation are those of kernels/varcon.py. A chunk of rows meets all classes at once and leaves
m = the other centroids weighted by the softmax over them, and a few numbers a row; the backward pass is elementwise:

    dz = [A m - B (Wsum - w_y) + G w_y] / tau1

4NCD flops, 4NCD more for attached centroids, whose gradient makes the chunks again.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvarcon.losses.varcon_settings import TERMS, Settings

BIG = 1e30  # stands for infinity where there is no other class
CHUNK = 2**20  # logits at once: 4 MB in float32, in the caches still, and work enough for all cores


def rows_closed(
    z_ND: Tensor, w_CD: Tensor, own_N: Tensor | None, eps: float | Tensor, label_N: Tensor, present_C: Tensor,
    s: Settings,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(loss [N], statistics [5, N] without gradient: tau2, confidence, kl, nll, hit; 0 in ignored rows).

    Args:
        z_ND, w_CD: rows and unit centroids; centroids of absent classes are 0.
        own_N: true cosines from outside, or None.
        eps: a number, or a tensor of one element.
        label_N: negative = ignored row.
    """
    with_gradient = torch.is_grad_enabled() and z_ND.requires_grad
    return _ClosedRows.apply(z_ND, w_CD, own_N, eps, label_N, present_C, s, with_gradient)


class _ClosedRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z_ND, w_CD, own_N, eps, label_N, present_C, s, with_gradient):
        valid_N, label_N = label_N >= 0, label_N.clamp(min=0)
        bias_C = z_ND.new_zeros(len(w_CD)).masked_fill_(~present_C, -torch.inf)
        true_N = (z_ND * w_CD[label_N]).sum(1)
        cosines_N = z_ND @ w_CD.sum(0) - true_N  # their sum over the other classes
        x_true_N = (true_N if own_N is None else own_N) / s.tau1
        best_N, others_N = torch.empty_like(true_N), torch.empty_like(true_N)
        m_ND = torch.empty_like(z_ND) if with_gradient else None
        for n in _chunks(z_ND, w_CD):
            x_nC = torch.addmm(bias_C, z_ND[n], w_CD.T, alpha=1 / s.tau1).scatter_(1, label_N[n, None], -torch.inf)
            best_N[n] = x_nC.amax(1).clamp_(min=-BIG)
            e_nC = x_nC.sub_(best_N[n, None]).exp_()
            others_N[n] = e_nC.sum(1).clamp_(min=1)  # the largest of them is 1
            if m_ND is not None:
                torch.mm(e_nC, w_CD, out=m_ND[n]).div_(others_N[n, None])
        others_lse_N = best_N + others_N.log()
        lse_N = torch.logaddexp(others_lse_N, x_true_N)
        several = valid_N & (present_C.sum() > 1)
        columns, stats = _terms(
            x_true_N, cosines_N, (others_lse_N - lse_N).exp(), x_true_N - lse_N, present_C.sum(), several, eps, s
        )
        stats = torch.stack([*stats, (x_true_N >= best_N).to(true_N)])
        ctx.save_for_backward(z_ND, w_CD, label_N, bias_C, m_ND, others_lse_N, columns)
        ctx.tau1, ctx.own = s.tau1, own_N is not None
        loss_N, stats = columns[0], torch.where(valid_N, stats, 0)
        ctx.mark_non_differentiable(stats)
        return loss_N, stats

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_N, _):
        z_ND, w_CD, label_N, bias_C, m_ND, lse_N, (_, A, B, G, slope) = ctx.saved_tensors
        dz = dw = down = deps = None
        g = grad_N / ctx.tau1
        if ctx.needs_input_grad[0]:
            own = B if ctx.own else B + G
            dz = w_CD[label_N].mul_((g * own)[:, None]).addcmul_(m_ND, (g * A)[:, None])
            dz.addr_(g * B, w_CD.sum(0), alpha=-1)
        if ctx.needs_input_grad[1]:
            dw = torch.zeros_like(w_CD)
            for n in _chunks(z_ND, w_CD):
                x_nC = torch.addmm(bias_C, z_ND[n], w_CD.T, alpha=1 / ctx.tau1)
                t_nC = x_nC.sub_(lse_N[n, None]).exp_().mul_((g * A)[n, None]).sub_((g * B)[n, None])
                t_nC.scatter_(1, label_N[n, None], (torch.zeros_like(g) if ctx.own else g * G)[n, None])
                dw.addmm_(t_nC.T, z_ND[n])
            dw.masked_fill_(bias_C.isneginf()[:, None], 0)
        if ctx.needs_input_grad[2]:
            down = g * G
        if ctx.needs_input_grad[3]:
            deps = (grad_N * slope).sum()
        return dz, dw, down, deps, None, None, None, None


def _terms(x_true, cosines, rest, logp, classes, several, eps, s: Settings):
    """([loss, A, B, G, slope], (tau2, p, kl, nll)) of each row; rest = 1 - p without cancellation."""
    kl, nll = TERMS[s.terms]
    others = (classes - 1).clamp(min=1).to(logp.dtype)
    p = logp.exp()
    tau2 = (s.tau1 - eps) + 2 * eps * p
    a = 1 / tau2
    u = others.log() - a
    logq, r = -F.softplus(u), u.sigmoid()
    q = logq.exp()
    margin = x_true - cosines / (s.tau1 * others)
    divergence = torch.where(several, q * (logq - logp) + r * (logq - a + margin - logp), 0)
    t = torch.zeros_like(p) if s.detach_target else kl * a * a * q * r * (margin - a)
    c = 2 * eps * p * t
    columns = [
        kl * divergence - nll * logp,
        (kl - c + nll) * rest,
        kl * r / others,
        kl * (r - rest) + (c - nll) * rest,
        (2 * p - 1) * t,
    ]
    return torch.where(several, torch.stack(columns), 0), (tau2, p, divergence, -logp)


def _chunks(z_ND: Tensor, w_CD: Tensor) -> list[slice]:
    rows = max(16, CHUNK // len(w_CD))
    return [slice(first, first + rows) for first in range(0, len(z_ND), rows)]
