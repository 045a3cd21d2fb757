"""Self-supervised contrast is nearly supervised contrast: the two losses, their gap and its bound, while training.

On every batch, whatever is trained (arXiv 2506.04411, theorem 1; N images, n_max of the largest class, tau = 1):

    L_NSCL <= L_DCL <= L_NSCL + log(1 + n_max e^(2/tau) / (N - n_max))

It holds for every single anchor, so the means here run over the anchors that have another class in the batch. Cost: the
forward passes of two losses, without gradients; an all-gather of rows each and an all-reduce of three numbers.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup

from fastvarcon.losses.base import class_numbers
from fastvarcon.losses.contrastive import ContrastiveLoss
from fastvarcon.losses.pairs import gather


def gap_bound(num_images: Tensor | int, largest_class: Tensor | int, tau: float = 1.0) -> Tensor:
    """log(1 + n_max e^(2/tau) / (N - n_max)); infinite for a single class."""
    largest = torch.as_tensor(largest_class, dtype=torch.float64)
    return torch.log1p(largest * math.exp(2 / tau) / (num_images - largest))


class NsclMonitor:
    """Call with z [n, D] rows of this process, view-major, and their labels [n], none negative.

    Rows are normalised here: for cross-entropy they are logits. Returns scalars on the device: dcl_tau1, nscl_tau1,
    nscl_gap and nscl_bound. In a batch of one class the bound is infinite and the others are 0.
    """

    def __init__(
        self, num_classes: int, *, num_views: int = 2, group: ProcessGroup | None = None, backend: str = "auto"
    ):
        settings: dict[str, Any] = {"num_views": num_views, "temperature": 1.0, "group": group, "backend": backend}
        self._dcl = ContrastiveLoss("dcl", den="image", **settings)
        self._nscl = ContrastiveLoss("nscl", den="class", **settings)
        self._num_classes, self._group = num_classes, group

    @torch.no_grad()
    def __call__(self, z: Tensor, labels: Tensor) -> dict[str, Tensor]:
        labels = class_numbers(labels, len(z), self._num_classes)
        z = F.normalize(z if z.dtype == torch.float64 else z.float(), dim=1)
        dcl, nscl = self._dcl.rows(z, labels), self._nscl.rows(z, labels)
        usable = nscl.valid
        sums = torch.stack([*(torch.where(usable, rows, 0).sum() for rows in (dcl.loss, nscl.loss)), usable.sum()])
        if self._group is not None:
            dist.all_reduce(sums, group=self._group)
        mean_dcl, mean_nscl = sums[:2] / sums[2].clamp(min=1)
        local = torch.zeros(self._num_classes, dtype=torch.int64, device=z.device)
        images = labels[: len(labels) // self._dcl.num_views]
        sizes = gather(local.index_add_(0, images, torch.ones_like(images))[None], self._group).sum(0)
        return {
            "dcl_tau1": mean_dcl,
            "nscl_tau1": mean_nscl,
            "nscl_gap": mean_dcl - mean_nscl,
            "nscl_bound": gap_bound(sizes.sum(), sizes.amax()),
        }
