"""SSEM: supervised and self-supervised contrast mixed (arXiv 2503.08203).

    L      = (1 - alpha) L_sup + alpha L_cl
    L_cl   = mean over pairs (a, p) of two views of an image                 of  N_a - x_ap
    L_sup  = mean over pairs (a, p) of different images of the same class    of  N_a - x_ap
    N_a    = log sum_{k != a} e^{x_ak}

alpha below `collapse_threshold` (docs/maths/family.md#the-collapse-threshold-of-ssem) lets classes collapse to a point;
SupCon lies below it for every batch. `include_self` has k = a in N_a and p = a in L_cl, as the authors' CIFAR code.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from fastvarcon.config import Config
from fastvarcon.losses.contrastive import ContrastiveLoss
from fastvarcon.losses.pairs import global_mean, pair_rows


class SsemLoss(ContrastiveLoss):
    """`forward(z, labels)`: the mean of the global batch. Arguments, cost and errors as ContrastiveLoss.

    A batch without two images of a class has L_sup = 0 on a GPU and raises UserError on a CPU, unless alpha is 1.
    """

    def __init__(
        self,
        alpha: float = 0.5,
        *,
        num_views: int = 2,
        temperature: float = 0.1,
        include_self: bool = False,
        group: ProcessGroup | None = None,
        backend: str = "auto",
    ):
        settings: dict[str, Any] = {
            "num_views": num_views,
            "temperature": temperature,
            "group": group,
            "backend": backend,
        }
        super().__init__("ssem", pos="class", den="self", **settings)
        if not 0 <= alpha <= 1:
            raise ValueError(f"ssem: alpha must lie between 0 and 1, got {alpha}")
        if num_views < 2:
            raise ValueError(f"ssem compares views of an image: it needs --data.num-views 2 or more, got {num_views}")
        self.alpha, self.include_self = alpha, include_self

    def with_stats(self, z: Tensor, labels: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        batch = self._describe(z, labels)
        ids = torch.stack([batch.classes, batch.image, self._den(batch)])  # apart: other images only
        mine, views = batch.mine, self.num_views
        rows = pair_rows(z, ids, mine, self.form, self.group, self.backend)
        z = torch.where((ids[2, mine] >= 0)[:, None], z if z.dtype == torch.float64 else z.float(), 0)
        x_self = z.square().sum(1) / self.form.tau
        x_image = (z * z.unflatten(0, (views, -1)).sum(0).repeat(views, 1)).sum(1) / self.form.tau  # over all views
        N = torch.logaddexp(rows.den, x_self) if self.include_self else rows.den
        partners = views if self.include_self else views - 1
        l_cl = N - (x_image if self.include_self else x_image - x_self) / partners
        l_sup = rows.loss + (N - rows.den)
        valid = (ids[2, mine] >= 0) & (rows.den > -torch.inf)
        loss = self.alpha * global_mean(l_cl, valid, self.group, self._nobody())
        if self.alpha < 1:
            lonely = (
                "ssem: no class has two images in the batch: use --sampling.per-class 2, a larger "
                "--train.global-batch or --loss.alpha 1"
            )
            loss = loss + (1 - self.alpha) * global_mean(l_sup, valid * rows.positives, self.group, lonely)
        return loss, {"anchors": (valid & (rows.positives > 0)).to(loss.dtype)}


def collapse_threshold(
    classes: int, per_class: int, tau: float, views: int = 2, *, include_self: bool = False
) -> float:
    """alpha* of SSEM: up to it, the best embedding of a balanced batch has every class in one point.

    Derived in docs/maths/family.md#the-collapse-threshold-of-ssem.

    Args:
        classes, per_class, views: classes in the batch, images of each, views of an image.
        include_self: the row itself in its denominator, as the authors' CIFAR code; there `views` plays no part.
    """
    C, n, p = classes, per_class, views
    q = math.exp(-C / ((C - 1) * tau))
    if include_self:
        return (1 + (C * n - 1) * q) / (n * (1 + (C - 1) * q))
    return 1 - p * (n - 1) * (1 - q) / ((p * n - 1) + p * n * (C - 1) * q)


def batch_threshold(config: Config, classes: int) -> float | None:
    """alpha* in the batches of a run on data of so many classes; None where a batch has no two images of a class."""
    images, balanced = config.train.global_batch, config.sampling.per_class
    per_class, present = (
        (balanced, min(classes, images // balanced)) if balanced else (round(images / classes), classes)
    )
    if per_class < 2 or present < 2:
        return None
    return collapse_threshold(present, per_class, config.loss.temperature, config.data.num_views)
