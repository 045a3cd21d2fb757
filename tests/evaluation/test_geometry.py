"""Class geometry against the golden values, other people's formulas and embeddings whose geometry is known."""

import json
import math
from pathlib import Path

import pytest
import torch

from fastvarcon.config import Config, LossConfig
from fastvarcon.evaluation import few_shot_bounds as bounds
from fastvarcon.evaluation import geometry
from fastvarcon.evaluation.alignment import AlignmentMoments, rsa_spearman, weight_gap
from fastvarcon.evaluation.moments import ClassMoments, DirectionalMoments, measure
from fastvarcon.evaluation.view_geometry import ViewMoments, uniformity
from fastvarcon.losses.ssem import batch_threshold, collapse_threshold

FIXTURE = json.loads(Path(__file__).parents[1].joinpath("golden_contrastive.json").read_text())
GOLDEN, BOUNDS = FIXTURE["metrics_fixture"], FIXTURE["bounds"]
LABELS = torch.arange(15) % 3


def features() -> tuple[torch.Tensor, torch.Tensor]:
    i, k = torch.arange(15, dtype=torch.float64)[:, None], torch.arange(5, dtype=torch.float64)[None]
    own = (i % 3 == k).double()
    first = torch.sin(0.7 * i + 0.5 * k) + 1.5 * own + 0.1 * k * ((7 * i) % 5)
    return first[:, :4].contiguous(), torch.cos(0.4 * i + 0.9 * k) + own


@pytest.fixture
def measured():
    return measure(features()[0], LABELS, 3, batch=4)


def simplex(classes: int, dim: int, scale: float = 2.0, per_class: int = 5):
    """Features at neural collapse, away from the origin, and their labels."""
    means = scale * (
        torch.eye(classes, dim, dtype=torch.float64) - torch.eye(classes, dim, dtype=torch.float64).mean(0)
    )
    labels = torch.arange(classes).repeat(per_class)
    return means[labels] + 1, labels


def test_golden_class_geometry(measured):
    moments, directional = measured
    nc1, nc2 = geometry.nc1(moments), geometry.nc2(moments)
    golden = {
        "cdnv": geometry.cdnv(moments),
        "dir_cdnv": geometry.directional_cdnv(moments, directional),
        "etf_deviation_repx": nc2["etf_deviation"],
        "nc1_tr(SW pinv SB)/C": nc1["nc1"],
        "trSW/trSB": nc1["trace_ratio"],
        "nc2_equinorm_cv": nc2["equinorm_cv"],
        "nc2_equiangular_std": nc2["equiangular_std"],
        "nc2_mean_abs_cos_plus_1/(C-1)": nc2["max_angle"],
        "nc2_gram_dist": nc2["gram_distance"],
        "of_gram_dist": geometry.frame_distance(moments),
    }
    for name, value in golden.items():
        assert value == pytest.approx(GOLDEN[name], abs=1e-10), name


def test_golden_pairwise_bound(measured):
    for shots, value in zip((10, 100, 1000), GOLDEN["new_bound_m10_100_1000"], strict=True):
        assert bounds.pairwise_bound(*measured, shots) == pytest.approx(value, abs=1e-9)


def test_golden_alignment():
    x, y = features()
    moments = AlignmentMoments(4, 5)
    for part in (slice(0, 6), slice(6, 15)):
        moments.add(x[part], y[part])
    assert moments.cka() == pytest.approx(GOLDEN["cka_biased_linear"], abs=1e-10)
    assert moments.cka(unbiased=True) == pytest.approx(GOLDEN["cka_unbiased_linear"], abs=1e-10)
    assert moments.rsa() == pytest.approx(GOLDEN["rsa_pearson_cosine"], abs=1e-10)
    assert rsa_spearman(x, y) == pytest.approx(GOLDEN["rsa_spearman_correlation"], abs=1e-10)


def test_golden_first_bound():
    """The corrected Cardano branch; the values of the authors' code are the golden ones beside it."""
    for name, value in BOUNDS["prop1_E*(V,Vt) correct optimum (Vt=.165,V=1.6)"].items():
        assert bounds.first_bound(0.165, 1.6, int(name[2:])) == pytest.approx(value, rel=1e-12)


def test_golden_camera_ready_bound():
    series = BOUNDS["camera_ready_old_bound(dir=.0728605240583419,cdnv=1.672136664390564)"]
    for shots, value in series.items():
        ours = bounds.camera_ready_bound(0.0728605240583419, 1.672136664390564, int(shots))
        assert ours == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("shots", [1, 3, 10, 100, 10_000])
