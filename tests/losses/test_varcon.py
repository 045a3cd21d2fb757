"""VarCon in one process: golden values, both forms, gradients, edge cases, properties."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvarcon.losses import VarConLoss, build_loss, varcon_loss, varcon_stats

BACKENDS = ("reference", "closed")
GOLDEN_LABELS = torch.tensor([5, 0, 9, 5, 0, 9])


def golden_raw() -> torch.Tensor:
    """The input of docs/maths/varcon.md#golden-values: raw[i][j] = sin(1 + 3i + 7j) + 0.8 [j == i mod 3]."""
    rows = [[math.sin(1 + 3 * i + 7 * j) + 0.8 * (j == i % 3) for j in range(4)] for i in range(6)]
    return torch.tensor(rows, dtype=torch.float64, requires_grad=True)


def random_rows(n=40, dim=7, classes=6, collapsed=False, dtype=torch.float64, seed=0):
    """Unit rows and labels in one of two regimes: ordinary, or rows close to the mean of their class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    rows = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    if collapsed:
        rows = 0.15 * rows + 2 * torch.randn(classes, dim, generator=generator, dtype=torch.float64)[labels]
    return F.normalize(rows, dim=1).to(dtype), labels


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("tau1", "eps", "total", "kl", "nll", "tau2", "confidence", "gradient"),
    [
        (0.1, 0.02, 0.032478990593, 0.015558090631, 0.016920899962, 0.119333382359, 0.983334558983, 0.191502089973),
        (0.1, 0.00, 0.033421431949, 0.016500531986, 0.016920899962, 0.1, 0.983334558983, 0.191868393143),
        (0.5, 0.10, 0.543587390935, 0.070502116766, 0.473085274169, 0.525328677469, 0.626643387345, 0.375303540458),
    ],
)
def test_golden_values(backend, tau1, eps, total, kl, nll, tau2, confidence, gradient):
    raw = golden_raw()
    z = F.normalize(raw, dim=1)
    loss = varcon_loss(z, GOLDEN_LABELS, 10, tau1=tau1, eps=eps, backend=backend)
    loss.backward()
    stats = varcon_stats(z, GOLDEN_LABELS, 10, tau1=tau1, eps=eps, backend=backend)
    measured = [loss, stats.kl.mean(), stats.nll.mean(), stats.tau2.mean(), stats.confidence.mean(), raw.grad.norm()]
    assert [value.item() for value in measured] == pytest.approx(
        [total, kl, nll, tau2, confidence, gradient], abs=1e-12
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("tau1", "eps", "row"),
    [
        (0.1, 0.02, [-0.015546484995, 0.002341006012, 0.035574676843, -0.007821516654]),
        (0.5, 0.1, [-0.060667107280, 0.039055658981, 0.093604719067, -0.008275323894]),
    ],
)
def test_golden_gradient_row(backend, tau1, eps, row):
    raw = golden_raw()
    varcon_loss(F.normalize(raw, dim=1), GOLDEN_LABELS, 10, tau1=tau1, eps=eps, backend=backend).backward()
    assert raw.grad[0].tolist() == pytest.approx(row, abs=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("tau1", "eps", "detach_centroids", "detach_target", "gradient"),
    [
        (0.1, 0.02, True, True, 0.191205392044),
        (0.1, 0.02, False, False, 0.229567804678),
        (0.1, 0.02, False, True, 0.229203925656),
        (0.5, 0.1, True, True, 0.362096417091),
        (0.5, 0.1, False, False, 0.463851821134),
        (0.5, 0.1, False, True, 0.448019263299),
    ],
)
def test_golden_gradients_of_the_variants(backend, tau1, eps, detach_centroids, detach_target, gradient):
    raw = golden_raw()
    varcon_loss(
        F.normalize(raw, dim=1),
        GOLDEN_LABELS,
        10,
        tau1=tau1,
        eps=eps,
        backend=backend,
        detach_centroids=detach_centroids,
        detach_target=detach_target,
    ).backward()
    assert raw.grad.norm().item() == pytest.approx(gradient, abs=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("classes", "loss"), [(10, 4.604385), (100, 9.205067), (641, 12.893644), (1000, 13.765141)])
def test_start_value_when_all_features_are_equal(backend, classes, loss):
    """2 log C - H(q): docs/maths/varcon.md#start-value."""
    z = torch.zeros(classes, 8, dtype=torch.float64)
    z[:, 0] = 1
    assert varcon_loss(z, torch.arange(classes), classes, backend=backend).item() == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize(("classes", "loss"), [(10, 0.004102), (100, 0.025230), (1000, 0.167845)])
