"""CLOP: a pull towards fixed orthonormal prototypes, beside another loss (arXiv 2403.18699).

    L = L_base + lambda mean_a (1 - z_a . p_{y_a})          p_c: C orthonormal rows of D columns, so D >= C

The mean is over the rows of the global batch whose class is known. Prototypes stand at 90 degrees, not at the
-1/(C - 1) of the simplex that NSCL and SupCon settle in: measure such a run by its distance from an orthogonal frame.
Cost: O(rows x D), one all-reduce of two numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from fastvarcon.errors import UserError
from fastvarcon.losses.base import Loss, class_numbers
from fastvarcon.losses.pairs import global_mean


def orthonormal_prototypes(num_classes: int, dim: int, seed: int = 0) -> Tensor:
    """[C, D] float64 orthonormal rows, the same on every machine. Raises UserError for D < C."""
    if dim < num_classes:
        raise UserError(
            f"clop: {num_classes} orthogonal prototypes do not fit into {dim} columns: "
            f"use --model.head-dim {num_classes} or more"
        )
    random = torch.randn(dim, num_classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    q, r = torch.linalg.qr(random)
    return (q * r.diagonal().sign()).T.contiguous()  # the signs of a QR are the library's choice


class ClopLoss(Loss):
    """`base` and `weight` (lambda) times the prototype term. `forward(z, labels)` as those of the base.

    Rows with a negative label have no prototype. A batch in which no class is known raises UserError on a CPU; on a
    GPU its prototype term is 0.
    """

    def __init__(
        self, base: Loss, num_classes: int, dim: int, *, weight: float = 1.0, group: ProcessGroup | None = None
    ):
        if not weight >= 0:
            raise ValueError(f"clop: the weight must be 0 or more, got {weight}")
        super().__init__()
        self.base, self.weight, self.group = base, weight, group
        self.register_buffer("prototypes", orthonormal_prototypes(num_classes, dim), persistent=False)

    needs_labels = True
    prototypes: Tensor

    def forward(self, z: Tensor, labels: Tensor | None) -> Tensor:
        return self.with_stats(z, labels)[0]

    def with_stats(self, z: Tensor, labels: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, the figures of the base, and per row {"prototype_cosine": [n]}, 0 where the class is unknown."""
        if labels is None:
            raise ValueError("clop needs labels: give the class of each row, negative where it is unknown")
        labels = class_numbers(labels, len(z), len(self.prototypes))
        loss, stats = self.base.with_stats(z, labels)
        z = z if z.dtype == torch.float64 else z.float()
        known = labels >= 0
        cosine = (z * self.prototypes.to(z)[labels.clamp(min=0)]).sum(1)
        term = global_mean(1 - cosine, known, self.group, "clop: no row of the batch has a label: use labelled images")
        return loss + self.weight * term, {**stats, "prototype_cosine": torch.where(known, cosine.detach(), 0)}
