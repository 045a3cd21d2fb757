"""Means and spreads of classes, in float64, from features that come in batches and are looked at once.

    mu_c = E_c f        v_c = E_c |f - mu_c|^2        Sigma_W = (1/n) sum_c sum_{f in c} (f - mu_c)(f - mu_c)^T

Batches are centred on their own class means and joined by the exact update of Chan et al. (1979), so nothing cancels
however far the features lie from 0. Memory: C x D and D x D.

Variances along the lines between class means, and fourth moments, need the means first: `DirectionalMoments` takes a
second look, one product of n x D x C and no covariance of any class.
"""

from __future__ import annotations

import torch
from torch import Tensor


class ClassMoments:
    """Feed batches to `add`; everything else may be read at any time.

    Attributes:
        count: [C] float64 rows of each class.
        mean: [C, D] mu_c; 0 for a class without rows.
        scatter: [C] sum of |f - mu_c|^2.
        within: [D, D] sum of (f - mu_c)(f - mu_c)^T over all rows.
    """

    def __init__(self, num_classes: int, dim: int):
        self.count = torch.zeros(num_classes, dtype=torch.float64)
        self.mean = torch.zeros(num_classes, dim, dtype=torch.float64)
        self.scatter = torch.zeros(num_classes, dtype=torch.float64)
        self.within = torch.zeros(dim, dim, dtype=torch.float64)

    def add(self, x: Tensor, labels: Tensor) -> None:
        """x: [n, D] floats; labels: [n] classes. Rows with a negative label are left out."""
        known = labels >= 0
        x, labels = x[known].to(torch.float64), labels[known]
        count = torch.bincount(labels, minlength=len(self.count)).to(torch.float64)
        mean = torch.zeros_like(self.mean).index_add_(0, labels, x) / count.clamp(min=1)[:, None]
        centred = x - mean[labels]
        total = self.count + count
        shift = mean - self.mean
        weight = self.count * count / total.clamp(min=1)
        self.scatter += torch.zeros_like(self.scatter).index_add_(0, labels, centred.square().sum(1))
        self.scatter += weight * shift.square().sum(1)
        self.within += centred.T @ centred + (shift * weight[:, None]).T @ shift
        self.mean += shift * (count / total.clamp(min=1))[:, None]
        self.count = total

    @property
    def variance(self) -> Tensor:
        """v_c, [C]."""
        return self.scatter / self.count.clamp(min=1)

    @property
    def present(self) -> Tensor:
        """[C] bool"""
        return self.count > 0


class DirectionalMoments:
    """The second look: along[i, j] = E_i ((f - mu_i) . (mu_j - mu_i))^2, fourth[i] = E_i |f - mu_i|^4."""

    def __init__(self, moments: ClassMoments):
        self._moments = moments
        classes = len(moments.count)
        self._along = torch.zeros(classes, classes, dtype=torch.float64)
        self._fourth = torch.zeros(classes, dtype=torch.float64)

    def add(self, x: Tensor, labels: Tensor) -> None:
        """The batches that `moments` has seen, in any order."""
        known = labels >= 0
        x, labels = x[known].to(torch.float64), labels[known]
        mean = self._moments.mean
        centred = x - mean[labels]
        along = centred @ mean.T - (centred * mean[labels]).sum(1, keepdim=True)
        self._along.index_add_(0, labels, along.square_())
        self._fourth.index_add_(0, labels, centred.square().sum(1).square_())

    @property
    def along(self) -> Tensor:
        return self._along / self._moments.count.clamp(min=1)[:, None]

    @property
    def fourth(self) -> Tensor:
        return self._fourth / self._moments.count.clamp(min=1)


def measure(x: Tensor, labels: Tensor, num_classes: int, batch: int = 8192) -> tuple[ClassMoments, DirectionalMoments]:
    """Both looks at features that are at hand."""
    moments = ClassMoments(num_classes, x.shape[1])
    parts = list(zip(x.split(batch), labels.split(batch), strict=True))
    for part in parts:
        moments.add(*part)
    directional = DirectionalMoments(moments)
    for part in parts:
        directional.add(*part)
    return moments, directional
