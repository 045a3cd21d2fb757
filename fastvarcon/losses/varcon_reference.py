"""The VarCon rows as the paper writes them, equations (7)-(13) line by line; gradients by autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from fastvarcon.losses.varcon_settings import TERMS, Settings


def rows_reference(
    z_ND: Tensor, w_CD: Tensor, own_N: Tensor | None, eps: float | Tensor, label_N: Tensor, present_C: Tensor,
    s: Settings,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(loss [N], statistics [5, N]: tau2, p, kl, nll, hit), over the classes present. Arguments as `rows_closed`."""
    valid_N = label_N >= 0
    if not present_C.any():
        return 0 * z_ND.sum(1), z_ND.new_zeros(5, len(z_ND))
    w_KD = w_CD[present_C]
    true_N1 = (present_C.long().cumsum(0) - 1).clamp(min=0)[label_N.clamp(min=0)][:, None]
    logits_NK = z_ND @ w_KD.T / s.tau1
    if own_N is not None:
        logits_NK = logits_NK.scatter(1, true_N1, own_N[:, None] / s.tau1)
    logp_NK = torch.log_softmax(logits_NK, dim=1)  # (8)
    logp_N = logp_NK.gather(1, true_N1).squeeze(1)
    tau2_N = (s.tau1 - eps) + 2 * eps * logp_N.exp()  # (13)
    if s.detach_target:
        tau2_N = tau2_N.detach()
    onehot_NK = torch.zeros_like(logits_NK).scatter(1, true_N1, 1.0)  # (10)
    logq_NK = torch.log_softmax(onehot_NK / tau2_N[:, None], dim=1)  # (11), (12)
    kl_N = (logq_NK.exp() * (logq_NK - logp_NK)).sum(1)
    hit_N = (logits_NK.gather(1, true_N1) >= logits_NK).all(1)
    kl, nll = TERMS[s.terms]
    loss_N = torch.where(valid_N, kl * kl_N - nll * logp_N, 0)  # (7)
    stats_N = torch.stack([tau2_N, logp_N.exp(), kl_N, -logp_N, hit_N.to(kl_N.dtype)])
    return loss_N, torch.where(valid_N, stats_N, 0).detach()
