"""Few-shot errors on clouds whose error is known."""

import pytest
import torch

from fastvarcon.errors import UserError
from fastvarcon.evaluation.few_shot_bounds import camera_ready_bound, first_bound, pairwise_bound
from fastvarcon.evaluation.few_shot_errors import few_shot_errors
from fastvarcon.evaluation.geometry import cdnv, directional_cdnv
from fastvarcon.evaluation.moments import measure


def clouds(apart: float, rows: int = 400, classes: int = 2, dim: int = 8, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % classes
    x = torch.randn(rows, dim, generator=generator)
    return x + apart * torch.eye(classes, dim)[labels], labels


def test_separate_clouds_have_no_error_and_equal_ones_have_chance():
    far, near = clouds(30.0, classes=3, rows=300), clouds(0.0, rows=2000)
    assert few_shot_errors(*far, *far, 5, repeats=2) == {"nearest_mean": 0.0, "probe": 0.0}
    errors = few_shot_errors(*near, *clouds(0.0, rows=2000, seed=1), 50, repeats=2)
    assert all(abs(error - 0.5) < 0.05 for error in errors.values())


def test_nearest_mean_of_all_images_is_that_of_the_normal_law():
    """Two spherical clouds of distance d: the error is Phi(-d / 2)."""
    x, labels = clouds(2.0, rows=20_000)
    error = few_shot_errors(x, labels, x, labels, 10_000, repeats=1)["nearest_mean"]
    expected = torch.special.ndtr(torch.tensor(-(2.0**0.5) * 2 / 2)).item()
    assert error == pytest.approx(expected, abs=0.006)


def test_every_bound_holds():
    x, labels = clouds(6.0, rows=4000, dim=8)
    moments, directional = measure(x, labels, 2)
    V, Vt = cdnv(moments), directional_cdnv(moments, directional)
    for shots in (10, 100, 1000):
        error = few_shot_errors(x, labels, x, labels, shots, repeats=3)["nearest_mean"]
        for bound in (
            first_bound(Vt, V, shots),
            camera_ready_bound(Vt, V, shots),
            pairwise_bound(moments, directional, shots),
        ):
            assert error <= bound


def test_order_of_the_repeats_is_the_seeds():
    x, labels = clouds(1.0)
    one, again, other = (few_shot_errors(x, labels, x, labels, 3, repeats=1, seed=seed) for seed in (1, 1, 2))
    assert one == again != other


def test_what_cannot_be_drawn():
    x, labels = clouds(1.0, rows=20)
    with pytest.raises(UserError, match="class 0 has 10 training images"):
        few_shot_errors(x, labels, x, labels, 11)
    with pytest.raises(UserError, match="a class without training images"):
        few_shot_errors(x, labels, x, labels + 1, 2)
