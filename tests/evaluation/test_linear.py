"""The probe against scikit-learn's logistic regression, and its honesty."""

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fastvarcon.errors import UserError
from fastvarcon.evaluation.linear import LR_GRID, linear_probe, stratified_split


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    x, y = torch.tensor(data.data, dtype=torch.float32), torch.tensor(data.target)
    held_out = torch.arange(len(y)) % 5 == 0
    return x[~held_out], y[~held_out], x[held_out], y[held_out]


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
def test_as_good_as_scikit_learn_whatever_the_scale(digits, scale):
    train_x, train_y, test_x, test_y = digits
    probe = linear_probe(train_x * scale, train_y, test_x * scale, test_y, 10)
    oracle = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(train_x, train_y)
    assert probe.top1 >= oracle.score(test_x, test_y) - 0.01
    assert probe.top5 > probe.top1 and probe.lr in LR_GRID


def test_learning_rate_is_chosen_without_the_test_set(digits):
    train_x, train_y, test_x, test_y = digits
    one = linear_probe(train_x, train_y, test_x, test_y, 10)
    other = linear_probe(train_x, train_y, torch.randn_like(test_x), test_y.flip(0), 10)
    assert (one.lr, one.split_top1) == (other.lr, other.split_top1)


def test_seed_decides_everything(digits):
    runs = [linear_probe(*digits, 10, seed=seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] and runs[0] != runs[2]


def test_few_classes_have_no_top5():
    x = torch.tensor([[0.0, 1], [0.1, 1], [1, 0], [1, 0.1]])
    probe = linear_probe(x, torch.tensor([0, 0, 1, 1]), x, torch.tensor([0, 0, 1, 1]), 2)
    assert probe.top5 is None and probe.top1 == 1


def test_split_holds_back_a_tenth_of_every_class_and_shares_nothing():
    labels = torch.tensor([0] * 50 + [1] * 20 + [2] * 2 + [3])
    fit, held = stratified_split(labels, torch.Generator().manual_seed(0))
    assert sorted(torch.cat([fit, held]).tolist()) == list(range(73))
    assert labels[held].bincount(minlength=4).tolist() == [5, 2, 1, 0]


def test_nothing_to_split():
    with pytest.raises(UserError, match="single training image"):
        linear_probe(torch.eye(3), torch.arange(3), torch.eye(3), torch.arange(3), 3)


def test_one_class():
    with pytest.raises(UserError, match="two classes"):
        linear_probe(torch.eye(3), torch.zeros(3).long(), torch.eye(3), torch.zeros(3).long(), 1)
