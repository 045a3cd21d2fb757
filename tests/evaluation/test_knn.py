"""Against scikit-learn's exact kNN, including its way with ties."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from fastvarcon.errors import UserError
from fastvarcon.evaluation import knn


@pytest.fixture
def points():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(700, 12, generator=generator, dtype=torch.float64)
    y = torch.randint(7, (700,), generator=generator)
    x += torch.nn.functional.one_hot(y, 12) * 1.5
    return x[:500], y[:500], x[500:], y[500:]


@pytest.mark.parametrize("chunks", [(1024, 65_536), (33, 101), (1024, 3)])
def test_equals_scikit_learn_for_every_k(points, chunks, monkeypatch):
    monkeypatch.setattr(knn, "QUERY_CHUNK", chunks[0])
    monkeypatch.setattr(knn, "BANK_CHUNK", chunks[1])
    train_x, train_y, query_x, _ = points
    ks = (1, 2, 4, 5, 20, 200, 500)  # the even ones tie often
    predicted = knn.knn_predict(train_x, train_y, query_x, 7, ks)
    for k in ks:
        oracle = KNeighborsClassifier(k, metric="cosine").fit(train_x, train_y)
        assert (predicted[k].numpy() == oracle.predict(query_x)).all(), k


def test_weighted_votes_equal_scikit_learn(points):
    train_x, train_y, query_x, _ = points
    ks = (1, 2, 5, 20, 200)
    weighted = knn.vote(train_x, train_y, query_x, 7, ks, 0.07)[1]
    for k in ks:
        oracle = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
        assert (weighted[k].numpy() == oracle.fit(train_x, train_y).predict(query_x)).all(), k


def test_nearest_mean_equals_scikit_learn(points):
    train_x, train_y, query_x, _ = points
    unit = torch.nn.functional.normalize(train_x, dim=1)
    means = torch.stack([unit[train_y == label].mean(0) for label in range(7)])
    oracle = KNeighborsClassifier(1, metric="cosine").fit(means, range(7))  # nearest in angle
    assert (knn.nearest_mean(train_x, train_y, query_x, 7).numpy() == oracle.predict(query_x)).all()
    assert not (knn.nearest_mean(train_x, train_y, query_x, 9) > 6).any(), "a class without images"


def test_length_of_features_does_not_matter(points):
    train_x, train_y, query_x, _ = points
    scaled = train_x * torch.rand(500, 1, dtype=torch.float64) + 0
    assert torch.equal(*(knn.knn_predict(x, train_y, query_x * 3, 7, (5,))[5] for x in (train_x, scaled)))


@pytest.mark.parametrize("k", [0, 501])
def test_impossible_k(points, k):
    train_x, train_y, query_x, _ = points
    with pytest.raises(UserError, match=f"k = {k} neighbours cannot be found among 500"):
        knn.knn_predict(train_x, train_y, query_x, 7, (1, k))


def test_headline_is_fixed_beforehand():
    assert knn.headline_k((1, 5, 20, 200)) == 20 and knn.headline_k((3, 7)) == 3


def by_similarity_and_row(train_x, query_x) -> np.ndarray:
    """Training rows of each query, the nearest first, of equally near ones the first, by numpy."""
    bank, queries = (
        x.numpy() / np.linalg.norm(x.numpy(), axis=1, keepdims=True).clip(1e-12) for x in (train_x, query_x)
    )
    return np.argsort(-(queries @ bank.T).round(9), axis=1, kind="stable")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chunks", [(1024, 65_536, 256), (7, 101, 3), (1, 64, 1)])
@pytest.mark.parametrize("what", ["repeated", "one-hot", "one point", "zeros"])
def test_of_equally_near_rows_the_first_vote(chunks, what, dtype, monkeypatch):
    """On images that are in the set several times, and on encoders that map many to one point."""
    for name, size in zip(("QUERY_CHUNK", "BANK_CHUNK", "EXACT_CHUNK"), chunks, strict=True):
        monkeypatch.setattr(knn, name, size)
    generator = torch.Generator().manual_seed(0)
    few = torch.randn(40, 33, generator=generator, dtype=dtype)
    bank, queries = {
        "repeated": (few[torch.randint(40, (300,), generator=generator)], few + 0.1),
        "one-hot": (torch.eye(9, dtype=dtype).repeat(30, 1), torch.eye(9, dtype=dtype) + 0.5),
        "one point": (few[:1].expand(300, -1), few),
        "zeros": (torch.zeros(300, 33, dtype=dtype), few),
    }[what]
    ks = (1, 2, 5, 20, 200)
    _, rows = knn._nearest(bank, queries, ks)
    expected = by_similarity_and_row(bank.double(), queries.double())
    for k in ks:
        assert (rows[:, :k].sort(1).values.numpy() == np.sort(expected[:, :k])).all(), k


def test_the_nearest_mean_of_equal_classes_is_the_first(points):
    train_x, train_y, query_x, _ = points
    twice = (
        torch.cat([train_x, train_x.flip(0)]),
        torch.cat([train_y + 7, train_y.flip(0)]),
    )  # every class is there twice
    order = torch.randperm(len(twice[0]), generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float32, torch.float64):
        x, queries = twice[0][order].to(dtype), query_x.to(dtype)
        assert torch.equal(
            knn.nearest_mean(x, twice[1][order], queries, 14), knn.nearest_mean(train_x.to(dtype), train_y, queries, 7)
        )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_rows_that_are_not_finite_are_refused(points, value):
    """Those whose length overflows too: they would be near to nothing, or to everything."""
    train_x, train_y, query_x, _ = (part.float() if part.is_floating_point() else part for part in points)
    bad = query_x.clone()
    bad[[7, 9]] = value
    with pytest.raises(UserError, match=r"2 of the 200 query rows are not finite, row 7 first"):
        knn.knn_predict(train_x, train_y, bad, 7, (5,))
    with pytest.raises(UserError, match=r"2 of the 200 training rows are not finite, row 7 first"):
        knn.nearest_mean(bad, train_y[:200], query_x, 7)
