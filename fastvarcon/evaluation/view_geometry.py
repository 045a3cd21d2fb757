"""How embeddings of augmented views lie: alignment, uniformity, effective rank, augmentation collapse.

alignment           E |u - v|^2 over two views of an image                       0: views agree
uniformity          log E e^(-2 |x - y|^2) over pairs of different images        lower: better spread
effective rank      exp(entropy(sigma / sum sigma)), sigma the singular values of the centred rows
view collapse       1 - E cos(u, v), and Var_aug / Var_within: the spread of an image's views against that of
                    its class, 0 where augmentations are forgotten and 1 where they are all there is
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 1 << 22  # similarities at a time


class ViewMoments:
    """Feed `add` batches of views; one pass, float64. Uniformity needs pairs of images: `uniformity` below."""

    def __init__(self, dim: int):
        self._square = self._cosine = self._within_image = 0.0
        self._pairs = self._rows = self._images = 0
        self._sum = torch.zeros(dim, dtype=torch.float64)
        self._second = torch.zeros(dim, dim, dtype=torch.float64)
        self._origin: Tensor | None = None

    def add(self, z: Tensor) -> None:
        """z: [V, B, D] rows of V >= 2 views of B images."""
        z = z.to(torch.float64)
        for u, v in itertools.combinations(z, 2):
            self._square += (u - v).square().sum().item()
            self._cosine += F.cosine_similarity(u, v, dim=1).sum().item()
            self._pairs += z.shape[1]
        self._within_image += (z - z.mean(0)).square().sum().item()
        flat = z.flatten(0, 1)
        self._origin = flat.mean(0) if self._origin is None else self._origin  # near the mean, so that little cancels
        flat = flat - self._origin
        self._sum += flat.sum(0)
        self._second += flat.T @ flat
        self._rows += len(flat)
        self._images += z.shape[1]

    @property
    def alignment(self) -> float:
        return self._square / self._pairs

    @property
    def view_collapse(self) -> float:
        return 1 - self._cosine / self._pairs

    @property
    def augmentation_variance(self) -> float:
        """Mean over images of the variance of their views, with views - 1 in the denominator."""
        return self._within_image / (self._rows - self._images)

    @property
    def effective_rank(self) -> float:
        mean = self._sum / self._rows
        covariance = self._second / self._rows - torch.outer(mean, mean)
        sigma = torch.linalg.eigvalsh(covariance).clamp(min=0).sqrt()
        share = sigma / sigma.sum()
        return torch.special.entr(share).sum().exp().item()


def uniformity(z: Tensor, t: float = 2.0) -> float:
    """log of the mean of e^(-t |x - y|^2) over all pairs of different rows [n, D], in chunks of the n x n."""
    z = z.to(torch.float64)
    square = z.square().sum(1)
    total = 0.0
    for start in range(0, len(z), rows := max(1, CHUNK // len(z))):
        part = slice(start, start + rows)
        distance = (square[part, None] + square[None] - 2 * z[part] @ z.T).clamp_(min=0)
        total += distance.mul_(-t).exp_().sum().item()
    return torch.tensor((total - len(z)) / (len(z) * (len(z) - 1)), dtype=torch.float64).log().item()
