"""Class prototypes that live from step to step, for batches with few rows a class.

    u_k = normalised sum of the rows of class k in this batch
    v_k <- m v_k + (1 - m) u_k for classes present, u_k where the class is seen for the first time
    w_k = v_k / |v_k|, and every class ever seen takes part

With attached centroids the gradient flows through u. The ranks see the same sums, so their prototypes stay equal
without a message of their own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class Prototypes(torch.nn.Module):
    """Buffers `mean` [C, D] float32 and `seen` [C] bool; they move in training mode only."""

    mean: Tensor
    seen: Tensor

    def __init__(self, num_classes: int, dim: int | None, momentum: float):
        super().__init__()
        if dim is None:
            raise ValueError("prototypes need dim, the number of columns of the rows")
        if not 0 <= momentum < 1:
            raise ValueError(f"prototype_momentum must lie in [0, 1), got {momentum}")
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(num_classes, dim))
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.bool))

    def forward(self, sums: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """(v [1, C, D], seen [1, C] as 0 and 1) for class sums [P, C, D] and counts [P, C] of the global batch."""
        present = counts.sum(0) > 0
        u = F.normalize(sums.sum(0), dim=1)
        old, known = self.mean.to(u.dtype), self.seen.clone()
        moved = torch.where(known[:, None], torch.lerp(u, old, self.momentum), u)
        v, seen = torch.where(present[:, None], moved, old), known | present
        if self.training:
            self.mean.copy_(v.detach())
            self.seen.copy_(seen)
        return v[None], seen[None].to(torch.int32)
