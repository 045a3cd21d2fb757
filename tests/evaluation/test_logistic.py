"""Logistic regression against scikit-learn's: the same objective, the same weights."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from fastvarcon.evaluation import logistic
from fastvarcon.evaluation.softmax import Scale
from fastvarcon.evaluation.splits import stratified_split


@pytest.fixture(scope="module")
def pixels():
    data = load_digits()
    x, y = torch.tensor(data.data, dtype=torch.float32), torch.tensor(data.target)
    held_out = torch.arange(len(y)) % 5 == 0
    x = Scale.of(x)(x)
    return x[~held_out], y[~held_out], x[held_out], y[held_out]


@pytest.mark.parametrize("strength", [1.0, 100.0])
def test_same_optimum_as_scikit_learn(pixels, strength, monkeypatch):
    train_x, train_y, test_x, _ = pixels
    monkeypatch.setattr(logistic, "TOLERANCE", 1e-8)
    monkeypatch.setattr(logistic, "ITERATIONS", 3000)
    weights = logistic.fit(train_x.double(), train_y, 10, strength)
    oracle = LogisticRegression(C=strength, tol=1e-8, max_iter=3000).fit(train_x.double(), train_y)
    theirs = torch.tensor(np.vstack([oracle.coef_.T, oracle.intercept_]))

    def objective(weights):
        loss = torch.nn.functional.cross_entropy(logistic.predict(weights, train_x.double()), train_y, reduction="sum")
        return (0.5 * weights[:-1].square().sum() + strength * loss).item()

    assert objective(weights) == pytest.approx(objective(theirs), rel=1e-9)
    ours, oracles = (logistic.predict(w, test_x.double()).softmax(1) for w in (weights, theirs))
    torch.testing.assert_close(ours, oracles, atol=1e-4, rtol=0)


@pytest.mark.parametrize("strength", [1.0, 100.0])
def test_scores_within_two_tenths_of_a_point_of_scikit_learn(pixels, strength):
    train_x, train_y, test_x, test_y = pixels
    ours = logistic.predict(logistic.fit(train_x, train_y, 10, strength), test_x).argmax(1)
    oracle = LogisticRegression(C=strength, max_iter=2000).fit(train_x, train_y)
    assert abs((ours == test_y).double().mean() - oracle.score(test_x, test_y)) <= 0.002


def test_strength_is_chosen_on_a_split_of_the_training_rows(pixels):
    train_x, train_y, test_x, test_y = pixels
    chosen = logistic.fit_chosen(train_x, train_y, 10, seed=0)
    inside, held = stratified_split(train_y, logistic.HELD_BACK, torch.Generator().manual_seed(0))
    assert chosen.split_top1[f"{chosen.strength:g}"] == max(chosen.split_top1.values())
    scale = Scale.of(train_x[inside])
    oracle = LogisticRegression(C=chosen.strength, max_iter=2000).fit(scale(train_x[inside]), train_y[inside])
    expected = oracle.score(scale(train_x[held]), train_y[held])
    assert abs(chosen.split_top1[f"{chosen.strength:g}"] - expected) <= 0.002 + 1 / len(held)
    assert (chosen.logits(test_x).argmax(1) == test_y).double().mean() > 0.95