@pytest.mark.parametrize(("directional", "variability"), [(0.165, 1.6), (2.0, 0.01), (1e-4, 3.0)])
def test_bounds_are_the_minimum_over_a(shots, directional, variability):
    A = 2 + 2**1.5 / shots
    start = max(5, 2 * A)
    a = start + torch.logspace(-6, 6, 200_000, dtype=torch.float64)
    grid = (directional / (0.5 - A / a) ** 2 + 2**1.5 * a / shots * variability).min().item()
    ours = bounds.first_bound(directional, variability, shots, classes=4) / 3
    assert ours <= grid * (1 + 1e-9) and ours >= grid * (1 - 1e-6)


def test_conventions_of_cdnv(measured):
    moments, _ = measured
    half = geometry.cdnv(moments, "half_symmetric")
    assert geometry.cdnv(moments, "ordered") == pytest.approx(half, rel=1e-12)
    assert geometry.cdnv(moments, "unhalved") == pytest.approx(2 * half, rel=1e-12)
    with pytest.raises(ValueError, match="unknown convention 'other'"):
        geometry.cdnv(moments, "other")


def test_moments_are_those_of_numpy_however_far_away():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (500,), generator=generator)
    labels[::50] = -1
    moments, directional = measure(x + 1e6, labels, 5, batch=37)
    assert moments.count[4] == 0 and not moments.present[4]
    for c in range(4):
        rows = x[labels == c]
        centred = rows - rows.mean(0)
        torch.testing.assert_close(moments.mean[c], rows.mean(0) + 1e6, rtol=0, atol=1e-9)
        torch.testing.assert_close(moments.variance[c], centred.square().sum(1).mean(), rtol=1e-8, atol=0)
        torch.testing.assert_close(directional.fourth[c], centred.square().sum(1).square().mean(), rtol=1e-8, atol=0)
    centred = x[labels >= 0] - (moments.mean[labels[labels >= 0]] - 1e6)
    torch.testing.assert_close(moments.within, centred.T @ centred, rtol=0, atol=1e-6)


def test_isotropic_classes():
    """sigma = 0.7 in 50 columns, 3 apart: V = 2.72, directional V / 50 (docs/maths/geometry.md#directional-cdnv)."""
    generator = torch.Generator().manual_seed(0)
    x = 0.7 * torch.randn(40_000, 50, generator=generator, dtype=torch.float64)
    labels = torch.arange(40_000) % 2
    x[:, 0] += 3 * labels
    moments, directional = measure(x, labels, 2)
    assert geometry.cdnv(moments) == pytest.approx(2.7222, rel=0.01)
    assert geometry.directional_cdnv(moments, directional) == pytest.approx(0.05444, rel=0.03)


