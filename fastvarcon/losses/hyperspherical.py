"""DHEL and KCL: alignment of views, and uniformity within each view.

arXiv 2405.18045; docs/maths/family.md#dhel-and-kcl.

Views u, v of B images, rows on the unit sphere; no labels. With D = other images, same view:

    DHEL   mean_i [ -u_i . v_i / tau + log sum_{j != i} e^{u_i . u_j / tau} + log sum_{j != i} e^{v_i . v_j / tau} ]
    KCL    -2 mean_i k(u_i, v_i) + gamma ( mean_{i<j} k(u_i, u_j) + mean_{i<j} k(v_i, v_j) )
           k(a, b) = e^{-t |a - b|^2}

With more than two views: means over all pairs of views. As |a - b|^2 = 2 - 2 a . b, the sums of KCL are e^{N - 2 t},
N the same log-sum-exp at tau = 1/(2 t). Its expected value does not depend on B.

Cost: K products of B x B rows, 1/K of what SimCLR needs, and its collectives once for each view.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from fastvarcon.errors import UserError
from fastvarcon.kernels.contrastive_form import Form
from fastvarcon.losses.base import Loss
from fastvarcon.losses.contrastive import check_settings
from fastvarcon.losses.pairs import check_rows, describe_batch, global_mean, pair_rows


class _WithinViews(Loss):
    """What DHEL and KCL share. Errors as ContrastiveLoss; labels are not looked at."""

    name = ""
    needs_labels = False

    def __init__(self, num_views: int, tau: float, group: ProcessGroup | None, backend: str):
        super().__init__()
        check_settings(self.name, tau, "aug", "self", False, "out", None, backend)
        if num_views < 2:
            raise ValueError(f"{self.name} compares views of an image: it needs --data.num-views 2, got {num_views}")
        self.num_views, self.form, self.group, self.backend = num_views, Form(tau), group, backend

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.with_stats(z, labels)[0]

    def with_stats(self, z: Tensor, labels: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        raise NotImplementedError

    def _mean(self, rows: Tensor) -> Tensor:
        return global_mean(rows, torch.ones_like(rows), self.group, f"{self.name}: the batch is empty: give it rows")

    def _views(self, z: Tensor) -> Tensor:
        """[K, B, D]"""
        check_rows(z, None, self.num_views)
        return (z if z.dtype == torch.float64 else z.float()).unflatten(0, (self.num_views, -1))

    def _log_sums(self, views: Tensor) -> tuple[Tensor, int]:
        """N of every row against the other images of its view, [K * B], and how many these are."""
        batch = describe_batch(views[0], None, 1, self.group)
        others = len(batch.row) - 1
        if others < 1:
            raise UserError(f"{self.name}: the batch has no second image: use a larger --train.global-batch")
        ids = torch.stack([batch.row] * 3)
        rows = [pair_rows(z, ids, batch.mine, self.form, self.group, self.backend).den for z in views]
        return torch.cat(rows), others


class DhelLoss(_WithinViews):
    """`forward(z)`: z [n, D] unit rows of this process, view-major. The authors use tau = 0.3."""

    name = "dhel"

    def __init__(
        self, *, num_views: int = 2, temperature: float = 0.3, group: ProcessGroup | None = None, backend: str = "auto"
    ):
        super().__init__(num_views, temperature, group, backend)

    def with_stats(self, z: Tensor, labels: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        views = self._views(z)
        alignment = torch.stack([(u * v).sum(1) for u, v in itertools.combinations(views, 2)]) / self.form.tau
        return 2 * self._mean(self._log_sums(views)[0]) - self._mean(alignment.flatten()), {}


class KclLoss(_WithinViews):
    """`forward(z)`: z [n, D] unit rows of this process, view-major; Gaussian kernel."""

    name = "kcl"

    def __init__(
        self,
        *,
        num_views: int = 2,
        t: float = 2.0,
        gamma: float = 16.0,
        group: ProcessGroup | None = None,
        backend: str = "auto",
    ):
        if not (t > 0 and gamma >= 0):
            raise ValueError(f"kcl: t must be positive and gamma 0 or more, got {t} and {gamma}")
        super().__init__(num_views, 1 / (2 * t), group, backend)
        self.t, self.gamma = t, gamma

    def with_stats(self, z: Tensor, labels: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        views = self._views(z)
        distances = torch.stack([(u - v).square().sum(1) for u, v in itertools.combinations(views, 2)])
        N, others = self._log_sums(views)
        energy = (N - 2 * self.t - math.log(others)).exp()
        return 2 * self.gamma * self._mean(energy) - 2 * self._mean((-self.t * distances).exp().flatten()), {}
