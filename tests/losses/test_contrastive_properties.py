"""What theory says of the contrastive family, on random batches and at known embeddings: docs/maths/family.md."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvarcon.evaluation.geometry import nc2
from fastvarcon.evaluation.moments import measure
from fastvarcon.losses import ContrastiveLoss, SsemLoss
from fastvarcon.losses.monitor import NsclMonitor, gap_bound
from fastvarcon.losses.ssem import collapse_threshold

TAUS = (0.1, 0.5, 1.0)


@st.composite
def batches(draw, classes: int = 4):
    """Unit rows and labels of at least two classes: clustered or not, two or three views."""
    images, views = draw(st.integers(2, 9)), draw(st.integers(2, 3))
    labels = torch.tensor(
        [0, 1, *draw(st.lists(st.integers(0, classes - 1), min_size=images - 2, max_size=images - 2))]
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    spread = draw(st.sampled_from([0.05, 1.0, 20.0]))
    centres = torch.randn(classes, draw(st.integers(2, 6)), generator=generator, dtype=torch.float64)
    noise = torch.randn(views, images, centres.shape[1], generator=generator, dtype=torch.float64)
    return F.normalize(centres[labels] + spread * noise, dim=2), labels


def losses(views, labels, tau: float, **flags) -> torch.Tensor:
    """Of each row."""
    loss = ContrastiveLoss(num_views=len(views), temperature=tau, **flags)
    return loss.rows(views.flatten(0, 1), labels.repeat(len(views))).loss


@settings(deadline=None, max_examples=60)
@given(batches(), st.sampled_from(TAUS))
def test_dcl_lies_between_nscl_and_nscl_plus_the_bound(batch, tau):
    views, labels = batch
    dcl, nscl = losses(views, labels, tau, den="image"), losses(views, labels, tau, den="class")
    bound = gap_bound(len(labels), torch.bincount(labels).max(), tau)
    assert (nscl <= dcl + 1e-12).all() and (dcl <= nscl + bound + 1e-12).all()
    own = losses(views, labels, tau, den="image", own=True) - losses(views, labels, tau, den="class", own=True)
    assert (own >= -1e-12).all() and (own <= bound + 1e-12).all()


@settings(deadline=None, max_examples=30)
@given(batches())
def test_monitor_says_the_same(batch):
    views, labels = batch
    figures = NsclMonitor(6, num_views=len(views))(views.flatten(0, 1) * 3, labels.repeat(len(views)))
    dcl, nscl = (losses(views, labels, 1.0, den=den).mean() for den in ("image", "class"))
    torch.testing.assert_close(torch.stack([figures["dcl_tau1"], figures["nscl_tau1"]]), torch.stack([dcl, nscl]))
    assert -1e-12 <= figures["nscl_gap"] <= figures["nscl_bound"]


@settings(deadline=None, max_examples=30)
@given(batches(), st.sampled_from(TAUS))
def test_nscl_of_an_anchor_does_not_see_other_images_of_its_class(batch, tau):
    views, labels = batch
    before = losses(views, labels, tau, den="class")
    moved = views.clone()
    others = labels == labels[0]
    others[0] = False
    moved[:, others] = F.normalize(moved[:, others] + 1, dim=2)
    after = losses(moved, labels, tau, den="class")
    anchors = torch.arange(len(views)) * len(labels)  # the views of image 0
    torch.testing.assert_close(after[anchors], before[anchors], rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(batches(), st.sampled_from(TAUS))
def test_members_that_agree_when_all_classes_differ(batch, tau):
    views, labels = batch
    distinct = torch.arange(len(labels))
    torch.testing.assert_close(losses(views, distinct, tau, den="class"), losses(views, distinct, tau, den="image"))
    two = views[:2]
    torch.testing.assert_close(losses(two, distinct, tau, pos="class"), losses(two, distinct, tau))


@settings(deadline=None, max_examples=30)
@given(batches(), st.sampled_from(TAUS))
def test_supcon_in_is_at_most_supcon_out(batch, tau):
    views, labels = batch
    inside = losses(views, labels, tau, pos="class", reduce="in")
    assert (inside <= losses(views, labels, tau, pos="class") + 1e-12).all()


@settings(deadline=None, max_examples=30)
@given(batches(), st.sampled_from(TAUS), st.sampled_from(["out", "in"]))
def test_gradient_is_that_of_the_formula(batch, tau, reduce):
    """SupCon: G = (softmax over D - Q) / (tau n), Q uniform or softmax over P; dL/dZ = (G + G^T) Z.

    docs/maths/family.md#gradient
    """
    views, labels = batch
    z = views.flatten(0, 1).requires_grad_()
    y = labels.repeat(len(views))
    ContrastiveLoss(num_views=len(views), temperature=tau, pos="class", reduce=reduce)(z, y).backward()
    eye = torch.eye(len(z), dtype=torch.bool)
    P = (y[:, None] == y) & ~eye
    x = (z @ z.T / tau).detach()
    positives = x if reduce == "in" else torch.zeros_like(x)
    Q = positives.masked_fill(~P, -torch.inf).softmax(1)
    G = (x.masked_fill(eye, -torch.inf).softmax(1) - Q) / (tau * len(z))
    torch.testing.assert_close(z.grad, (G + G.T) @ z.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("views", [2, 3])
def test_values_when_all_rows_are_equal(views):
    """docs/maths/family.md#values-at-known-embeddings: log(K B - 1), log K (B - 1), log K (B - n)."""
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    z = torch.zeros(views, 6, 4, dtype=torch.float64)
    z[..., 0] = 1
    for flags, count in (({}, views * 6 - 1), ({"den": "image"}, views * 5), ({"den": "class"}, views * 3)):
        values = losses(z, labels, 0.3, **flags)
        torch.testing.assert_close(values, torch.full_like(values, math.log(count)))