def test_debiased_distances():
    """With few rows a class the means' own noise counts as distance."""
    x = torch.randn(400, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.arange(400) % 40
    x += 5 * torch.eye(40, dtype=torch.float64)[labels]
    few, _ = measure(x, labels, 40)
    true = 0.9 * 40 / 50  # v = 40 with n - 1 = 9 in the denominator, d^2 = 2 * 25
    assert abs(geometry.cdnv(few, debias=True) - true) < abs(geometry.cdnv(few) - true) / 3


def test_neural_collapse_is_zero_at_a_simplex():
    x, labels = simplex(5, 7)
    moments, _ = measure(x, labels, 5)
    assert geometry.nc1(moments)["nc1"] == pytest.approx(0, abs=1e-20)
    assert all(value == pytest.approx(0, abs=1e-12) for value in geometry.nc2(moments).values())
    weight = geometry.centred_means(moments)
    bias = -(weight @ moments.mean.mean(0))
    nc3 = geometry.nc3(moments, weight, bias)
    assert nc3["nc3"] == pytest.approx(0, abs=1e-12) and nc3["nc3_bias"] == pytest.approx(0, abs=1e-12)
    assert geometry.nc4(moments, weight, bias, x) == 1
    assert geometry.nc4(moments, -weight, -bias, x) == 0


def test_trio_and_sphere_variances_of_a_unit_simplex():
    x, labels = simplex(4, 6)
    x = torch.nn.functional.normalize(x - 1, dim=1)
    moments, _ = measure(x, labels, 4)
    assert all(abs(value) < 1e-12 for value in geometry.hard_negative_trio(moments).values())
    assert geometry.sphere_variances(moments) == pytest.approx(
        {"total_variance": 1.0, "within_variance": 0.0, "between_variance": 1.0}, abs=1e-12
    )


def test_orthogonal_frame():
    labels = torch.arange(4).repeat(3)
    moments, _ = measure(3 * torch.eye(4, 6, dtype=torch.float64)[labels], labels, 4)
    assert geometry.frame_distance(moments) == pytest.approx(0, abs=1e-14)


@pytest.mark.parametrize(
    ("classes", "per_class", "tau", "threshold"),
    [(10, 51, 0.1, 0.020), (10, 51, 0.5, 0.557), (100, 10, 0.1, 0.104), (100, 10, 0.5, 0.945)],
)
def test_collapse_threshold(classes, per_class, tau, threshold):
    assert collapse_threshold(classes, per_class, tau, include_self=True) == pytest.approx(threshold, abs=5e-4)
    implicit = 1 / (2 * per_class - 1)  # the alpha of SupCon
    assert implicit < collapse_threshold(classes, per_class, tau)


def test_collapse_threshold_of_a_run():
    config = Config(loss=LossConfig("ssem", temperature=0.5))
    config.train.global_batch = 40
    assert batch_threshold(config, 10) == collapse_threshold(10, 4, 0.5)
    assert batch_threshold(config, 40) is None  # one image of each class
    config.sampling.per_class = 8
    assert batch_threshold(config, 10) == collapse_threshold(5, 8, 0.5)


def test_views():
    generator = torch.Generator().manual_seed(0)
    z = torch.nn.functional.normalize(torch.randn(3, 40, 5, generator=generator, dtype=torch.float64), dim=2)
    moments = ViewMoments(5)
    moments.add(z[:, :13]), moments.add(z[:, 13:])
    pairs = [(z[0], z[1]), (z[0], z[2]), (z[1], z[2])]
    assert moments.alignment == pytest.approx(sum((u - v).square().sum(1).mean().item() for u, v in pairs) / 3)
    assert moments.view_collapse == pytest.approx(moments.alignment / 2)
    assert moments.augmentation_variance == pytest.approx(z.var(0).sum(1).mean().item())
    sigma = torch.linalg.svdvals(z.flatten(0, 1) - z.flatten(0, 1).mean(0))
    share = sigma / sigma.sum()
    assert moments.effective_rank == pytest.approx(math.exp(-(share * share.log()).sum().item()))
    assert uniformity(z[0]) == pytest.approx(torch.pdist(z[0]).square().mul(-2).exp().mean().log().item())


def test_effective_rank_of_a_line_is_one():
    z = torch.linspace(0, 1, 20, dtype=torch.float64)[:, None] * torch.ones(6, dtype=torch.float64)
    moments = ViewMoments(6)
    moments.add(torch.stack([z, z]))
    assert moments.effective_rank == pytest.approx(1, abs=1e-4) and moments.alignment == 0


def test_alignment_does_not_see_rotation_scale_and_shift():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 4, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))[0]
    moments = AlignmentMoments(4, 4)
    moments.add(x, 3 * x @ rotation + 1e4)
    assert moments.cka() == pytest.approx(1, abs=1e-9) and moments.cka(unbiased=True) == pytest.approx(1, abs=1e-6)
    moments = AlignmentMoments(4, 4)
    moments.add(x, 3 * x @ rotation)
    assert moments.rsa() == pytest.approx(1, abs=1e-12) and rsa_spearman(x, x) == pytest.approx(1)


def test_weight_gap():
    a = {"conv.weight": torch.tensor([3.0, 4.0]), "conv.bias": torch.ones(1), "bn.weight": torch.ones(2)}
    b = {"conv.weight": torch.tensor([3.0, -4.0]), "conv.bias": torch.zeros(1), "bn.weight": torch.ones(2)}
    assert weight_gap(a, b) == pytest.approx((8 / 5 + 0) / 2) and weight_gap(a, a) == 0
    with pytest.raises(ValueError, match="one architecture"):
        weight_gap(a, {"conv.weight": torch.ones(3)})


def test_empty_classes_and_equal_means_are_skipped():
    x = torch.tensor([[0.0, 1.0], [0.0, -1.0], [0.0, 1.0], [0.0, -1.0], [2.0, 0.0], [2.0, 0.0]])
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    moments = ClassMoments(5, 2)
    moments.add(x, labels)
    directional = DirectionalMoments(moments)
    directional.add(x, labels)
    assert geometry.cdnv(moments) == pytest.approx(1 / 2 / 4)
    assert geometry.directional_cdnv(moments, directional) == 0
