"""What class geometry promises for few-shot error: the three bounds in circulation.

Sources and derivations: docs/maths/geometry.md#few-shot-bounds.

C classes, m images of each, V the CDNV, Vt the directional one. Nearest-mean error is at most

    first          (C - 1) min_a [ (1/2 - A/a)^-2 Vt + 2^(3/2) (a/m) V ]
    camera_ready   (C - 1) min_a [ (1/2 - A/a)^-2 Vt + (a/4) ((2/sqrt(m)) (sqrt(V) + V) + V/m) ]
    pairwise       (1/C) sum_i sum_{j != i} [ 4 Vt_ij + (sqrt E1 + sqrt E2 + sqrt E3)^2 ] / (1 + (v_j - v_i)/(m d^2))^2

with A = 2 + 2^(3/2)/m, a >= 5. For a slope s of the second term in a, the optimum is a = 2 A + y with
y^3 - 8 F y - 16 A F = 0, F = 2 A Vt / s. Cardano's branch is cbrt(8 F (A +- sqrt(A^2 - 8 F / 27))); the authors' code
has 4 F (2 A +- the root), and its figures are up to 20 % too large where m is small. The proofs ask for m >= 10; the
best linear probe is at least as good as the nearest mean.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from fastvarcon.evaluation.geometry import squared_distances
from fastvarcon.evaluation.moments import ClassMoments, DirectionalMoments


def first_bound(directional: float, variability: float, shots: int, classes: int = 2) -> float:
    """The version behind the plots of arXiv 2506.04411. V by any convention whose mean is that of `ordered`."""
    return (classes - 1) * _best(directional, 2**1.5 * variability / shots, 2 + 2**1.5 / shots)


def camera_ready_bound(directional: float, variability: float, shots: int, classes: int = 2) -> float:
    """The version of the proceedings."""
    slope = ((2 / math.sqrt(shots)) * (math.sqrt(variability) + variability) + variability / shots) / 4
    return (classes - 1) * _best(directional, slope, 2 + 2**1.5 / shots)


def _best(directional: float, slope: float, A: float) -> float:
    """min over a >= 5 of (1/2 - A/a)^-2 Vt + slope a"""
    if slope == 0:
        return 4 * directional
    F = 2 * A * directional / slope
    a = max(5.0, 2 * A + _root(F, A))
    return directional / (0.5 - A / a) ** 2 + slope * a if a > 2 * A else slope * a


def _root(F: float, A: float) -> float:
    """The positive root of y^3 - 8 F y - 16 A F."""
    inside = A * A - 8 * F / 27
    if inside >= 0:
        root = math.sqrt(inside)
        return float(np.cbrt(8 * F * (A + root)) + np.cbrt(8 * F * (A - root)))
    return 2 * math.sqrt(8 * F / 3) * math.cos(math.acos(A * math.sqrt(27 / (8 * F))) / 3)


def pairwise_bound(moments: ClassMoments, directional: DirectionalMoments, shots: int) -> float:
    """Theorem 4.1 of arXiv 2603.03530; infinite where it does not hold: d^2 + (v_j - v_i)/m <= 0. Covariances are taken
    with n - 1, classes that are absent left out.
    """
    d2 = squared_distances(moments)
    unbiased = moments.count / (moments.count - 1).clamp(min=1)
    v = moments.variance * unbiased
    V = (v[:, None] + v[None]) / d2
    Vt = directional.along * unbiased[:, None] / d2.square()
    theta = (directional.fourth[:, None] + directional.fourth[None]) / d2.square()
    m = shots
    errors = torch.stack([(4 / m) * (V.square() + V / 4), V / m, (theta + 2 * (m - 1) * V.square()) / m**3])
    shift = 1 + (v[None] - v[:, None]) / (m * d2)
    terms = (4 * Vt + errors.sqrt().sum(0).square()) / shift.square()
    terms = torch.where(shift > 0, terms, torch.inf)
    pairs = d2.isfinite()
    return (torch.where(pairs, terms, 0).sum() / pairs.any(1).sum()).item()