def test_loss_on_a_perfect_simplex(classes, loss):
    """Centroids at cosine -1/(C - 1), z = w: docs/maths/varcon.md#best-confidence."""
    z = F.normalize(torch.eye(classes, dtype=torch.float64) - 1 / classes, dim=1)
    assert varcon_loss(z, torch.arange(classes), classes).item() == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize("collapsed", [False, True])
@pytest.mark.parametrize("detach_centroids", [True, False])
@pytest.mark.parametrize("detach_target", [True, False])
@pytest.mark.parametrize(("tau1", "eps"), [(0.1, 0.02), (0.05, 0.04), (1.0, 0.3), (0.1, 0.0)])
def test_closed_form_equals_the_equations(collapsed, detach_centroids, detach_target, tau1, eps):
    gradients, losses = [], []
    for backend in BACKENDS:
        z, labels = random_rows(collapsed=collapsed)
        labels[::7] = -1
        z.requires_grad_()
        rows = varcon_loss(
            z,
            labels,
            9,
            tau1=tau1,
            eps=eps,
            reduction="none",
            backend=backend,
            detach_centroids=detach_centroids,
            detach_target=detach_target,
        )
        (rows * torch.linspace(0.5, 2, len(rows), dtype=rows.dtype)).sum().backward()
        losses.append(rows.detach())
        gradients.append(z.grad)
    assert torch.allclose(*losses, rtol=0, atol=1e-12) and torch.allclose(*gradients, rtol=0, atol=1e-11)


def test_gradcheck():
    """With everything attached, the gradient is the derivative of the value; detaching is a choice against that."""
    z, labels = random_rows(12, 4, 3)
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: varcon_loss(x, labels, 3, tau1=0.5, eps=0.1, detach_centroids=False), z)


def test_double_backward_is_refused():
    z, labels = random_rows()
    z.requires_grad_()
    [gradient] = torch.autograd.grad(varcon_loss(z, labels, 6).square(), z, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_by_the_logits_sums_to_zero_over_the_classes(backend):
    """A shift of all logits changes nothing: moving z along a direction that all centroids share has no effect."""
    z, labels = random_rows(20, 6, 4)
    z[:, 0] = 0.5
    z.requires_grad_()
    varcon_loss(z, labels, 4, backend=backend).backward()
    centroids = F.normalize(torch.zeros(4, 6, dtype=z.dtype).index_add(0, labels, z.detach()), dim=1)
    direction = torch.linalg.lstsq(centroids, torch.ones(4, 1, dtype=z.dtype)).solution[:, 0]  # w_k . direction = 1
    assert (z.grad @ direction).abs().max() < 1e-12


@pytest.mark.parametrize("backend", BACKENDS)
def test_ignored_rows_are_as_if_absent(backend):
    z, labels = random_rows(30)
    keep = torch.arange(30) % 3 != 0
    full, part = z.clone().requires_grad_(), z[keep].clone().requires_grad_()
    masked = torch.where(keep, labels, torch.full_like(labels, -1))
    for detach in (True, False):
        one = varcon_loss(full, masked, 6, detach_centroids=detach, backend=backend)
        other = varcon_loss(part, labels[keep], 6, detach_centroids=detach, backend=backend)
        full.grad = part.grad = None
        one.backward(), other.backward()
        assert one.item() == pytest.approx(other.item(), abs=1e-14)
        assert torch.allclose(full.grad[keep], part.grad, atol=1e-14) and (full.grad[~keep] == 0).all()
    stats = varcon_stats(full.detach(), masked, 6, backend=backend)
    assert all((column[~keep] == 0).all() for column in vars(stats).values())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("detach_centroids", [True, False])
def test_ignored_rows_may_hold_anything(backend, detach_centroids):
    z, labels = random_rows(10)
    z[3], labels[3] = torch.nan, -1
    z.requires_grad_()
    loss = varcon_loss(z, labels, 6, backend=backend, detach_centroids=detach_centroids)
    loss.backward()
    others = [i for i in range(10) if i != 3]
    assert loss.isfinite() and z.grad[others].isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("detach_centroids", [True, False])
def test_one_class_has_no_loss_and_no_gradient(backend, detach_centroids):
    z, _ = random_rows(10)
    z.requires_grad_()
    loss = varcon_loss(z, torch.full((10,), 4), 6, backend=backend, detach_centroids=detach_centroids)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-14) and z.grad.abs().max() < 1e-14


