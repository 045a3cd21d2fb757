"""How alike two encoders are, from their features of the same images in the same order.

docs/maths/geometry.md#alignment-of-two-encoders has the formulas in full:

    linear CKA     HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), K = X X^T, L = Y Y^T
                   biased: K and L centred; unbiased: Song et al.'s estimator, without the diagonals
    RSA            Pearson correlation of the cosine distances of all pairs of images; or the Spearman one of
                   1 - correlation distances
    weight gap     mean over layers of |W_a - W_b| / ((|W_a| + |W_b|) / 2)

CKA and the first RSA are functions of sums over images, as sum_ij (x_i.x_j)(y_i.y_j) = |X^T Y|^2: one pass, no n x n.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


class AlignmentMoments:
    """Feed `add` batches of both features; float64, one pass, memory D_x D_y."""

    def __init__(self, dim_x: int, dim_y: int):
        self._origins: tuple[Tensor, Tensor] | None = None
        self._n = 0
        self._pairs = {"xy": _Cross(dim_x, dim_y), "xx": _Cross(dim_x, dim_x), "yy": _Cross(dim_y, dim_y)}
        self._cosines = {"xy": _Cross(dim_x, dim_y), "xx": _Cross(dim_x, dim_x), "yy": _Cross(dim_y, dim_y)}

    def add(self, x: Tensor, y: Tensor) -> None:
        """x: [n, D_x], y: [n, D_y], rows of the same images."""
        x, y = x.to(torch.float64), y.to(torch.float64)
        directions = {"x": F.normalize(x, dim=1), "y": F.normalize(y, dim=1)}
        self._origins = self._origins or (x.mean(0), y.mean(0))  # HSIC does not depend on it, but rounding does
        rows = {"x": x - self._origins[0], "y": y - self._origins[1]}
        for pair in self._pairs:
            a, b = pair[0], pair[1]
            self._pairs[pair].add(rows[a], rows[b])
            self._cosines[pair].add(directions[a], directions[b])
        self._n += len(x)

    def cka(self, *, unbiased: bool = False) -> float:
        """In [0, 1] if biased. The unbiased one may be negative and needs 4 images."""
        hsic = {name: cross.hsic(self._n, unbiased) for name, cross in self._pairs.items()}
        return hsic["xy"] / math.sqrt(hsic["xx"] * hsic["yy"])

    def rsa(self) -> float:
        """Pearson correlation of cosine distances over pairs i < j."""
        pairs = self._n * (self._n - 1)
        sums = {name: cross.off_diagonal() for name, cross in self._cosines.items()}
        k, l = self._cosines["xy"].row_totals()
        covariance = {
            "xy": sums["xy"] / pairs - k * l / pairs**2,
            "xx": sums["xx"] / pairs - k * k / pairs**2,
            "yy": sums["yy"] / pairs - l * l / pairs**2,
        }
        return covariance["xy"] / math.sqrt(covariance["xx"] * covariance["yy"])


class _Cross:
    """Sums over images from which sum_ij k_ij l_ij and its relatives follow, k = X X^T, l = Y Y^T."""

    def __init__(self, dim_x: int, dim_y: int):
        self._xy = torch.zeros(dim_x, dim_y, dtype=torch.float64)
        self._x, self._lx = torch.zeros(2, dim_x, dtype=torch.float64)  # sums of x_i, and of l_ii x_i
        self._y, self._ky = torch.zeros(2, dim_y, dtype=torch.float64)
        self._k = self._l = self._kl = 0.0  # sums of k_ii, l_ii, k_ii l_ii

    def add(self, x: Tensor, y: Tensor) -> None:
        k, l = x.square().sum(1), y.square().sum(1)
        self._xy += x.T @ y
        self._x, self._lx = self._x + x.sum(0), self._lx + l @ x
        self._y, self._ky = self._y + y.sum(0), self._ky + k @ y
        self._k, self._l, self._kl = self._k + k.sum().item(), self._l + l.sum().item(), self._kl + (k @ l).item()

    def off_diagonal(self) -> float:
        """sum over i != j of k_ij l_ij"""
        return self._xy.square().sum().item() - self._kl

    def row_totals(self) -> tuple[float, float]:
        """Sums of k_ij and of l_ij over i != j."""
        return self._x.square().sum().item() - self._k, self._y.square().sum().item() - self._l

    def hsic(self, n: int, unbiased: bool) -> float:
        """Up to a factor that cancels in CKA."""
        if not unbiased:
            return (self._xy - torch.outer(self._x, self._y) / n).square().sum().item()
        k, l = self.row_totals()
        both = self._x @ self._xy @ self._y - self._lx @ self._x - self._ky @ self._y + self._kl
        return self.off_diagonal() + k * l / ((n - 1) * (n - 2)) - 2 * both.item() / (n - 2)


def rsa_spearman(x: Tensor, y: Tensor) -> float:
    """Spearman correlation of 1 - Pearson correlation of the rows, over pairs i < j. Memory n x n."""
    from scipy.stats import rankdata

    upper = torch.triu_indices(len(x), len(x), 1)
    ranks = [torch.from_numpy(rankdata(torch.corrcoef(f.double())[tuple(upper)].numpy())) for f in (x, y)]
    return torch.corrcoef(torch.stack(ranks))[0, 1].item()


def weight_gap(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Mean over the `.weight` tensors of two state dicts of one architecture; 0: equal, sqrt(2): unrelated.

    Raises:
        ValueError: other names or shapes.
    """
    names = [name for name in a if name.endswith(".weight")]
    if names != [name for name in b if name.endswith(".weight")] or any(a[n].shape != b[n].shape for n in names):
        raise ValueError("the weight gap compares encoders of one architecture: these differ in layers or shapes")
    gaps = []
    for name in names:
        one, other = a[name].double(), b[name].double()
        gaps.append((one - other).norm() / ((one.norm() + other.norm()) / 2).clamp(min=1e-300))
    return torch.stack(gaps).mean().item()
