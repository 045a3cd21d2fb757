"""Label smoothing of the NLL term, which makes it the control that VarCon has to beat: VarCon's own gradient
is that of a cross-entropy to a softened target (docs/maths/varcon.md#twice-a-smoothed-cross-entropy).

With K classes present, x their logits and t = (1 - s) onehot(y) + s/K the smoothed target:

    -sum_k t_k log p_k = -log p_y + s (K-1)/K (x_y - mean of the other x)

The second term needs no softmax: 2(N + C)D flops, whichever implementation has made the first.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def smoothing_rows(
    z: Tensor, labels: Tensor, sums: Tensor, counts: Tensor, own: Tensor | None, tau1: float, smoothing: float
) -> Tensor:
    """The second term: [N] in the dtype of the sums, 0 in ignored rows and where there is no other class.

    Args:
        z: [N, D]; labels: [N], negative = ignored row.
        sums: [P, C, D] class sums of the global batch and counts: [P, C], to be added up over P.
        own: [N] true cosines from outside, or None.
    """
    known, slot = labels >= 0, labels.clamp(min=0).long()
    z = torch.where(known[:, None], z, 0).to(sums.dtype)
    w_CD = F.normalize(sums.sum(0), dim=1)
    classes = (counts.sum(0) > 0).sum().to(z.dtype)
    true = (z * w_CD[slot]).sum(1)
    others = (z @ w_CD.sum(0) - true) / (classes - 1).clamp(min=1)
    margin = ((true if own is None else own) - others) / tau1
    return torch.where(known & (classes > 1), smoothing * (classes - 1) / classes.clamp(min=1) * margin, 0)