@pytest.mark.parametrize("backend", BACKENDS)
def test_absent_classes_play_no_part(backend):
    z, labels = random_rows(classes=5)
    sparse = torch.tensor([3, 700, 41, 999, 0])[labels]
    dense, wide = z.clone().requires_grad_(), z.clone().requires_grad_()
    one, other = varcon_loss(dense, labels, 5, backend=backend), varcon_loss(wide, sparse, 1000, backend=backend)
    one.backward(), other.backward()
    assert one.item() == pytest.approx(other.item(), abs=1e-13) and torch.allclose(dense.grad, wide.grad, atol=1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rows", [0, 4])
def test_nothing_to_learn_from(backend, rows):
    """No rows, or only ignored ones: 0, and a gradient that exists."""
    z = torch.randn(rows, 5, requires_grad=True)
    loss = varcon_loss(z, torch.full((rows,), -1), 3, backend=backend)
    loss.backward()
    assert loss.item() == 0 and (z.grad == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_opposite_rows_cancel_to_a_zero_centroid(backend):
    """Its logits are 0, as with torch's normalize."""
    z = torch.tensor([[1.0, 0], [-1, 0], [0, 1]], dtype=torch.float64, requires_grad=True)
    loss = varcon_loss(z, torch.tensor([0, 0, 1]), 2, backend=backend)
    loss.backward()
    assert loss.isfinite() and z.grad.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("collapsed", [False, True])
@pytest.mark.parametrize(("tau1", "eps"), [(0.005, 0.0), (0.01, 0.005), (0.1, 0.095)])
def test_small_temperatures_stay_finite_in_float32(backend, collapsed, tau1, eps):
    """The reference code is NaN here: exp(1 / tau2) overflows below 0.0113: docs/maths/varcon.md#small-temperatures."""
    results = []
    for dtype in (torch.float32, torch.float64):
        z, labels = random_rows(collapsed=collapsed, dtype=torch.float32)
        z = z.to(dtype).requires_grad_()
        loss = varcon_loss(z, labels, 6, tau1=tau1, eps=eps, backend=backend)
        loss.backward()
        assert loss.isfinite() and z.grad.isfinite().all()
        results.append(loss.item())
    assert results[0] == pytest.approx(results[1], rel=1e-4, abs=1e-5)


def test_value_of_a_small_temperature_in_float32():
    """tau1 = .01, eps = .005: the float32 value must be that of float64: docs/maths/varcon.md#small-temperatures."""
    z, labels = random_rows(64, 8, 10, dtype=torch.float32)
    exact = varcon_loss(z.double(), labels, 10, tau1=0.01, eps=0.005).item()
    assert varcon_loss(z, labels, 10, tau1=0.01, eps=0.005).item() == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_also_under_autocast(dtype):
    z, labels = random_rows(dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = varcon_loss(z, labels, 6)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(varcon_loss(z.double(), labels, 6).item(), rel=1e-5)


@pytest.mark.parametrize(("tau1", "eps"), [(0.02, 0.02), (0.02, 0.03), (0.0, 0.0), (0.1, -0.01)])
def test_temperatures_that_cannot_be(tau1, eps):
    z, labels = random_rows()
    with pytest.raises(ValueError, match="tau1"):
        varcon_loss(z, labels, 6, tau1=tau1, eps=eps)
    with pytest.raises(ValueError, match="tau1"):
        VarConLoss(6, tau1, eps)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.full((40,), 6)}, "label 6 is outside the 6 classes"),
        ({"labels": torch.zeros(3).long()}, r"\[40\] integers"),
        ({"labels": torch.zeros(40)}, "integers"),
        ({"z": torch.zeros(40, 2, 2)}, "z must be"),
        ({"z": torch.zeros(40, 2).long()}, "z must be"),
        ({"backend": "cuda"}, "reference"),
        ({"reduction": "avg"}, "mean, sum, none"),
        ({"num_classes": 0}, "num_classes"),
    ],
)
def test_arguments_that_cannot_be(change, message):
    z, labels = random_rows()
    with pytest.raises(ValueError, match=message):
        varcon_loss(**{"z": z, "labels": labels, "num_classes": 6, **change})