def simplex(classes: int) -> torch.Tensor:
    return F.normalize(torch.eye(classes, dtype=torch.float64) - 1 / classes, dim=1)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_gap_at_equal_rows_and_at_neural_collapse(classes):
    """log((N - 1)/(N - n)), and log(1 + e^(C/(C - 1))/(C - 1)) as n grows; both below the bound.

    docs/maths/family.md#the-gap-of-dcl-and-nscl
    """
    n = 4 if classes == 100 else 20
    labels = torch.arange(classes).repeat(n)
    N, bound = len(labels), gap_bound(len(labels), n).item()
    x = {"equal": torch.eye(1, 4, dtype=torch.float64).expand(N, 4), "collapsed": simplex(classes)[labels]}
    q = math.exp(classes / (classes - 1))
    expected = {
        "equal": math.log((N - 1) / (N - n)),
        "collapsed": math.log1p((n - 1) * q / (N - n)),  # the column of the table as n grows
    }
    for name, rows in x.items():
        figures = NsclMonitor(classes)(rows.repeat(2, 1), labels.repeat(2))
        assert figures["nscl_gap"].item() == pytest.approx(expected[name], abs=1e-9)
        assert figures["nscl_gap"] <= bound and figures["nscl_bound"].item() == pytest.approx(bound)


@pytest.mark.parametrize(
    ("classes", "tau", "bound"),
    [(2, 1, 2.127), (10, 1, 0.5994), (100, 1, 0.07198), (1000, 1, 0.00737), (10, 0.5, 1.955), (100, 0.1, 15.4)],
)
def test_table_of_the_bound(classes, tau, bound):
    assert gap_bound(classes * 8, 8, tau).item() == pytest.approx(bound, rel=2e-3)
    assert gap_bound(8, 8).isinf()


def test_best_free_embedding_of_nscl_is_a_simplex():
    """L* = -1/tau - 1/((C - 1) tau) + log K (N - n), reached by gradient descent from anywhere.

    docs/maths/family.md#values-at-known-embeddings
    """
    classes, n, tau = 3, 2, 0.5
    labels = torch.arange(classes).repeat(n)
    raw = torch.randn(2 * len(labels), 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    raw.requires_grad_()
    loss = ContrastiveLoss(temperature=tau, den="class")
    optimizer = torch.optim.Adam([raw], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        value = loss(F.normalize(raw, dim=1), labels.repeat(2))
        value.backward()
        optimizer.step()
    best = -1 / tau - 1 / ((classes - 1) * tau) + math.log(2 * (len(labels) - n))
    assert value.item() == pytest.approx(best, abs=1e-6)
    moments, _ = measure(F.normalize(raw.detach(), dim=1), labels.repeat(2), classes)
    assert moments.variance.max() < 1e-5 and nc2(moments)["etf_deviation"] < 1e-3


@pytest.mark.parametrize(("classes", "per_class", "tau", "views"), [(4, 3, 0.3, 2), (3, 4, 0.5, 2), (5, 2, 0.2, 3)])
@pytest.mark.parametrize("include_self", [True, False])
def test_collapse_of_ssem_flips_at_its_threshold(classes, per_class, tau, views, include_self):
    """A little spread of the images of a class, each in its own direction, raises the loss below alpha*, and lowers it
    above (docs/maths/family.md#the-collapse-threshold-of-ssem).
    """
    labels = torch.arange(classes).repeat_interleave(per_class)
    centres = torch.block_diag(simplex(classes), *[simplex(per_class)] * classes)
    within = centres[classes:, :]
    collapsed = centres[labels]
    epsilon = 1e-3
    spread = math.sqrt(1 - epsilon**2) * collapsed + epsilon * within
    threshold = collapse_threshold(classes, per_class, tau, views, include_self=include_self)

    def gain(alpha: float) -> float:
        loss = SsemLoss(alpha, num_views=views, temperature=tau, include_self=include_self)
        return (
            loss(spread.repeat(views, 1), labels.repeat(views)) - loss(collapsed.repeat(views, 1), labels.repeat(views))
        ).item()

    assert 0 < threshold < 1 and gain(threshold - 0.02) > 0 > gain(threshold + 0.02)
