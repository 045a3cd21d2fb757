"""Small figures against their textbook forms."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.cluster.hierarchy import cophenet, linkage
from scipy.spatial.distance import pdist
from sklearn import metrics
from sklearn.calibration import calibration_curve

from fastvarcon.errors import UserError
from fastvarcon.evaluation.calibration import expected_error, reliability
from fastvarcon.evaluation.clustering import against_superclasses, agreement, read_superclasses, superclass_labels
from fastvarcon.evaluation.corruption import ALEXNET, ALEXNET_CLEAN, mean_errors
from fastvarcon.evaluation.intervals import wilson
from fastvarcon.evaluation.scores import interval95, mean_std, top_k
from fastvarcon.evaluation.transfer import class_mean


def test_top_k_equals_scikit_learn():
    logits, labels = torch.randn(200, 12, generator=torch.Generator().manual_seed(0)), torch.arange(200) % 12
    for k in (1, 5):
        oracle = metrics.top_k_accuracy_score(labels, logits, k=k)
        assert top_k(logits, labels, k) == pytest.approx(oracle)


def test_interval_is_students():
    values = [0.5, 0.6, 0.55, 0.7]
    mean, half = interval95(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert mean_std([0.5]) == (0.5, None)


def test_mean_over_classes():
    predicted, labels = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 0, 0, 0, 1])
    assert class_mean(predicted, labels, 4) == metrics.balanced_accuracy_score(labels, predicted) == 0.75


def test_reliability_equals_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    probabilities = (3 * torch.randn(500, 4, generator=generator)).softmax(1)
    labels = torch.multinomial(probabilities**0.5, 1, generator=generator).squeeze(1)
    bins = reliability(probabilities, labels, 10)
    hit = probabilities.argmax(1) == labels
    accuracy, confidence = calibration_curve(hit, probabilities.max(1).values, n_bins=10)
    full = [one for one in bins if one["count"]]
    assert [one["accuracy"] for one in full] == pytest.approx(accuracy)
    assert [one["confidence"] for one in full] == pytest.approx(confidence, abs=1e-6)
    shares = np.array([one["count"] for one in full]) / 500
    assert expected_error(bins) == pytest.approx((shares * abs(accuracy - confidence)).sum(), abs=1e-6)
    sure = reliability(torch.eye(3), torch.arange(3), 5)
    assert expected_error(sure) == 0 and sure[-1]["count"] == 3


def test_clusters_that_are_the_classes_score_one():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 10)
    x = np.eye(3)[labels] + 0.01 * rng.normal(size=(30, 3))
    found = agreement(linkage(x, "ward"), labels, 3)
    assert found == {
        **dict.fromkeys(("ari", "nmi", "homogeneity", "completeness", "v_measure", "purity"), pytest.approx(1)),
        "clusters": 3,
    }
    noise = agreement(linkage(rng.normal(size=(30, 3)), "ward"), labels, 3)
    assert noise["purity"] < 1 and noise["ari"] < 0.5


def test_agreement_with_superclasses():
    means = np.array([[0.0, 0], [0, 1], [10, 0], [10, 1]])
    tree = linkage(means, "average")
    found = against_superclasses(tree, np.array([0, 0, 1, 1]))
    assert found["ari"] == 1 and found["count"] == 2
    differ = [0, 1, 1, 1, 1, 0]
    assert found["cophenetic_correlation"] == pytest.approx(np.corrcoef(cophenet(tree, pdist(means))[1], differ)[0, 1])
    assert against_superclasses(tree, np.array([0, 1, 0, 1]))["cophenetic_correlation"] < 0


def test_superclass_file_that_does_not_fit(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text("a, x\nb,x\nc,y\n")
    assert superclass_labels(["a", "b", "c"], read_superclasses(path), path).tolist() == [0, 0, 1]
    with pytest.raises(UserError, match=r"lacks 1 classes, 'd'"):
        superclass_labels(["a", "d"], read_superclasses(path), path)
    with pytest.raises(UserError, match="makes 1 groups of 2"):
        superclass_labels(["a", "b"], read_superclasses(path), path)
    path.write_text("a,x\nb\n")
    with pytest.raises(UserError, match="line 2 is not CLASS,SUPERCLASS"):
        read_superclasses(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_superclasses(tmp_path / "none.csv")


def test_corruption_error_of_alexnet_is_one():
    errors = {name: dict.fromkeys("12345", value) for name, value in ALEXNET.items()}
    found = mean_errors(errors, ALEXNET_CLEAN, alexnet=True)
    assert found["mce"] == pytest.approx(1) and found["relative_mce"] == pytest.approx(1)
    assert found["mean_error"] == pytest.approx(np.mean(list(ALEXNET.values())))
    half = {name: dict.fromkeys("12345", value / 2) for name, value in ALEXNET.items()}
    assert mean_errors(half, 0.2, alexnet=True)["mce"] == pytest.approx(0.5)
    assert mean_errors(half, 0.2, alexnet=False)["mce"] is None


@pytest.mark.parametrize(("hits", "count"), [(0, 5), (5, 5), (358, 360), (1, 2), (8758, 10_000)])
def test_wilson_interval_is_scipys(hits, count):
    expected = stats.binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert wilson(hits / count, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_top_k_of_equal_logits_is_that_of_a_stable_sort(k):
    logits = torch.tensor([[0.0, 0, 0, 0], [1, 2, 2, 1], [3, 3, 1, 3]]).repeat(4, 1)
    labels = torch.arange(4).repeat_interleave(3)
    order = np.argsort(-logits.numpy(), axis=1, kind="stable")[:, :k]
    assert top_k(logits, labels, k) == (order == labels.numpy()[:, None]).any(1).mean()