def test_reductions():
    z, labels = random_rows(10)
    labels[0] = -1
    rows = varcon_loss(z, labels, 6, reduction="none")
    assert rows.shape == (10,) and rows[0] == 0
    assert varcon_loss(z, labels, 6, reduction="sum").item() == pytest.approx(rows.sum().item())
    assert varcon_loss(z, labels, 6).item() == pytest.approx(rows.sum().item() / 9)


@given(seed=st.integers(0, 10_000), classes=st.integers(2, 8), tau1=st.floats(0.03, 1), share=st.floats(0, 0.9))
@settings(max_examples=40, deadline=None)
def test_properties(seed, classes, tau1, share):
    """KL >= 0, tau2 in its bounds, no effect of the order of rows or the names of classes, no adaptation at eps = 0."""
    z, labels = random_rows(24, 5, classes, seed=seed)
    eps = share * tau1
    stats, loss = (
        varcon_stats(z, labels, classes, tau1=tau1, eps=eps),
        varcon_loss(z, labels, classes, tau1=tau1, eps=eps),
    )
    assert stats.kl.min() > -1e-12 and torch.allclose((stats.kl + stats.nll).mean(), loss)
    assert stats.tau2.min() >= tau1 - eps - 1e-12 and stats.tau2.max() <= tau1 + eps + 1e-12
    order, names = torch.randperm(24), torch.randperm(classes)
    assert varcon_loss(z[order], labels[order], classes, tau1=tau1, eps=eps).item() == pytest.approx(
        loss.item(), rel=1e-9, abs=1e-12
    )
    assert varcon_loss(z, names[labels], classes, tau1=tau1, eps=eps).item() == pytest.approx(
        loss.item(), rel=1e-9, abs=1e-12
    )
    assert torch.allclose(varcon_stats(z, labels, classes, tau1=tau1, eps=0).tau2, torch.tensor(tau1, dtype=z.dtype))


def test_detached_gradient_is_twice_cross_entropy_towards_the_soft_target():
    """dL/ds = 2p - q - onehot with q detached, here through autograd of torch's cross_entropy.

    docs/maths/varcon.md#twice-a-smoothed-cross-entropy
    """
    z, labels = random_rows()
    centroids = F.normalize(torch.zeros(6, 7, dtype=z.dtype).index_add(0, labels, z), dim=1)
    ours, theirs = z.clone().requires_grad_(), z.clone().requires_grad_()
    varcon_loss(ours, labels, 6, detach_target=True).backward()
    tau2 = varcon_stats(z, labels, 6).tau2
    onehot = F.one_hot(labels, 6).double()
    target = (torch.softmax(onehot / tau2[:, None], 1) + onehot) / 2
    (2 * F.cross_entropy(theirs @ centroids.T / 0.1, target)).backward()
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-14)


def test_module_and_registry():
    from fastvarcon.config import LossConfig

    z, labels = random_rows()
    module = build_loss(LossConfig(tau1=0.2, eps=0.05, detach_target=True), 6)
    expected = varcon_loss(z, labels, 6, tau1=0.2, eps=0.05, detach_target=True)
    loss, stats = module.with_stats(z, labels)
    assert module(z, labels) == expected == loss and set(stats) == {"tau2", "confidence", "kl", "nll", "hit"}


def test_nearest_centroid_hit():
    z = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0.95, 0.312]], dtype=torch.float64)
    for backend in BACKENDS:
        assert varcon_stats(z, torch.tensor([0, 0, 1, 1]), 2, backend=backend).hit.tolist() == [1, 1, 1, 0]


@pytest.mark.gpu
@pytest.mark.parametrize("collapsed", [False, True])
def test_gpu_equals_cpu_without_waiting_for_the_device(collapsed):
    z, labels = random_rows(512, 64, 20, collapsed=collapsed)
    exact = z.clone().requires_grad_()
    expected = varcon_loss(exact, labels, 20)
    expected.backward()
    on_gpu, labels = z.float().cuda().requires_grad_(), labels.cuda()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = varcon_loss(on_gpu, labels, 20)
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert (on_gpu.grad.cpu() - exact.grad).norm() <= 1e-4 * exact.grad.norm()
