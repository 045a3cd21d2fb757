"""How classes lie in feature space: variability, directional variability, neural collapse.

Formulas, sources and golden values: docs/maths/geometry.md.

Everything is a function of the moments of moments.py. With d_ij = |mu_j - mu_i|, u_ij = (mu_j - mu_i) / d_ij, means
taken over pairs of different classes that are present and whose means differ:

    CDNV, ordered           v_i / d_ij^2                        as the paper defines it
    CDNV, half_symmetric    (v_i + v_j) / (2 d_ij^2)            what its code prints; the same mean over all pairs
    CDNV, unhalved          (v_i + v_j) / d_ij^2                arXiv 2603.03530
    directional CDNV        u_ij^T Sigma_i u_ij / d_ij^2
    NC1                     tr(Sigma_W pinv(Sigma_B)) / C, and tr Sigma_W / tr Sigma_B
    NC2                     spread of lengths and angles of the centred means; distance from a simplex (ETF)
    frame                   distance of the means, not centred, from an orthogonal frame (ReLU heads, CLOP)
    NC3, NC4                a classifier's weights follow the means; it decides as the nearest mean does
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvarcon.evaluation.moments import ClassMoments, DirectionalMoments

CONVENTIONS = ("ordered", "half_symmetric", "unhalved")


def squared_distances(moments: ClassMoments, *, debias: bool = False) -> Tensor:
    """d_ij^2, [C, C]; NaN where i = j, a class is absent or the means agree.

    debias: take off what the noise of the means adds, v_i / (n_i - 1) + v_j / (n_j - 1). Worth it below some hundred
    rows a class; pairs that it leaves with nothing are NaN.
    """
    mean = moments.mean
    square = torch.cdist(mean, mean, compute_mode="donot_use_mm_for_euclid_dist").square()
    if debias:
        noise = moments.variance / (moments.count - 1).clamp(min=1)
        square = square - noise[:, None] - noise[None]
    usable = moments.present[:, None] & moments.present[None] & (square > 0)
    usable &= ~torch.eye(len(mean), dtype=torch.bool)
    return torch.where(usable, square, torch.nan)


def cdnv(moments: ClassMoments, convention: str = "half_symmetric", *, debias: bool = False) -> float:
    """Class-distance normalised variance, mean over pairs. Raises ValueError for an unknown convention."""
    if convention not in CONVENTIONS:
        raise ValueError(f"unknown convention {convention!r}: choose from {', '.join(CONVENTIONS)}")
    v = moments.variance
    spread = v[:, None].expand(len(v), -1) if convention == "ordered" else v[:, None] + v[None]
    if convention == "half_symmetric":
        spread = spread / 2
    return (spread / squared_distances(moments, debias=debias)).nanmean().item()


def directional_cdnv_pairs(moments: ClassMoments, directional: DirectionalMoments) -> Tensor:
    """Of each ordered pair, [C, C]; NaN where there is none."""
    return directional.along / squared_distances(moments).square()


def directional_cdnv(moments: ClassMoments, directional: DirectionalMoments) -> float:
    """Mean over ordered pairs. An isotropic class of D columns has its CDNV / D."""
    return directional_cdnv_pairs(moments, directional).nanmean().item()


def centred_means(moments: ClassMoments) -> Tensor:
    """Means of the classes present less the mean of them, [classes present, D]."""
    means = moments.mean[moments.present]
    return means - means.mean(0)


def nc1(moments: ClassMoments) -> dict[str, float]:
    """Within-class spread against that of the means: {"nc1", "trace_ratio"}."""
    means = centred_means(moments)
    within, between = moments.within / moments.count.sum(), means.T @ means / len(means)
    rank = len(means) - 1
    values, vectors = torch.linalg.eigh(between)
    values, vectors = values[-rank:], vectors[:, -rank:]
    kept = values > values.amax() * 1e-12
    quotient = (vectors * (within @ vectors)).sum(0)[kept] / values[kept]
    return {"nc1": quotient.sum().item() / len(means), "trace_ratio": (within.trace() / between.trace()).item()}


def nc2(moments: ClassMoments) -> dict[str, float]:
    """How far the centred means are from a simplex: 0 everywhere at neural collapse.

    equinorm_cv: standard deviation of their lengths over the mean. equiangular_std: of the cosines between them.
    max_angle: mean |cosine + 1/(C - 1)|. etf_deviation: |gram of the directions - simplex| / |simplex|. gram_distance:
    the same of the grams scaled to length 1, which sees the lengths too.
    """
    means = centred_means(moments)
    C = len(means)
    lengths = means.norm(dim=1)
    directions = F.normalize(means, dim=1)
    cosines = (directions @ directions.T)[~torch.eye(C, dtype=torch.bool)]
    simplex = (C * torch.eye(C, dtype=torch.float64) - 1) / (C - 1)
    return {
        "equinorm_cv": (lengths.std(correction=0) / lengths.mean()).item(),
        "equiangular_std": cosines.std(correction=0).item(),
        "max_angle": (cosines + 1 / (C - 1)).abs().mean().item(),
        "etf_deviation": ((directions @ directions.T - simplex).norm() / simplex.norm()).item(),
        "gram_distance": gram_distance(means, simplex),
    }


def gram_distance(rows: Tensor, target: Tensor) -> float:
    """|A/|A| - T/|T|| in Frobenius norms, A the gram matrix of the rows."""
    gram = rows @ rows.T
    return (gram / gram.norm() - target / target.norm()).norm().item()


def frame_distance(moments: ClassMoments) -> float:
    """Distance of the means, not centred, from orthogonal vectors of one length."""
    means = moments.mean[moments.present]
    return gram_distance(means, torch.eye(len(means), dtype=torch.float64))


def nc3(moments: ClassMoments, weight: Tensor, bias: Tensor) -> dict[str, float]:
    """Of a linear classifier [C, D], [C]: self-duality with the means, and |W mu_G + b|, the length of its logits at
    the global mean. All classes must be present.
    """
    means, weight, bias = centred_means(moments), weight.double(), bias.double()
    C = len(means)
    product = (weight - weight.mean(0)) @ means.T
    simplex = torch.eye(C, dtype=torch.float64) - 1 / C
    middle = moments.mean[moments.present].mean(0)
    return {
        "nc3": (product / product.norm() - simplex / math.sqrt(C - 1)).norm().item(),
        "nc3_bias": (weight @ middle + bias).norm().item(),
    }


def nearest_mean(moments: ClassMoments, x: Tensor) -> Tensor:
    """Class of the nearest mean for each row, [n]."""
    mean = torch.where(moments.present[:, None], moments.mean, torch.inf)
    return torch.cat([torch.cdist(part.double(), mean).nan_to_num(torch.inf).argmin(1) for part in x.split(4096)])


def nc4(moments: ClassMoments, weight: Tensor, bias: Tensor, x: Tensor) -> float:
    """Share of the rows for which the classifier and the nearest mean agree; 1 at neural collapse."""
    decided = (x.double() @ weight.double().T + bias.double()).argmax(1)
    return (decided == nearest_mean(moments, x)).double().mean().item()


def hard_negative_trio(moments: ClassMoments) -> dict[str, float]:
    """What hard negatives are said to bring about on the unit ball (arXiv 2311.05139), and the spectrum of the means:
    log of its last over its first singular value, of the C - 1 that a simplex has.
    """
    means = moments.mean[moments.present]
    C = len(means)
    directions = F.normalize(means, dim=1)
    cosines = (directions @ directions.T)[~torch.eye(C, dtype=torch.bool)]
    spectrum = torch.linalg.svdvals(centred_means(moments)).square()[: C - 1]
    return {
        "zero_sum": means.mean(0).norm().item(),
        "unit_norm": (means.norm(dim=1) - 1).abs().mean().item(),
        "equal_inner_product": (cosines + 1 / (C - 1)).abs().mean().item(),
        "log_spectrum": (spectrum[-1] / spectrum[0]).clamp(min=1e-300).log().item(),
    }


def sphere_variances(moments: ClassMoments) -> dict[str, float]:
    """Of unit rows, every class weighing the same: total = 1 - |mean|^2 = within + between.

    docs/maths/geometry.md#variances-on-the-sphere
    """
    means = moments.mean[moments.present]
    total = 1 - means.mean(0).square().sum().item()
    within = 1 - means.square().sum(1).mean().item()
    return {"total_variance": total, "within_variance": within, "between_variance": total - within}
